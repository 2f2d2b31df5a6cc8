"""Where the files in a tar archive lie, read from its headers alone: ustar, GNU's long names and pax."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from kdcache.errors import SourceError

BLOCK = 512
FILES, LONG_NAME, PAX, PAX_FOR_ALL = b"07\0", b"L", b"x", b"g"
LONGEST = 1 << 20  # bytes of a header that is longer than a block
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


class Member(NamedTuple):
    """A file in an archive: its header lies at `header`, its bytes at `start`."""

    name: str
    header: int
    start: int
    length: int


def members(path: str, file: int) -> Iterator[Member]:
    """The regular files of an archive, in order; `file` is its descriptor."""
    at, end = 0, os.fstat(file).st_size
    ahead: dict[str, str] = {}  # what an extended header says of the next one
    while True:
        block = os.pread(file, BLOCK, at)
        if len(block) < BLOCK:
            raise damaged(path, at, "its end missing" if at else "no archive")
        if not any(block):
            return
        name, length, kind = fields(path, at, block)
        length = int(ahead.get("size", length)) if kind in FILES else length
        start = at + BLOCK
        if start + length > end:
            raise damaged(path, at, f"a file that goes on for {length:,} bytes, past the end")
        if kind in (LONG_NAME, PAX, PAX_FOR_ALL):
            if length > LONGEST:
                raise damaged(path, at, f"a name of {length:,} bytes")
            found = extended(path, at, kind, os.pread(file, length, start))
            ahead |= found if kind != PAX_FOR_ALL else {}
        else:
            if kind in FILES:
                yield Member(ahead.get("path", name), at, start, length)
            ahead = {}
        at = start + -(-length // BLOCK) * BLOCK


def fields(path: str, at: int, block: bytes) -> tuple[str, int, bytes]:
    """Name, length and kind of a header, whose checksum is compared."""
    try:
        stated = int(block[148:156].strip(b" \0") or b"0", 8)
        if stated != sum(block) - sum(block[148:156]) + 8 * 32:
            raise ValueError
        size = block[124:136]
        length = int.from_bytes(size[1:], "big") if size[0] == 0x80 else int(size.strip(b" \0") or b"0", 8)
        if length < 0:
            raise ValueError
    except ValueError:
        packed = COMPRESSED.get(block[:2]) if not at else None
        raise damaged(path, at, f"{packed}: unpack it" if packed else "no header of a file") from None
    name = text(block[:100])
    if block[257:262] == b"ustar" and block[345]:
        prefix = block[345:500] if block[262:264] != b"  " else b""  # GNU keeps times there
        name = f"{text(prefix)}/{name}" if prefix else name
    kind = block[156:157]
    return name, 0 if kind in b"123456" else length, kind


def extended(path: str, at: int, kind: bytes, data: bytes) -> dict[str, str]:
    """What GNU's long name, or the records `LENGTH KEY=VALUE` of pax, say of the file that follows."""
    if kind == LONG_NAME:
        return {"path": text(data)}
    found = {}
    while data:
        length, _, record = data.partition(b" ")
        if not (length.isdigit() and len(length) < 8 and len(length) + 1 < int(length) <= len(data)):
            raise damaged(path, at, "an extended header that cannot be read")
        key, _, value = record[: int(length) - len(length) - 2].partition(b"=")
        found[text(key)] = text(value)
        data = data[int(length) :]
    if any(key.startswith("GNU.sparse") for key in found):
        raise damaged(path, at, "a sparse file")
    if not found.get("size", "0").isdecimal() or len(found.get("size", "0")) > 18:
        raise damaged(path, at, "a size that is no number")
    return found


def text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def damaged(path: str, at: int, found: str) -> SourceError:
    return SourceError(path, "a whole tar archive, not compressed", f"{found} (at byte {at:,})", "replace it")
