"""A pack: the decoded images of both splits in one file, version 1. One page.

     0  8 bytes  89 "KDPACK" 0A
     8  u32      version
    12  u32      length of the JSON
    16  u64      length of the file
    24  u32      seal: CRC-32 of the bytes before it, the JSON and the tables
    28  u32      zero
    32  JSON     source, classes, short side, versions of what decoded; of each split rows, bytes, identity, mean, std
    then of `train`, then of `eval`, each at the next multiple of 8:
        labels   i32[N]     -1: unlabelled
        digests  u64[N]     hash of every image's encoded bytes, of its pixels where there is no file
        sizes    u32[N, 2]  height and width
        names    u8[K]      of the files, relative to their folder, a zero byte between two; empty where there are none
    then words   u64[N]     of both, at the next multiple of 8: DONE in the high half, in the low half CRC-32 of
                            `split:row` and the pixels; 0: not yet done
    then pixels  u8         of both, at the next multiple of 4096: channels, rows, columns; row after row

All of it is little-endian. What lies between is zero. A file is called X.part until its last word is on disk.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.checks import short
from kdcache.durable import part_of
from kdcache.errors import KdcacheError, SourceError
from kdcache.limits import opened

MAGIC, VERSION = b"\x89KDPACK\n", 1
PRELUDE = struct.Struct("<8sIIQII")
DONE = 0x6B64_0002 << 32
PAGE = 4096
LONGEST = 1 << 26  # bytes of the JSON
MOST_SIDE = 1 << 20
TABLES = {"labels": "<i4", "digests": "<u8", "sizes": "<u4", "names": "u1"}
SPLITS = ("train", "eval")
# what a reader takes where its user names none: a header never picks code to import, or a file to open
VIEW = re.compile(r"none|crop(-flip(-cutout)?)?|(resized-crop|centre)(:[0-9]{1,4})?")
STUDENT = re.compile(r"[a-z0-9-]+")
REMEDY = "copy it again, or pack again"


def is_pack(file: str | os.PathLike) -> bool:
    """Whether a file begins as a pack does."""
    try:
        if not Path(file).is_file():  # to open a pipe would wait for whoever writes into it
            return False
        with open(file, "rb") as found:
            return found.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@dataclass
class Split:
    """Where the parts of a split lie, and its tables."""

    name: str
    facts: dict
    places: dict[str, tuple[int, int]]  # offset and bytes of labels, digests, sizes, names, words, pixels
    tables: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        return self.facts["rows"]

    def starts(self) -> np.ndarray:
        """Where the pixels of each row begin in the file, and where those of the last one end: int64 [N + 1]."""
        areas = 3 * self.tables["sizes"].astype(np.int64).prod(1)
        return self.places["pixels"][0] + np.concatenate([[0], np.cumsum(areas)])

    def names(self) -> list[str] | None:
        return os.fsdecode(self.tables["names"].tobytes()).split("\0") if self.places["names"][1] else None


@dataclass
class PackFile:
    """A pack's header and tables, checked against each other; nothing is held open."""

    path: Path
    header: dict
    seal: int
    size: int
    splits: dict[str, Split]


def layout(header: dict, text: int) -> tuple[dict[str, dict[str, tuple[int, int]]], int]:
    """Offset and length of every part of every split, and of the file, for a JSON of that length."""
    at = PRELUDE.size + text
    places: dict[str, dict[str, tuple[int, int]]] = {split: {} for split in SPLITS}

    def lay(split: str, part: str, length: int, alignment: int = 8) -> None:
        nonlocal at
        at = -(-at // alignment) * alignment
        places[split][part] = at, length
        at += length

    for split, facts in ((split, header["splits"][split]) for split in SPLITS):
        rows = facts["rows"]
        lengths = {"labels": 4 * rows, "digests": 8 * rows, "sizes": 8 * rows, "names": facts["names"]}
        for part, length in lengths.items():
            lay(split, part, length)
    for split in SPLITS:
        lay(split, "words", 8 * header["splits"][split]["rows"])
    for split in SPLITS:
        lay(split, "pixels", header["splits"][split]["pixels"], PAGE)
    return places, at


def head_of(header: dict, tables: dict[str, dict[str, np.ndarray]]) -> bytes:
    """The bytes in front of the words, for tables of both splits."""
    text = json.dumps(header, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogateescape")
    places, size = layout(header, len(text))
    head = bytearray(places["train"]["words"][0])
    head[PRELUDE.size : PRELUDE.size + len(text)] = text
    for split in SPLITS:
        for part, dtype in TABLES.items():
            offset, length = places[split][part]
            head[offset : offset + length] = tables[split][part].astype(dtype).tobytes()
    PRELUDE.pack_into(head, 0, MAGIC, VERSION, len(text), size, 0, 0)
    struct.pack_into("<I", head, 24, seal_of(head))
    return bytes(head)


def seal_of(head: bytes | bytearray) -> int:
    return zlib.crc32(memoryview(head)[PRELUDE.size :], zlib.crc32(head[:24]))


def word_of(split: str, row: int, pixels) -> int:
    """What says of a row that it is done."""
    return DONE | zlib.crc32(pixels, zlib.crc32(f"{split}:{row}".encode()))


def read_pack(path: Path) -> PackFile:
    """Opens, checks and closes a pack, finished or not. Whatever is wrong with it is one clear error."""
    try:
        with open(opened(path), "rb") as file:
            return read_header(path, file)
    except FileNotFoundError:
        part = part_of(path)
        found = f"an unfinished one, {part.name}" if part.exists() else "no such file"
        remedy = "run the same command again to finish it" if part.exists() else "make it with `kdcache pack`"
        raise SourceError(path, "a pack", found, remedy) from None
    except OSError as error:
        raise SourceError(path, "a readable pack", error.strerror or str(error), "name the .kdp file") from None


def read_header(path: Path, file) -> PackFile:
    """The same of an open file, at its beginning."""
    try:
        return parsed(path, file, os.fstat(file.fileno()).st_size)
    except (KdcacheError, OSError):
        raise
    except Exception as error:  # a damaged or hostile file may lead JSON and NumPy anywhere
        raise SourceError(path, "a whole pack", short(error, 160) or type(error).__name__, REMEDY) from None


def parsed(path: Path, file, size: int) -> PackFile:
    head = file.read(PRELUDE.size)
    if not head.startswith(MAGIC) or len(head) < PRELUDE.size:
        raise SourceError(path, "a pack", "something else" if head else "an empty file", "make it with `kdcache pack`")
    _, version, text, stated, seal, zero = PRELUDE.unpack(head)
    if version != VERSION:
        raise SourceError(path, f"a pack of version {VERSION}", f"version {version}", "read it with a newer kdcache")
    if size != stated:
        raise SourceError(path, f"{stated} bytes", f"{size}", REMEDY)
    require(text <= min(LONGEST, size) and not zero, "a header of that length")
    head += file.read(text)
    header = json.loads(head[PRELUDE.size :].decode("utf-8", "surrogateescape"))
    require_facts(header)
    places, end = layout(header, text)
    require(end == size, f"{size} bytes where its header needs {end}")  # so nothing below is larger than the file
    head += file.read(places["train"]["words"][0] - len(head))
    if seal_of(head) != seal:
        raise SourceError(path, "an intact header", "a wrong seal", REMEDY)
    splits = {split: Split(split, header["splits"][split], places[split], {}) for split in SPLITS}
    for split in splits.values():
        for part, dtype in TABLES.items():
            offset, length = split.places[part]
            split.tables[part] = np.frombuffer(head[offset : offset + length], dtype)
        split.tables["sizes"] = split.tables["sizes"].reshape(-1, 2)
        require_tables(split, len(header["classes"]))
    return PackFile(path, header, seal, size, splits)


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def require_facts(header: dict) -> None:
    """The header has what readers read of it."""
    classes = header["classes"]
    require(type(classes) is list and all(isinstance(name, str) for name in classes), "classes that are no texts")
    require(isinstance(header["source"], str), "images of no name")
    least = header["short"]
    require(least is None or (type(least) is int and least > 0), "a short side that is no number")
    require(all(isinstance(v, str) for pair in header["libraries"].items() for v in pair), "versions that are no texts")
    for split in SPLITS:
        facts = header["splits"][split]
        whole = all(type(facts[key]) is int and 0 <= facts[key] < 1 << 62 for key in ("rows", "names", "pixels"))
        require(whole, "counts that are none")
        texts = all(isinstance(facts[key], str) for key in ("fingerprint", "identified_by", "view", "student"))
        require(texts and type(facts["files"]) is bool, "an identity that is none")
        own = VIEW.fullmatch(facts["view"]) and STUDENT.fullmatch(facts["student"])
        require(own is not None, "a view or a network that is none of ours")
        for key in ("mean", "std"):
            numbers = len(facts[key]) == 3 and all(isinstance(value, float | int) for value in facts[key])
            require(numbers and all(abs(value) <= 1 for value in facts[key]), f"a {key} of no image")
        require(min(facts["std"]) > 0, "a std of no image")


def require_tables(split: Split, classes: int) -> None:
    labels, sizes = split.tables["labels"], split.tables["sizes"]
    require(not split.rows or (labels.min() >= -1 and labels.max() < classes), "labels of no class")
    require(not split.rows or (sizes.min() > 0 and sizes.max() < MOST_SIDE), "images of no size")
    # as numbers that cannot overflow: with sides below 2**20 each image is below 2**42
    total = sum(int(part.sum()) for part in np.array_split(3 * sizes.astype(np.int64).prod(1), 1 + split.rows // 2**20))
    require(total == split.facts["pixels"], "images of another size than their pixels")
    kind, same = split.facts["identified_by"], split.rows and (sizes == sizes[0]).all()
    possible = {"": True, "names": split.facts["names"] > 0, "digests": True, "pixels": same}
    require(bool(possible.get(kind)), "an identity that is a hash of nothing in it")
    count = split.tables["names"].tobytes().count(b"\0") + 1
    require(not split.places["names"][1] or count == split.rows, "another number of names than of rows")


def read_finished(path: Path) -> PackFile:
    """Refuses a pack of which images are missing, whatever its name."""
    found = read_pack(path)
    with open(path, "rb") as file:
        missing = sum(int((~done(words_in(file, split))).sum()) for split in found.splits.values())
    if missing:
        remedy = "run the same command again to finish it"
        raise SourceError(path, "a finished pack", f"{missing} images missing", remedy)
    return found


def words_in(file, split: Split) -> np.ndarray:
    """The word of each row, u64 [N]."""
    offset, length = split.places["words"]
    return np.frombuffer(os.pread(file.fileno(), length, offset), "<u8")


def done(words: np.ndarray) -> np.ndarray:
    return words >> np.uint64(32) == DONE >> 32


def padding(file: PackFile) -> int:
    """How many bytes between the parts are not zero, of those that the seal does not cover."""
    places = [split.places[part] for part in ("words", "pixels") for split in file.splits.values()]
    found, end, data = 0, places[0][0], mapped(file)
    for offset, length in (*places, (file.size, 0)):
        found += offset - end - bytes(data[end:offset]).count(0)
        end = offset + length
    return found


def mapped(file: PackFile) -> mmap.mmap:
    """The file as memory, to be read only; refuses another one that has taken its name."""
    try:
        with open(opened(file.path), "rb") as handle:
            found = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise SourceError(file.path, "the pack that was opened", str(error), "put it back") from None
    if len(found) != file.size or int.from_bytes(found[24:28], "little") != file.seal:
        raise SourceError(file.path, "the pack that was opened", "another one under its name", "run it again")
    return found
