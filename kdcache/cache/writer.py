"""Creating a cache file at its full size, and filling it so that it survives a kill at any moment."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import torch

from kdcache.cache.layout import ALIGNMENT, DONE, Layout, filled_datasets, part_of, read_layout, sealed_crc
from kdcache.errors import CacheError

SYNC_SECONDS = 5.0


def create(path: Path, meta: dict, fixed: Mapping[str, np.ndarray]) -> None:
    """Makes X.part at its full size, or none at all. `fixed` are the datasets that are known already."""
    part = part_of(path)
    shapes, _ = filled_datasets(meta, path)
    words = {f"blocks/{n}": (np.dtype("<u8"), blocks_shape(s, meta["block_rows"])) for n, (_, s) in shapes.items()}
    text = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), dtype=np.uint8)
    fixed = {"meta": text, "seal": np.zeros(1, "<u4")} | dict(fixed)
    check_space(path, sum(bytes_of(*s) for s in shapes.values()) + sum(a.nbytes for a in fixed.values()))
    private = part.with_name(f"{part.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        clear_leftovers(part)
        with contextlib.suppress(FileNotFoundError):
            private.unlink()  # of an earlier attempt in this very process
        # version 2 of HDF5's own structures carries checksums and any tool since 1.8 reads it
        with h5py.File(
            private, "x", libver=("v108", "v108"), alignment_threshold=1, alignment_interval=ALIGNMENT
        ) as file:
            for name, (dtype, shape) in sorted((shapes | words).items()):
                allocate(file, name, dtype, shape)
            for name, array in sorted(fixed.items()):
                allocate(file, name, array.dtype, array.shape)
                file[name][...] = array
        with open(private, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(private))
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first: its file serves as well
            os.link(private, part)
        sync_folder(part)
    except OSError as error:
        raise refused(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            private.unlink()


def blocks_shape(shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return (*shape[:-1], -(-shape[-1] // rows))


def bytes_of(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(shape, dtype=np.int64))


def allocate(file: h5py.File, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """A contiguous dataset whose place in the file is fixed now; nothing is written to it."""
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_layout(h5py.h5d.CONTIGUOUS)
    created.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    created.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), created, links)


def check_space(path: Path, need: int) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise CacheError(path, "an existing folder", f"no {folder}", "make it, or choose another -o")
    free = shutil.disk_usage(folder).free
    if need > free:
        remedy = "free some, choose another -o, fewer --views or a smaller --codec"
        raise CacheError(path, f"{need / 1e6:.1f} MB of free space", f"{free / 1e6:.1f} MB", remedy)


def clear_leftovers(part: Path) -> None:
    """Removes private files of creations on this machine that were killed."""
    mine = f"{part.name}.{socket.gethostname()}-"
    for leftover in part.parent.glob(f"{part.name}.*-*"):
        pid = leftover.name.removeprefix(mine)
        if leftover.name.startswith(mine) and pid.isdecimal() and not alive(int(pid)):
            leftover.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def sync_folder(path: Path) -> None:
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def refused(path: Path, error: OSError) -> CacheError:
    """What the file system said, as one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CacheError(path, "room for the whole file", error.strerror, "free some space or choose another -o")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CacheError(path, "permission to write there", error.strerror, "choose another -o")
    return CacheError(path, "to write the file", str(error), "see the message; what was done before is kept")


class Writer:
    """Fills the blocks of an X.part.

    Order: records, then fsync now and then, then the words that mark them done; so a word never speaks of
    bytes that are not on disk.
    """

    def __init__(self, path: Path):
        self.path, self.part = path, part_of(path)
        try:
            self.file = open(self.part, "r+b")  # noqa: SIM115 - held while the dump runs
        except OSError as error:
            raise refused(self.part, error) from None
        self.layout: Layout = read_layout(self.part)
        self.waiting: list[tuple[int, int]] = []  # (offset, word) of blocks written but not yet synced
        self.synced = time.monotonic()

    def done(self, dataset: str) -> np.ndarray:
        """Which blocks are on disk: bool [V, NB]."""
        words = np.frombuffer(self._read(f"blocks/{dataset}"), dtype="<u8").reshape(self.layout.blocks(dataset))
        return words >> np.uint64(32) == DONE >> 32

    def constants(self) -> dict[str, torch.Tensor]:
        """What the method made of the teacher when the file was begun."""
        found = {}
        for name, place in self.layout.places.items():
            if name.startswith("constants/"):
                array = np.frombuffer(bytearray(self._read(name)), place.dtype).reshape(place.shape)
                found[name.removeprefix("constants/")] = torch.from_numpy(array)
        return found

    def put(self, dataset: str, view: int, block: int, data) -> None:
        """Writes one block of records."""
        offset, length, _ = self.layout.span(dataset, view, block)
        data = memoryview(np.ascontiguousarray(data)).cast("B")
        assert len(data) == length, (dataset, len(data), length)
        self._write(data, offset)
        self.waiting.append((self.layout.word_offset(dataset, view, block), DONE | zlib.crc32(data)))

    def sync(self, always: bool = False) -> None:
        """Makes what was put last, and says so in the file."""
        if not always and time.monotonic() - self.synced < SYNC_SECONDS:
            return
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise refused(self.path, error) from None
        for offset, word in self.waiting:
            self._write(word.to_bytes(8, "little"), offset)
        self.waiting.clear()
        self.synced = time.monotonic()

    def finish(self) -> None:
        """Seals the file and gives it its final name, once every block is done."""
        self.sync(always=True)
        missing = {name: int((~self.done(name)).sum()) for name in self.layout.filled()}
        assert not any(missing.values()), missing
        seal = sealed_crc(self.layout, self.file).to_bytes(4, "little")
        self._write(seal, self.layout.places["seal"].offset)
        try:
            os.fsync(self.file.fileno())
            os.rename(self.part, self.path)
            sync_folder(self.path)
        except OSError as error:
            raise refused(self.path, error) from None
        self.close()

    def close(self) -> None:
        self.file.close()

    def _read(self, dataset: str) -> bytes:
        place = self.layout.places[dataset]
        return os.pread(self.file.fileno(), place.nbytes, place.offset)

    def _write(self, data, offset: int) -> None:
        data = memoryview(data)
        try:
            while data:
                written = os.pwrite(self.file.fileno(), data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise refused(self.path, error) from None


def blocks_done(layout: Layout) -> tuple[int, int]:
    """How many blocks of all datasets are done, and how many there are."""
    done = total = 0
    with open(layout.path, "rb") as file:
        for name in layout.filled():
            place = layout.places[f"blocks/{name}"]
            words = np.frombuffer(os.pread(file.fileno(), place.nbytes, place.offset), dtype="<u8")
            done, total = done + int((words >> np.uint64(32) == DONE >> 32).sum()), total + words.size
    return done, total
