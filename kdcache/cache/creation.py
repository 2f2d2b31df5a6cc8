"""Creating a cache file at its full size, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from kdcache.cache.hdf5 import lay_out
from kdcache.cache.layout import Layout, filled_datasets, is_sealed, part_of, read_layout, word_of
from kdcache.cache.meta import to_bytes
from kdcache.checks import sync_folder
from kdcache.errors import CacheError

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # what file systems without hard links say
PATIENCE = 10.0


def create(path: Path, meta: dict, known: Mapping[str, np.ndarray]) -> None:
    """Makes X.part at its full size, or none at all. `known` are the datasets whose content is known already."""
    part = part_of(path)
    shapes, content = outline(meta, known)
    _, codecs = filled_datasets(meta, "/meta")
    require_room(path, bytes_of(meta, known))
    try:
        clear_leftovers(part)
        with alone_in(part.absolute().parent), private_file(part) as (private, descriptor):
            structures, places, size = lay_out(shapes)
            os.ftruncate(descriptor, size)
            for offset, length in room(Layout(private, meta, places, codecs), size):
                reserve(descriptor, length, offset)
            fill_in(descriptor, {0: structures} | {places[name].offset: of.tobytes() for name, of in content.items()})
            if read_layout(private).places != places:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if not path.exists():
                name_it(private, part)
        sync_folder(part)
    except OSError as error:
        raise refused(path, error) from None


def outline(meta: dict, known: Mapping[str, np.ndarray]) -> tuple[dict, dict[str, np.ndarray]]:
    """Type and shape of every dataset, and the content of those that have some from the beginning."""
    rows = meta["block_rows"]
    shapes, _ = filled_datasets(meta, "/meta")
    content = {"meta": to_bytes(meta)} | dict(known)
    content["seal"] = np.array([seal_of(content)], dtype="<u4")
    content |= {f"blocks/{name}": words_of(meta, name, known[name]) for name in shapes if name in known}
    words = {f"blocks/{name}": (np.dtype("<u8"), (*s[:-1], -(-s[-1] // rows))) for name, (_, s) in shapes.items()}
    return shapes | words | {name: (array.dtype, array.shape) for name, array in content.items()}, content


def seal_of(content: Mapping[str, np.ndarray]) -> int:
    """What `sealed_crc` has to find in the file."""
    crc = 0
    for name, array in sorted(content.items()):
        if is_sealed(name):
            crc = zlib.crc32(f"{name}:{array.dtype.str}:{array.shape}".encode(), crc)
            crc = zlib.crc32(array.tobytes(), crc)
    return crc


def bytes_of(meta: dict, known: Mapping[str, np.ndarray]) -> int:
    """What a file takes on disk, within a few pages; of a shard, its share."""
    shapes, content = outline(meta, known)
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in shapes.items()}
    shared = sum(size for name, size in sizes.items() if name not in content and not name.startswith("blocks/"))
    return sum(sizes.values()) - shared + -(-shared // meta.get("shard", {"of": 1})["of"])


def fill_in(descriptor: int, pieces: Mapping[int, bytes]) -> None:
    """Writes what is known, by its offset, and reads it again: a file that gets a name holds all of it."""
    for offset, data in pieces.items():
        write(descriptor, data, offset)
    os.fsync(descriptor)
    if any(os.pread(descriptor, len(data), offset) != data for offset, data in pieces.items()):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def write(descriptor: int, data, offset: int) -> None:
    """All of it, however little the system takes at a time."""
    data = memoryview(data)
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def room(layout: Layout, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what is reserved on the disk: a whole file, or of a shard's blocks only its own."""
    if "shard" not in layout.meta:
        yield 0, size
        return
    yield 0, min(place.offset for place in layout.places.values())
    filled = layout.filled()
    for name, place in layout.places.items():
        if name not in filled:
            yield place.offset, place.nbytes
            continue
        for view, block in np.argwhere(layout.share(name)).tolist():
            yield layout.span(name, view, block)[:2]


@contextlib.contextmanager
def private_file(part: Path) -> Iterator[tuple[Path, int]]:
    """A new file under a name of its own, which is gone afterwards."""
    private = part.with_name(f"{part.name}.{secrets.token_hex(8)}")
    descriptor = os.open(private, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
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
            if re.fullmatch(re.escape(part.name) + r"\.[0-9a-f]{16}", entry.name):
                entry.unlink(missing_ok=True)


def reserve(descriptor: int, size: int, offset: int = 0) -> None:
    """Takes the space on the disk now, where the system can; elsewhere it was only checked that there is enough."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, size)


def name_it(private: Path, part: Path) -> None:
    """Gives a file its public name, unless another process has already made one of the same content there."""
    try:
        os.link(private, part)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in NO_LINKS or part.exists():
            raise
        os.rename(private, part)


def words_of(meta: dict, name: str, array: np.ndarray) -> np.ndarray:
    """The words of a one-dimensional dataset that is done."""
    rows = meta["block_rows"]
    parts = [array[start : start + rows].tobytes() for start in range(0, len(array), rows)]
    return np.array([word_of(meta["version"], name, 0, block, part) for block, part in enumerate(parts)], dtype="<u8")


def require_room(path: Path, need: int = 0) -> None:
    """Refuses a folder that is missing, read-only or too full for so many bytes."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise CacheError(path, "an existing folder", f"no {folder}", "make it, or name a file elsewhere with `out`")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CacheError(path, "permission to write there", f"a read-only {folder}", "name a file elsewhere with `out`")
    free = shutil.disk_usage(folder).free
    if need > free:
        remedy = "free some, name a file elsewhere with `out`, or take fewer `views` or a smaller `codec`"
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
