"""The checksum of HDF5's structures: Bob Jenkins' lookup3."""

from __future__ import annotations

import struct

MASK = 0xFFFF_FFFF


def checksum(data: bytes) -> int:
    """lookup3 of some bytes, from 0."""
    a = b = c = (0xDEAD_BEEF + len(data)) & MASK
    if not data:
        return c
    words = struct.unpack(f"<{-(-len(data) // 12) * 3}I", data + bytes(-len(data) % 12))
    for place in range(0, len(words) - 3, 3):
        a, b, c = mixed((a + words[place]) & MASK, (b + words[place + 1]) & MASK, (c + words[place + 2]) & MASK)
    return last((a + words[-3]) & MASK, (b + words[-2]) & MASK, (c + words[-1]) & MASK)


def mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = (a - c & MASK) ^ (c << 4 & MASK | c >> 28)
    c = c + b & MASK
    b = (b - a & MASK) ^ (a << 6 & MASK | a >> 26)
    a = a + c & MASK
    c = (c - b & MASK) ^ (b << 8 & MASK | b >> 24)
    b = b + a & MASK
    a = (a - c & MASK) ^ (c << 16 & MASK | c >> 16)
    c = c + b & MASK
    b = (b - a & MASK) ^ (a << 19 & MASK | a >> 13)
    a = a + c & MASK
    c = (c - b & MASK) ^ (b << 4 & MASK | b >> 28)
    b = b + a & MASK
    return a, b, c


def last(a: int, b: int, c: int) -> int:
    c = (c ^ b) - (b << 14 & MASK | b >> 18) & MASK
    a = (a ^ c) - (c << 11 & MASK | c >> 21) & MASK
    b = (b ^ a) - (a << 25 & MASK | a >> 7) & MASK
    c = (c ^ b) - (b << 16 & MASK | b >> 16) & MASK
    a = (a ^ c) - (c << 4 & MASK | c >> 28) & MASK
    b = (b ^ a) - (a << 14 & MASK | a >> 18) & MASK
    return (c ^ b) - (b << 24 & MASK | b >> 8) & MASK
