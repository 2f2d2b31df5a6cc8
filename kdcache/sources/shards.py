"""Tar shards: what lies where in them is read once, so that a row is one read of a known place."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from kdcache.checks import quoted
from kdcache.errors import SourceError, UsageError
from kdcache.limits import limit, opened
from kdcache.sources.arrays import Source
from kdcache.sources.encoded import EncodedSource, settled
from kdcache.sources.listed import WRITTEN, numbered, rows_of, with_options
from kdcache.sources.shard_index import index_of
from kdcache.sources.tar import BLOCK, Member, members

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json", "txt")
KEYS = ("label", "cls", "class", "class_name")  # of a .json
LONGEST = 1 << 20  # bytes of a label's file
MOST_SHARDS = 10**6
WORDS = re.compile(r"[a-z]+")
BRACES = re.compile(r"\{([^{}]*)\}")
NUMBERS = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


class ShardSource(EncodedSource):
    """Images in tar archives; `where` says in which of them, at which byte, and what its header's CRC is."""

    def __init__(self, spec, split, names, labels, classes, where, shards: list[str], index: Path):
        super().__init__(spec, split, names, labels, classes, where)
        self.shards, self.index = shards, index

    def place(self, row):
        return os.path.join(os.path.dirname(self.shards[self.where[row]["shard"]]), self.names[row])

    def encoded(self, row):
        shard, header, start, length, crc = self.where[row].item()
        most = limit("KDCACHE_MAX_IMAGE_BYTES")
        if length > most:
            found = f"{length:,} bytes, more than the {most:,} that are read of it"
            raise SourceError(self.place(row), "a readable image", found, "replace or remove it")
        try:
            file = opened(self.shards[shard])
            try:
                found, data = os.pread(file, BLOCK, header), os.pread(file, length, start)
            finally:
                os.close(file)
        except OSError as error:
            raise SourceError(self.place(row), "a readable image", error.strerror or str(error), "restore it") from None
        if zlib.crc32(found) != crc or len(data) != length:
            remedy = f"remove {self.index}, and they are indexed again"
            raise SourceError(self.place(row), "the file that was indexed there", "something else", remedy)
        return data


def tar_shards(spec: str, argument: str, split: str) -> Source:
    """The split of shards, by their names: train-0.tar, val/0.tar."""
    pattern, options = with_options(spec, argument, ["label"])
    label = options.get("label", "")
    if label.partition(".")[0] not in ("", "none", *LABELS):
        expected = f"the ending of the files with labels, {', '.join(LABELS)}, json.KEY or none"
        raise UsageError("`data`", expected, quoted(label), "correct it, or leave it out")
    shards = shards_of(spec, os.path.expanduser(pattern))
    index, path = index_of(shards, label, lambda number: samples(shards[number], number, label))
    labels, classes = numbered(spec, index.labels)
    splits = [split_of(shard) for shard in shards]
    written = [splits[number] or "train" for number in index.where["shard"].tolist()] if any(splits) else None
    rows = rows_of(spec, split, index.names, labels, written)
    names = [index.names[row] for row in rows]
    return settled(ShardSource(spec, split, names, labels[rows], classes, index.where[rows], shards, path))


def shards_of(spec: str, pattern: str) -> list[str]:
    """The archives, in the order of the braces, and of their names where there are wildcards; absolute."""
    found = []
    for one in expanded(spec, pattern):
        here = sorted(glob.glob(one, recursive=True)) if glob.has_magic(one) else [one]
        if not here:
            raise SourceError(spec, "tar archives", f"none called {one}", "correct the pattern")
        found += [os.path.abspath(shard) for shard in here]
    if missing := next((shard for shard in found if not os.path.isfile(shard)), None):
        found = "a folder" if os.path.isdir(missing) else "no such file"
        raise SourceError(missing, "a tar archive", found, "name the archives, as in train-{000..146}.tar or *.tar")
    return list(dict.fromkeys(found))


def expanded(spec: str, pattern: str) -> Iterator[str]:
    """A pattern without braces for each choice that they leave: {000..146}, {train,val}."""
    texts, choices, total = BRACES.split(pattern)[::2], [], 1
    for inside in BRACES.findall(pattern):
        if match := NUMBERS.fullmatch(inside):
            first, last = (int(number) for number in match.groups())
            choices.append((len(match[1]), range(first, last + 1)))
        else:
            choices.append((0, inside.split(",")))
        total *= len(choices[-1][1])
    if not 0 < total <= MOST_SHARDS:
        raise UsageError("`data`", f"1 to {MOST_SHARDS:,} archives", f"{total:,} of {spec}", "correct the braces")
    for chosen in itertools.product(*(every for _, every in choices)):
        said = [f"{one:0{width}}" if width else str(one) for (width, _), one in zip(choices, chosen, strict=True)]
        yield "".join(itertools.chain(*itertools.zip_longest(texts, said, fillvalue="")))


def path_before(argument: str) -> str:
    """The folder in front of the first wildcard."""
    return os.path.dirname(re.split(r"[*?\[{]|,\w+=", argument, maxsplit=1)[0])


def split_of(shard: str) -> str | None:
    """The split that is a word in the name of an archive, or the name of its folder."""
    words = [*WORDS.findall(os.path.basename(shard).lower()), os.path.basename(os.path.dirname(shard)).lower()]
    return next((word for word in words if word in WRITTEN), None)


def samples(shard: str, number: int, label: str) -> Iterator[tuple[tuple, str, str]]:
    """Place, name and label of every image of an archive: files of one name up to the first dot belong together."""
    file = opened(shard)
    folder = os.path.basename(shard)
    try:
        every = members(shard, file)
        for _, files in itertools.groupby(every, lambda member: key_and_ending(member.name)[0]):
            endings = {key_and_ending(member.name)[1]: member for member in files}
            image = next((endings[one] for one in IMAGES if one in endings), None)
            if image is not None:
                crc = zlib.crc32(os.pread(file, BLOCK, image.header))
                place = (number, image.header, image.start, image.length, crc)
                yield place, f"{folder}/{image.name}", label_in(shard, file, endings, label)
    finally:
        os.close(file)


def key_and_ending(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return f"{folder}{slash}{key}", ending.lower()


def label_in(shard: str, file: int, endings: dict[str, Member], label: str) -> str:
    """The label of a sample as text, nothing where it has none."""
    ending, _, key = label.partition(".")
    member = next((endings[one] for one in ((ending,) if ending else LABELS) if one in endings), None)
    if member is None:
        return ""
    place, remedy = f"{shard}/{member.name}", "correct it, or say which label is meant: wds:SHARDS,label=ENDING or none"
    if member.length > LONGEST:
        raise SourceError(place, f"a label of at most {LONGEST:,} bytes", f"{member.length:,}", remedy)
    data = os.pread(file, member.length, member.start)
    try:
        found = data.decode()
        if member.name.lower().endswith(".json"):
            content = json.loads(found)
            found = next(str(content[one]) for one in ((key,) if key else KEYS) if content.get(one) is not None)
        found.encode("utf-8", "surrogateescape")  # half a pair, as JSON may hold it, is no text
        return found.strip().replace("\0", "")
    except (ValueError, AttributeError, RecursionError):
        raise SourceError(place, "a label as text or JSON", "neither", remedy) from None
    except StopIteration:
        raise SourceError(place, f"a label under {key or ', '.join(KEYS)}", "none", remedy) from None
