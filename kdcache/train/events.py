"""Records as an event file, which TensorBoard shows. The format is small enough to be written here.

file = entries; entry = length, its checksum, event, its checksum; event = time, epoch, and names with numbers
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kdcache.checks import replace

POLYNOMIAL = 0x82F63B78  # of CRC-32C, its bits turned round


def begin(path: Path, records: Sequence[Mapping]) -> None:
    """A file of these records: what a run that goes on has kept."""
    opening = message((1, time.time()), (3, b"brain.Event:2"))
    replace(path, entry(opening) + b"".join(map(entry_of, records)))


def add(path: Path, record: Mapping) -> None:
    """One more."""
    with open(path, "ab") as file:
        file.write(entry_of(record))


def entry_of(record: Mapping) -> bytes:
    """All numbers of a record, at its epoch."""
    values = [(1, message((1, name.encode()), (2, value))) for name, value in scalars(record)]
    return entry(message((1, time.time()), (2, record["epoch"]), (5, message(*values))))


def scalars(record: Mapping, before: str = "") -> Iterator[tuple[str, float]]:
    """As in `loss/st` of {"loss": {"st": 1.0}}."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "epoch":
            yield before + name, float(value)


def message(*fields: tuple[int, object]) -> bytes:
    """Fields of a protocol buffer. A float of field 1 is a double, of another field one of four bytes."""
    parts = []
    for number, value in fields:
        if isinstance(value, bytes):
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
        elif isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        elif number == 1:
            parts.append(varint(number << 3 | 1) + struct.pack("<d", value))
        else:
            parts.append(varint(number << 3 | 5) + struct.pack("<f", value))
    return b"".join(parts)


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte have their highest bit set."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def entry(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", masked(length)) + event + struct.pack("<I", masked(event))


def masked(content: bytes) -> int:
    """The checksum of an entry: CRC-32C, turned and moved."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
    return byte


TABLE = [remainder(byte) for byte in range(256)]
