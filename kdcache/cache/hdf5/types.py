"""HDF5's datatype message and NumPy's dtype: whole numbers, floats, truth values, opaque bytes, arrays, compounds."""

from __future__ import annotations

import math
import struct

import numpy as np

OPAQUE, COMPOUND, ARRAY = 5, 6, 10
NESTED = 4  # a compound of arrays of numbers has 3


class Unknown(ValueError):
    """What these files do not use, in a few words."""


def encode(dtype: np.dtype) -> bytes:
    """A datatype message."""
    if dtype.subdtype:
        base, shape = dtype.subdtype
        return head(ARRAY, dtype.itemsize) + struct.pack(f"<B{len(shape)}I", len(shape), *shape) + encode(base)
    if dtype.names and dtype.fields:
        width = offset_width(dtype.itemsize)
        members = [
            name.encode() + b"\0" + dtype.fields[name][1].to_bytes(width, "little") + encode(dtype.fields[name][0])
            for name in dtype.names
        ]
        return head(COMPOUND, dtype.itemsize, len(members)) + b"".join(members)
    if dtype.kind == "V":
        return head(OPAQUE, dtype.itemsize, version=1)
    return next(code for code, known in ATOMS.items() if known == dtype)


def decode(data: bytes, depth: int = NESTED) -> tuple[np.dtype, int]:
    """The dtype that a message begins with, and its length."""
    if not depth or len(data) < 8:
        raise Unknown("a data type that is cut off or nested too deeply")
    for length in ATOM_LENGTHS:
        if data[:length] in ATOMS:
            return ATOMS[data[:length]], length
    kind, size = data[0], int.from_bytes(data[4:8], "little")
    if data[:4] == head(OPAQUE, 0, version=1)[:4] and size:
        return np.dtype(f"V{size}"), 8
    if data[:4] == head(ARRAY, 0)[:4]:
        dtype, length = array(data, depth)
    elif kind == head(COMPOUND, 0)[0] and data[3] == 0:
        dtype, length = compound(data, size, depth)
    else:
        raise Unknown(f"a data type of class {kind & 15}, version {kind >> 4}")
    if dtype.itemsize != size or not size:
        raise Unknown(f"a data type of {size} bytes that takes {dtype.itemsize}")
    return dtype, length


def array(data: bytes, depth: int) -> tuple[np.dtype, int]:
    rank = data[8] if len(data) > 8 else 0
    start = 9 + 4 * rank
    if not rank or len(data) < start:
        raise Unknown("an array type without a shape")
    shape = struct.unpack_from(f"<{rank}I", data, 9)
    base, length = decode(data[start:], depth - 1)
    if not 0 < base.itemsize * math.prod(shape) < 1 << 31:
        raise Unknown(f"records of shape {list(shape)}")
    return np.dtype((base, shape)), start + length


def compound(data: bytes, size: int, depth: int) -> tuple[np.dtype, int]:
    width, place = offset_width(size), 8
    names, kinds, offsets = [], [], []
    for _ in range(int.from_bytes(data[1:3], "little")):
        end = data.find(b"\0", place)
        if end <= place:
            raise Unknown("a compound type without names")
        names.append(data[place:end].decode())
        offsets.append(int.from_bytes(data[end + 1 : end + 1 + width], "little"))
        kind, length = decode(data[end + 1 + width :], depth - 1)
        kinds.append(kind)
        place = end + 1 + width + length
    spans = sorted((offset, offset + kind.itemsize) for offset, kind in zip(offsets, kinds, strict=True))
    if not spans or any(one[1] > other[0] for one, other in zip(spans, [*spans[1:], (size, size)], strict=True)):
        raise Unknown("a compound type whose fields overlap")
    return np.dtype({"names": names, "formats": kinds, "offsets": offsets, "itemsize": size}), place


def head(kind: int, size: int, bits: int = 0, version: int = 3) -> bytes:
    return bytes([version << 4 | kind]) + bits.to_bytes(3, "little") + size.to_bytes(4, "little")


def offset_width(size: int) -> int:
    """In how many bytes a compound of that size says where a field begins."""
    return max(1, -(-size.bit_length() // 8))


def whole(dtype: np.dtype) -> bytes:
    bits = (dtype.str[0] == ">") | (dtype.kind == "i") << 3
    return head(0, dtype.itemsize, bits, 1) + struct.pack("<HH", 0, 8 * dtype.itemsize)


def floating(dtype: np.dtype) -> bytes:
    size, fraction = 8 * dtype.itemsize, np.finfo(dtype).nmant
    bits = (dtype.str[0] == ">") | 0x20 | (size - 1) << 8  # a leading 1 that is implied, and where the sign is
    exponent = size - 1 - fraction
    places = struct.pack("<HHBBBBI", 0, size, fraction, exponent, 0, fraction, (1 << exponent - 1) - 1)
    return head(1, dtype.itemsize, bits, 1) + places


NUMBERS = [np.dtype(order + kind) for order in "<>" for kind in ("u2", "u4", "u8", "i2", "i4", "i8")]
NUMBERS += [np.dtype("u1"), np.dtype("i1")]
FLOATS = [np.dtype(order + kind) for order in "<>" for kind in ("f2", "f4", "f8")]
ATOMS = {whole(dtype): dtype for dtype in NUMBERS} | {floating(dtype): dtype for dtype in FLOATS}
ATOMS[head(8, 1, 2) + whole(np.dtype("i1")) + b"FALSE\0TRUE\0\0\1"] = np.dtype("?")  # as h5py writes them
ATOM_LENGTHS = sorted({len(code) for code in ATOMS})
