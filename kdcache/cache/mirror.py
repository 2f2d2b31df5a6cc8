"""A cache that lies elsewhere, and what was read of it, in a file of its size here whose holes are what was not.

    ~/.cache/kdcache/remote/HASH/logits.h5     HASH: of the address, and of the version of the file that is there

It gets its name once it has HDF5's structures and all that is under the seal or says which blocks are done. Blocks
follow when they are first read. None is written whose CRC is wrong, and each is checked again by every process that
reads it: so its CRC tells whether a block is there, and a mirror that was damaged is filled in again.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from kdcache.cache.hdf5 import Place, structure_by
from kdcache.cache.layout import require_file, sealed
from kdcache.cache.meta import REMEDY
from kdcache.checks import own_folder, short
from kdcache.durable import alone_in, clear_leftovers, name_it, private_file, refused, write
from kdcache.errors import CacheError
from kdcache.ranges import FAILURES, Elsewhere, opened

PAGE = 1 << 16  # bytes: what is asked for at a time while a file is opened
NEAR = 1 << 18  # bytes between two blocks that are not worth a request of their own
MOST = 1 << 23  # bytes of a request
Found = TypeVar("Found")


class Mirror:
    """What is here of a remote cache; whoever lacks a block has it fetched."""

    def __init__(self, url: str, folder: str | os.PathLike | None = None):
        self.url, self.remote = url, opened(url)
        version = self.remote.require_version(self.remote.look())
        self.size = version.size
        if not self.size:
            raise CacheError(url, "an HDF5 file", "an empty file", "check the address")
        key = sha256(f"{url}\n{self.size}\n{version.stamp}".encode()).hexdigest()[:16]
        name = (
            re.sub(r"[^\w.+-]", "_", PurePosixPath(unquote(urlsplit(url).path)).name)[-100:].lstrip(".") or "cache.h5"
        )
        root = Path(folder or os.environ.get("KDCACHE_MIRROR") or own_folder() / "remote")
        self.path = root.absolute() / key / name  # the program may go to another folder

    def opened(self, read: Callable[[Path], Found]) -> Found:
        """What `read` finds in the mirror, which is begun where there is none, and anew where it was damaged."""
        there = self.path.exists()
        try:
            if there:
                return read(self.path)
        except CacheError:
            self.path.unlink(missing_ok=True)
        try:
            self.begin()
            return read(self.path)
        except CacheError as error:
            raise self.named(error, self.path) from None

    def begin(self) -> None:
        """Makes the mirror, unless another process was faster."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            clear_leftovers(self.path)
            with alone_in(self.path.parent), private_file(self.path) as (private, descriptor):
                if not self.path.exists():
                    self.fill(private, descriptor)
                    name_it(private, self.path)
        except OSError as error:
            raise self.unwritable(error) from None

    def fill(self, path: Path, descriptor: int) -> None:
        """Fetches all that is read when a cache is opened; from a server without ranges, the whole file."""
        os.ftruncate(descriptor, self.size)
        pages = Pages(self.remote, descriptor, self.size)
        try:
            pages.bring(0, 48 if self.remote.ranges else self.size)
            require_file(path)
            places = structure_of(path, pages)
            needed = {*sealed(places), "seal"}
            for name, place in places.items():
                if name in needed or name.startswith("blocks/"):
                    pages.bring(place.offset, place.nbytes)
        except CacheError as error:
            raise self.named(error, path) from None
        os.fsync(descriptor)

    def named(self, error: CacheError, path: Path) -> CacheError:
        """An error of the file here as one of the file there."""
        return CacheError(error.place.replace(str(path), self.url), error.expected, error.found, error.remedy)

    def unwritable(self, error: OSError) -> CacheError:
        found, remedy = refused(self.path, error), "set KDCACHE_MIRROR to a folder with room, or give `folder`"
        return CacheError(found.place, found.expected, found.found, remedy)

    def fetch(self, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Each of these spans (offset and length) and its bytes; near ones are asked for together."""
        for group in together(sorted(spans), MOST):
            first, last = group[0][0], sum(group[-1])
            data = self.remote.read(first, last - first)
            for offset, length in group:
                yield (offset, length), data[offset - first : offset - first + length]

    def keep(self, offset: int, data: bytes, inode: object) -> None:
        """Writes a block into the file that is being read, and into no other one."""
        try:
            with open(self.path, "r+b") as file:
                stat = os.fstat(file.fileno())
                if (stat.st_dev, stat.st_ino) != inode:
                    raise CacheError(self.path, "the mirror that was opened", "another one", "open it again")
                write(file.fileno(), data, offset)
        except OSError as error:
            raise self.unwritable(error) from None

    def require_unchanged(self) -> None:
        """Refuses a file that was replaced since it was opened; what is here is read on while nobody answers."""
        try:
            found = self.remote.state()
        except FAILURES as error:
            if isinstance(error, HTTPError):
                error.close()
            return
        self.remote.require_version(found)


class Pages:
    """The pages that a mirror has while it is begun."""

    def __init__(self, remote: Elsewhere, descriptor: int, size: int):
        self.remote, self.descriptor, self.size = remote, descriptor, size
        self.have: set[int] = set()

    def read(self, offset: int, length: int) -> bytes:
        self.bring(offset, length)
        return os.pread(self.descriptor, length, offset)

    def bring(self, offset: int, length: int) -> None:
        """Fetches what is missing of these bytes, in whole pages."""
        wanted = range(offset // PAGE, -(-min(offset + length, self.size) // PAGE))
        missing = [(page * PAGE, min(PAGE, self.size - page * PAGE)) for page in wanted if page not in self.have]
        for group in together(missing):
            place = group[0][0]
            for part in self.remote.stream(place, sum(group[-1]) - place):
                write(self.descriptor, part, place)
                place += len(part)
        self.have.update(wanted)


def structure_of(path: Path, pages: Pages) -> dict[str, Place]:
    """Where the datasets of a file lie whose pages are brought as they are asked for."""
    try:
        return structure_by(pages.read, pages.size).places
    except (CacheError, OSError):
        raise
    except Exception as error:  # as in `read_layout`
        raise CacheError(path, "a whole cache file", short(error, 160) or type(error).__name__, REMEDY) from None


def together(spans: Sequence[tuple[int, int]], most: float = math.inf) -> Iterator[list[tuple[int, int]]]:
    """Growing spans, those in one list that one request brings."""
    group: list[tuple[int, int]] = []
    for offset, length in spans:
        if group and (offset - sum(group[-1]) > NEAR or offset + length - group[0][0] > most):
            yield group
            group = []
        group.append((offset, length))
    if group:
        yield group
