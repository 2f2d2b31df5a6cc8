"""Bounds for files that anybody may have made: only regular ones are read, and only up to a size.

Environment variables set the bounds of images: KDCACHE_MAX_PIXELS=500000000 kdcache dump-logits ...
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
    """A bound: from the environment variable of that name, else from LIMITS."""
    text = os.environ.get(name)
    if text is None:
        return LIMITS[name]
    if not (text.isdecimal() and len(text) < 16 and int(text)):
        raise UsageError(name, "a whole number from 1", repr(text), "unset it for the default")
    return int(text)


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """The bytes of a file; raises an OSError for a device or a pipe, which may never end, and for too large a file."""
    with open(opened(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than the {most:,} that are read of it")
        return file.read()


def opened(path: str | os.PathLike) -> int:
    """Opens a regular file for reading, and never waits as a pipe might; its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "a device or a pipe, no regular file")


def require_regular(path: str | os.PathLike) -> None:
    """Raises an OSError for anything but a regular file, before a library opens it by its name."""
    os.close(opened(path))


def read_text(path: str | os.PathLike, most: int = TEXT) -> str:
    """The text of a UTF-8 file, read as by `read_bytes`; every line ends in a plain newline."""
    return read_bytes(path, most).decode().replace("\r\n", "\n")
