"""The structures of a new file, laid out in front of its data."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from kdcache.cache.hdf5.checksum import checksum
from kdcache.cache.hdf5.reading import LAYOUT, LINK, LINK_INFO, SIGNATURE, SPACE, SUPERBLOCK, TYPE, Place
from kdcache.cache.hdf5.structures import NOWHERE
from kdcache.cache.hdf5.types import encode

FILL, GROUP_INFO = 5, 10
NO_FILL = bytes([3, 1 | 1 << 2])  # allocated at creation, never filled by HDF5
COMPACT = struct.pack("<BBHH", 0, 1, 0xFFFF, 0)  # links stay in the group's header, however many there are
ALIGNMENT = 4096

Shapes = Mapping[str, tuple[np.dtype, tuple[int, ...]]]


def lay_out(shapes: Shapes) -> tuple[bytes, dict[str, Place], int]:
    """What comes before the data of a file, where each dataset lies, and how long the file is."""
    children = tree(shapes)
    headers, end = {}, SUPERBLOCK
    for name, header in object_headers(shapes, children, dict.fromkeys(children, 0), {}).items():
        headers[name] = end
        end += len(header)
    places = {}
    for name, (dtype, shape) in sorted(shapes.items()):
        places[name] = Place(end + -end % ALIGNMENT, dtype, shape)
        end = places[name].span[1]
    structures = b"".join(object_headers(shapes, children, headers, places).values())
    return superblock(end, headers[""]) + structures, places, end


def tree(shapes: Shapes) -> dict[str, list[str]]:
    """The full names of what lies in every group, and nothing of every dataset; the root is the first, its name ''."""
    children: dict[str, list[str]] = {"": []}
    for name in sorted(shapes):
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            whole = "/".join(parts[:depth])
            if whole not in children:
                children[whole] = []
                children["/".join(parts[: depth - 1])].append(whole)
    return children


def object_headers(
    shapes: Shapes, children: Mapping[str, list[str]], headers: Mapping[str, int], places: Mapping[str, Place]
) -> dict[str, bytes]:
    """The object header of every group and dataset; its length does not depend on where anything lies."""
    found = {}
    for name, below in children.items():
        if name in shapes:
            dtype, shape = shapes[name]
            found[name] = dataset(places.get(name, Place(0, dtype, shape)))
        else:
            found[name] = group({child: headers[child] for child in below})
    return found


def superblock(end: int, root: int) -> bytes:
    return sealed(SIGNATURE + bytes([2, 8, 8, 0]) + struct.pack("<4Q", 0, NOWHERE, end, root))


def group(links: Mapping[str, int]) -> bytes:
    messages = [(LINK_INFO, struct.pack("<BBQQ", 0, 0, NOWHERE, NOWHERE)), (GROUP_INFO, COMPACT)]
    for name, header in links.items():
        text = name.rpartition("/")[2].encode()
        messages.append((LINK, struct.pack("<BBBH", 1, 0x11, 1, len(text)) + text + struct.pack("<Q", header)))
    return object_header(messages)


def dataset(place: Place) -> bytes:
    rank = len(place.shape)
    space = struct.pack(f"<4B{rank}Q", 2, rank, 0, int(rank > 0), *place.shape)
    layout = struct.pack("<BBQQ", 3, 1, place.offset, place.nbytes)
    return object_header([(SPACE, space), (TYPE, encode(place.dtype)), (FILL, NO_FILL), (LAYOUT, layout)])


def object_header(messages: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(struct.pack("<BHB", kind, len(data), 0) + data for kind, data in messages)
    return sealed(b"OHDR" + bytes([2, 2]) + struct.pack("<I", len(body)) + body)


def sealed(data: bytes) -> bytes:
    return data + checksum(data).to_bytes(4, "little")
