"""What is read of a file that anybody may have made: a regular one, of a bounded size.

A bound of images is an environment variable: KDCACHE_MAX_PIXELS=500000000 kdcache dump-logits ...
"""

from __future__ import annotations

import errno
import os
import stat

from kdcache.errors import UsageError

LIMITS = {
    "KDCACHE_MAX_PIXELS": (1 << 28) // 3,  # of one image: 256 MiB as RGB; Pillow warns from there on
    "KDCACHE_MAX_IMAGE_BYTES": 1 << 28,  # of its file
}
TEXT = 1 << 20  # bytes of a recipe or of a pipeline
TABLE = 1 << 26  # and of numbers as text
MOST_VIEWS = 10**6
MOST_SEEDS = 10**4  # trainings of each student of a recipe
MOST_SIDE = 4096  # of what a view renders


def limit(name: str) -> int:
    """A bound, as the environment has it or as it stands above."""
    text = os.environ.get(name)
    if text is None:
        return LIMITS[name]
    if not (text.isdecimal() and len(text) < 16 and int(text)):
        raise UsageError(name, "a whole number from 1", repr(text), "unset it for the default")
    return int(text)


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """The bytes of a file; an OSError of a device or a pipe, which may never end, and of too large a file."""
    with open(opened(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than the {most:,} that are read of it")
        return file.read()


def opened(path: str | os.PathLike) -> int:
    """A descriptor of a regular file, which is never waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "a device or a pipe, no regular file")


def require_regular(path: str | os.PathLike) -> None:
    """An OSError of anything else, before a library opens it by its name."""
    os.close(opened(path))


def read_text(path: str | os.PathLike, most: int = TEXT) -> str:
    """The same as UTF-8, with one kind of line end."""
    return read_bytes(path, most).decode().replace("\r\n", "\n")
