"""The bytes of HDF5's structures: read with their checksums, so many and no more; and the links in them."""

from __future__ import annotations

import struct
from collections.abc import Callable

from kdcache.cache.hdf5.checksum import checksum
from kdcache.cache.hdf5.types import Unknown

NOWHERE = (1 << 64) - 1
STRUCTURES = 1 << 20  # bytes of them; a file of 1000 constants has 0.1 MB


class File:
    """Bytes of a file, so many and no more; `bytes_of(offset, length)` has them."""

    def __init__(self, bytes_of: Callable[[int, int], bytes], size: int):
        self.bytes_of, self.size = bytes_of, size
        self.spans: list[tuple[int, int]] = []
        self.left = STRUCTURES
        self.dense = False

    def read(self, offset: int, length: int) -> bytes:
        """A structure, or the beginning of one that is read again as a whole."""
        self.left -= length
        if self.left < 0:
            raise Unknown(f"more than {STRUCTURES} bytes of structures")
        if offset + length > self.size:
            raise Unknown(f"a structure that ends at byte {offset + length} of {self.size}")
        return self.bytes_of(offset, length)

    def checked(self, offset: int, length: int, signature: bytes) -> bytes:
        """A structure with its checksum, which is left out."""
        data = self.read(offset, length)
        self.spans.append((offset, offset + length))
        if data[: len(signature)] != signature or len(data) < len(signature) + 4:
            raise Unknown(f"no {signature[:4].decode(errors='replace')} where one should be")
        if checksum(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise Unknown(f"a wrong checksum of {signature[:4].decode(errors='replace')} at byte {offset}")
        return data[:-4]


def link(body: bytes) -> tuple[str, int, int]:
    """Name, object header and length of a link message; only a hard link is one."""
    version, flags = unpacked("<BB", body[:2])
    if version != 1 or flags & 8 or flags & 0xE0:
        raise Unknown("a link to elsewhere")
    place = 2 + 8 * bool(flags & 4) + bool(flags & 16)
    width = 1 << (flags & 3)
    length = int.from_bytes(body[place : place + width], "little")
    place += width
    name = body[place : place + length].decode()
    if len(body) < place + length + 8 or not name or name == "." or "/" in name or "\0" in name:
        raise Unknown("a link without a proper name")
    return name, int.from_bytes(body[place + length : place + length + 8], "little"), place + length + 8


def unpacked(form: str, data: bytes) -> tuple[int, ...]:
    if len(data) != struct.calcsize(form):
        raise Unknown("a message that is cut off")
    return struct.unpack(form, data)
