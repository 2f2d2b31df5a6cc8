"""Groups of more than 8 links as libhdf5 keeps them: link messages in a fractal heap.

Files of version 1 have such groups. Nothing was ever taken out of them, so the links lie in the heap's blocks one
after the other; the tree over the hashes of their names is not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kdcache.cache.hdf5.checksum import checksum
from kdcache.cache.hdf5.structures import NOWHERE, File, link
from kdcache.cache.hdf5.types import Unknown

# signature, version, lengths of an ID and of filters, flags, largest object, twelve counts, and the doubling table
HEADER = struct.Struct("<4sBHHBI12QHQQHHQH")
WIDTH, SMALLEST, LARGEST, BITS = 4, 512, 1 << 16, 32  # of a group's heap: blocks in a row, their sizes, its offsets
ROWS = 9  # of blocks that hold links themselves


def heap_links(file: File, offset: int) -> Iterator[tuple[str, int]]:
    """Name and object header of every link in a heap."""
    data = file.checked(offset, HEADER.size + 4, b"FRHP\0")
    _, _, _, filters, flags, _, *counts, width, smallest, largest, bits, _, root, rows = HEADER.unpack(data)
    managed, huge, tiny = counts[7], counts[9], counts[11]
    if filters or huge or tiny or not flags & 2 or (width, smallest, largest, bits) != (WIDTH, SMALLEST, LARGEST, BITS):
        raise Unknown("a dense group that kdcache does not write")
    every = [pair for block, size in blocks(file, root, rows) for pair in block_links(file, block, size)]
    if len(every) != managed:
        raise Unknown(f"{len(every)} links in a dense group of {managed}")
    yield from every


def blocks(file: File, root: int, rows: int) -> Iterator[tuple[int, int]]:
    """Place and size of the blocks that hold links; without rows the root is the only one."""
    if not rows:
        yield root, SMALLEST
        return
    if rows > ROWS:
        raise Unknown("a dense group of more links than a cache has")
    start = 13 + BITS // 8
    length = start + 8 * WIDTH * rows + 4
    data = file.checked(root, length, b"FHIB\0")
    for number, block in enumerate(struct.unpack(f"<{WIDTH * rows}Q", data[start:])):
        if block != NOWHERE:
            yield block, SMALLEST << max(0, number // WIDTH - 1)


def block_links(file: File, offset: int, size: int) -> Iterator[tuple[str, int]]:
    """What a block holds; behind the last link there are zeros."""
    data = file.read(offset, size)
    file.spans.append((offset, offset + size))
    start = 13 + BITS // 8
    blank = data[:start] + bytes(4) + data[start + 4 :]
    if data[:5] != b"FHDB\0" or checksum(blank) != int.from_bytes(data[start : start + 4], "little"):
        raise Unknown("a block of a dense group with a wrong checksum")
    rest = data[start + 4 :]
    while rest and rest[0]:
        name, target, length = link(rest)
        yield name, target
        rest = rest[length:]
    if rest.strip(b"\0"):
        raise Unknown("a dense group that something was taken out of")
