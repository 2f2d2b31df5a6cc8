"""Where the datasets of a file lie: its structures, each checked before it is believed.

Work and memory are bounded whatever a file says: so many bytes of structures, so many objects, each of them once.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kdcache.cache.hdf5.dense import heap_links
from kdcache.cache.hdf5.structures import NOWHERE, File, link, unpacked
from kdcache.cache.hdf5.types import Unknown, decode

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK = 48
DEPTH, OBJECTS = 4, 10_000  # no file of ours nests deeper or holds more
SPACE, LINK_INFO, TYPE, LAYOUT, LINK, CONTINUED = 1, 2, 3, 8, 6, 16
ONCE = {SPACE, LINK_INFO, TYPE, LAYOUT}
IGNORED = {0, 5, 10, 12, 13, 18, 21, 22}  # room, fill value, group info, attributes, comment, time, number of links


@dataclass(frozen=True)
class Place:
    """Where one dataset lies."""

    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def span(self) -> tuple[int, int]:
        return self.offset, self.offset + self.nbytes


@dataclass
class Structure:
    """What a file consists of."""

    places: dict[str, Place]
    spans: list[tuple[int, int]]  # the bytes that are HDF5's own
    known: bool = True  # whether these are all of them; not where a group is dense


def read_structure(descriptor: int) -> Structure:
    """The place of every dataset of an open file, by its name. Raises `Unknown`."""
    return structure_by(lambda offset, length: os.pread(descriptor, length, offset), os.fstat(descriptor).st_size)


def structure_by(bytes_of: Callable[[int, int], bytes], size: int) -> Structure:
    """The same of a file of that size, whose bytes somebody hands out: bytes_of(offset, length)."""
    file = File(bytes_of, size)
    places: dict[str, Place] = {}
    seen: set[int] = set()
    todo = [("", root_of(file), DEPTH)]
    while todo:
        name, offset, depth = todo.pop()
        if offset in seen or not depth or len(seen) >= OBJECTS:
            raise Unknown("more or deeper groups than a cache has, or an object of two names")
        seen.add(offset)
        found = header(file, offset)
        if LINK_INFO in found:
            todo += [(f"{name}/{link}".lstrip("/"), target, depth - 1) for link, target in links(file, found)]
        else:
            places[name] = dataset(file, name, found)
    require_apart(file, places)
    return Structure(places, file.spans, not file.dense)


def root_of(file: File) -> int:
    data = file.checked(0, SUPERBLOCK, SIGNATURE + bytes([2, 8, 8]))
    base, extension, end, root = struct.unpack("<4Q", data[12:])
    if base or extension != NOWHERE or end != file.size:
        raise Unknown("a superblock that kdcache does not write")
    return root


def header(file: File, offset: int) -> dict[int, list[bytes]]:
    """The messages of an object header, by their type; those that do not matter are left out."""
    start = file.read(offset, min(64, max(0, file.size - offset)))
    if start[:5] != b"OHDR\x02" or start[5] & 0xC0:
        raise Unknown("no object header of version 2 where one should be")
    flags, width = start[5], 1 << (start[5] & 3)
    first = 6 + 16 * bool(flags & 32) + 4 * bool(flags & 16)
    length = int.from_bytes(start[first : first + width], "little")
    data = file.checked(offset, first + width + length + 4, b"OHDR\x02")
    parts = [data[first + width :]]
    found: dict[int, list[bytes]] = {}
    for part in parts:
        for kind, body in messages(part, ordered=bool(flags & 4)):
            if kind in found and kind in ONCE:
                raise Unknown(f"a second message {kind}")
            found.setdefault(kind, []).append(body)
            if kind == CONTINUED:
                at, size = unpacked("<QQ", body)
                parts.append(file.checked(at, size, b"OCHK")[4:])
    return found


def messages(data: bytes, ordered: bool) -> Iterator[tuple[int, bytes]]:
    """(type, body) of what a header or its continuation holds."""
    place, head = 0, 6 if ordered else 4
    while place + head <= len(data):
        kind, length, flags = struct.unpack_from("<BHB", data, place)
        place += head
        if place + length > len(data):
            raise Unknown("a message that is cut off")
        if kind not in IGNORED:
            if kind not in (SPACE, LINK_INFO, TYPE, LAYOUT, LINK, CONTINUED) or flags & 2:
                raise Unknown(f"a {'shared ' if flags & 2 else ''}message {kind}")
            yield kind, data[place : place + length]
        place += length


def links(file: File, found: dict[int, list[bytes]]) -> Iterator[tuple[str, int]]:
    """Name and object header of what is in a group."""
    version, flags, *addresses = unpacked("<BB", found[LINK_INFO][0][:2])
    skipped = 10 if flags & 1 else 2
    heap, _ = unpacked("<QQ", found[LINK_INFO][0][skipped : skipped + 16])
    if version or addresses or set(found) - {LINK_INFO, LINK, CONTINUED}:
        raise Unknown("a group that kdcache does not write")
    names = set()
    every = [link(body)[:2] for body in found.get(LINK, [])]
    if heap != NOWHERE:
        file.dense = True
        every += heap_links(file, heap)
    for name, target in every:
        if name in names:
            raise Unknown("two links of one name")
        names.add(name)
        yield name, target


def dataset(file: File, name: str, found: dict[int, list[bytes]]) -> Place:
    if set(found) - {CONTINUED} != {SPACE, TYPE, LAYOUT}:
        raise Unknown(f"/{name} that is no contiguous dataset")
    dtype, _ = decode(found[TYPE][0])
    shape = dimensions(name, found[SPACE][0])
    version, kind = unpacked("<BB", found[LAYOUT][0][:2])
    if version not in (3, 4) or kind != 1:
        raise Unknown(f"/{name} that is chunked, compact or virtual")
    offset, length = unpacked("<QQ", found[LAYOUT][0][2:18])
    place = Place(offset, dtype, shape)
    if offset == NOWHERE or not length:
        raise Unknown(f"/{name} without data")
    if length != place.nbytes or offset + length > file.size:
        raise Unknown(f"/{name} of {place.nbytes} bytes: {length} from byte {offset} in a file of {file.size}")
    return place


def dimensions(name: str, body: bytes) -> tuple[int, ...]:
    version, rank, flags, kind = unpacked("<4B", body[:4])
    if version != 2 or rank > 32 or flags & ~1 or kind != bool(rank):
        raise Unknown(f"/{name} of a shape that kdcache does not write")
    shape = unpacked(f"<{rank}Q", body[4 : 4 + 8 * rank])
    if flags & 1 and unpacked(f"<{rank}Q", body[4 + 8 * rank : 4 + 16 * rank]) != shape:
        raise Unknown(f"/{name} that can grow")
    return shape


def require_apart(file: File, places: dict[str, Place]) -> None:
    """Refuses data that lie in one another or in a structure: what is filled in would change those."""
    end = 0
    for first, last in sorted([*file.spans, *(place.span for place in places.values())]):
        if first < end:
            raise Unknown(f"data and structures that overlap at byte {first}")
        end = last
