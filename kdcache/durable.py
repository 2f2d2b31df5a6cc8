"""Large files that are begun as X.part, filled, and then named X: a kill leaves either none or one that goes on.

Bytes, now and then an fsync, then the words that mark them done: no word is written before its bytes are on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from kdcache.checks import sync_folder
from kdcache.errors import CacheError

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # what file systems without hard links say
PATIENCE = 10.0
SYNC_SECONDS = 5.0
COMPARED = 1 << 26  # bytes that are read at a time to compare them with what was written


def part_of(path: Path) -> Path:
    """Where a file lies until it is whole."""
    return path.with_name(path.name + ".part")


class Words:
    """Marks what was written into a file as done, once it is on the disk."""

    def __init__(self, file, path: Path):
        self.file, self.path = file, path
        self.waiting: list[tuple[int, int]] = []  # (offset, word) of what is written but not yet synced
        self.synced = time.monotonic()

    def put(self, offset: int, word: int) -> None:
        self.waiting.append((offset, word))

    def sync(self, always: bool = False) -> None:
        """Flushes to the disk what was written, then marks it; every SYNC_SECONDS, or always."""
        if not always and time.monotonic() - self.synced < SYNC_SECONDS:
            return
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            self.waiting.clear()  # nobody knows what became of it, and the next fsync would not say
            raise refused(self.path, error) from None
        try:
            for offset, word in self.waiting:
                write(self.file.fileno(), word.to_bytes(8, "little"), offset)
        except OSError as error:
            raise refused(self.path, error) from None
        self.waiting.clear()
        self.synced = time.monotonic()


def require_name(part: Path, file) -> None:
    """Refuses to go on where somebody has put another file in the place of the one that is being filled."""
    if not part.exists() or not os.path.samestat(os.stat(part), os.fstat(file.fileno())):
        found = "another one under its name" if part.exists() else "none"
        raise CacheError(part, "the file that was opened", found, "run it again")


def publish(file, part: Path, path: Path) -> None:
    """Gives a file that is whole its final name."""
    os.fsync(file.fileno())
    require_name(part, file)
    os.rename(part, path)
    sync_folder(path)
    clear_leftovers(part)


def fill_in(descriptor: int, pieces: Mapping[int, bytes | memoryview]) -> None:
    """Writes what is known, by its offset, and reads it again: a file that gets a name holds all of it."""
    for offset, data in pieces.items():
        write(descriptor, data, offset)
    os.fsync(descriptor)
    for offset, data in pieces.items():
        for start in range(0, len(data), COMPARED):
            part = data[start : start + COMPARED]
            if read(descriptor, len(part), offset + start) != part:
                raise OSError(errno.EIO, os.strerror(errno.EIO))


def write(descriptor: int, data, offset: int) -> None:
    """All of it, however little the system takes at a time."""
    data = memoryview(data)
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def read(descriptor: int, length: int, offset: int) -> bytes:
    """All of it, which Linux gives in calls of 2 GB at most; less where the file ends."""
    parts = [os.pread(descriptor, length, offset)]
    while parts[-1] and (missing := length - sum(map(len, parts))):
        parts.append(os.pread(descriptor, missing, offset + length - missing))
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextlib.contextmanager
def private_file(part: Path) -> Iterator[tuple[Path, int]]:
    """A new file under a name of its own, which is gone afterwards."""
    private = part.with_name(f"{part.name}.{secrets.token_hex(8)}")
    descriptor = os.open(private, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        took_lock(descriptor)  # so that others see that somebody is at work
        yield private, descriptor
    finally:
        os.close(descriptor)
        private.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Locks a folder, waiting PATIENCE seconds for others; gives whether it has the lock.

    Files are created under this lock: whoever has it knows that private files were left by processes that were killed.
    """
    descriptor, alone, until = os.open(folder, os.O_RDONLY), False, time.monotonic() + PATIENCE
    try:
        while not alone and time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without such locks: then nobody clears anything
                break
        yield alone
    finally:
        os.close(descriptor)


def clear_leftovers(part: Path) -> None:
    """Removes the private files of creations that were killed."""
    with alone_in(part.absolute().parent) as alone:
        for entry in part.absolute().parent.iterdir() if alone else ():
            if re.fullmatch(re.escape(part.name) + r"\.[0-9a-f]{16}", entry.name) and not is_in_use(entry):
                entry.unlink(missing_ok=True)


def is_in_use(private: Path) -> bool:
    """Whether the process that makes it is there: one that waited too long for the folder goes on without its lock."""
    try:
        with open(private, "rb") as file:
            return not took_lock(file.fileno())
    except OSError:
        return False


def took_lock(descriptor: int) -> bool:
    """Takes the lock of a file, if nobody else has it; a file system without locks gives it to everybody."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def reserve(descriptor: int, size: int, offset: int = 0) -> None:
    """Takes the space on the disk now, where the system can; elsewhere it was only checked that there is enough."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, size)


def name_it(private: Path, part: Path) -> None:
    """Gives a file its public name, unless another process has already made one of the same content there."""
    try:
        os.link(private, part)
    except FileExistsError:
        if not part.exists():  # a link that leads nowhere
            raise
    except OSError as error:
        if error.errno not in NO_LINKS or part.exists():
            raise
        os.rename(private, part)


def require_room(path: Path, need: int = 0, smaller: str = "take fewer `views` or a smaller `codec`") -> None:
    """Refuses a folder that is missing, read-only or too full for so many bytes."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise CacheError(path, "an existing folder", f"no {folder}", "make it, or name a file elsewhere with `out`")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CacheError(path, "permission to write there", f"a read-only {folder}", "name a file elsewhere with `out`")
    free = shutil.disk_usage(folder).free
    if need > free:
        remedy = f"free some, name a file elsewhere with `out`, or {smaller}"
        raise CacheError(path, f"{need / 1e6:.1f} MB of free space", f"{free / 1e6:.1f} MB", remedy)


def refused(path: Path, error: OSError) -> CacheError:
    """An error of the file system as an error of ours."""
    number = error.errno
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CacheError(
            path, "room for the whole file", os.strerror(number), "free some space, or name a file elsewhere with `out`"
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CacheError(path, "permission to write there", os.strerror(number), "name a file elsewhere with `out`")
    found = os.strerror(number) if number else str(error)
    return CacheError(path, "to write the file", found, "repair that and run it again; what was written is kept")
