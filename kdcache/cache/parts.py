"""New caches made by copying blocks: the shards of a dump merged into one, or a part of a cache.

    files -> header, what is known -> X.part (whole size) -> block by block: pread, check its CRC, pwrite -> X

Killed at any moment, the same call goes on where it was. The files that are read are never changed.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kdcache.cache.blocks import Blocks
from kdcache.cache.creation import create
from kdcache.cache.intact import require_finished, require_intact, require_seal_if_any
from kdcache.cache.layout import place_of, read_layout
from kdcache.cache.rowwise import RowReading, of_rows, with_canaries_of
from kdcache.cache.same import LOGIT_TOLERANCE, require_same
from kdcache.cache.share import turns
from kdcache.cache.writer import Writer
from kdcache.durable import part_of
from kdcache.errors import CacheError, DataChanged, PipelineChanged, TeacherChanged, UsageError
from kdcache.types import quiet

Words = Mapping[str, np.ndarray]
"""What a file says of its blocks, u64 [V, NB] for each dataset that is filled in."""

OWN = ("shard", "measured", "libraries")  # what may differ between the shards of a dump
LATER = {f"canaries/{name}" for name in ("logits", "thumb", "pixels")}  # which a shard of before may lack
EXACT = {
    "labels": (DataChanged, "labels"),
    "digests": (DataChanged, "images"),
    "eval_labels": (DataChanged, "evaluation labels"),
    "eval_digests": (DataChanged, "evaluation images"),
    "canaries/row": (PipelineChanged, "rows of the canaries"),
    "canaries/view": (PipelineChanged, "views of the canaries"),
    "canaries/crc": (PipelineChanged, "pixels of the canaries"),
}


def merge(paths: Sequence[Path], path: Path, progress=quiet) -> Path:
    """One cache out of the shards of a dump, to the bytes that a single dump would have come to."""
    require_apart(path, paths)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(Blocks(read_layout(one))) for one in paths]
        files.sort(key=lambda file: file.layout.shard.number)
        first = files[0]
        for file in files:
            require_begun(file)
            require_kin(first, file)
        holders, words = gathered(files, path)
        meta = {key: value for key, value in first.layout.meta.items() if key != "shard"}
        measured = [found for file in files if (found := file.layout.meta.get("exactness"))]
        if len(measured) == len(files):  # the least exact of the machines speaks for all
            meta["exactness"] = max(measured, key=lambda found: found.get("relative", 0))
        meta["requires"] = of_the_whole(first)

        def read(dataset: str, view: int, block: int) -> bytes:
            return files[holders[dataset][view, block]].block(dataset, view, block)

        return copied(path, meta, known(first), words, read, progress)


def prune(
    source: Path, path: Path, views: Sequence[int] | None, names: Sequence[str] | None = None, progress=quiet,
    rows: tuple[np.ndarray, dict] | None = None,
) -> Path:  # fmt: skip
    """A cache of some views of a finished one and, if named, of some knowledge; what stays is copied as it is.

    `rows` are the rows to keep, in growing order, and what stands in the header of a source that has these alone.
    """
    require_apart(path, [source])
    layout = read_layout(source)
    require_finished(layout)
    kept = chosen("`views`", range(layout.views), views)
    names = chosen("`knowledge`", list(layout.codecs), names)
    if len(kept) == layout.views and len(names) == len(layout.codecs) and rows is None:
        remedy = "name fewer `views` or `knowledge`, or a smaller `fraction`"
        raise UsageError(source, "something to leave out", "all of it kept", remedy)
    with Blocks(layout) as blocks:
        others = {f"{part}/{name}" for part in ("eval", "knowledge") for name in layout.codecs if name not in names}
        datasets = [name for name in layout.filled() if name not in others]
        origin = {name: kept if len(layout.places[name].shape) == 2 else [0] for name in datasets}  # of each view
        meta, content = pruned(layout.meta, kept, names), known(blocks, kept)
        if rows is not None:
            meta["pruned_from"] = {"rows": layout.rows} | meta["pruned_from"]
            reading, content = RowReading(blocks, origin, rows[0]), of_rows(content, rows[0])
            words = {name: reading.words(name) for name in origin}
            return copied(path, meta | {"source": rows[1]}, content, words, reading.read, progress)
        words = {name: moved(blocks, name, views) for name, views in origin.items()}

        def read(dataset: str, view: int, block: int) -> bytes:
            return blocks.block(dataset, origin[dataset][view], block)

        return copied(path, meta, content, words, read, progress)


def copied(
    path: Path, meta: dict, content: Mapping[str, np.ndarray], words: Words, read: Callable[..., bytes], progress
) -> Path:
    """Makes a file of the blocks that `read` returns, or finishes one that was begun with the same blocks."""
    part, remedy = part_of(path), "remove it, or name another file with `out`"
    if not path.exists():
        if not part.exists():
            create(path, meta, content)
        try:
            writer = Writer(path)
        except FileNotFoundError:  # another process has just finished it
            return copied(path, meta, content, words, read, progress)
        with writer:
            require_same(part, writer.layout.meta, meta, remedy)
            require_words(writer, words, remedy)
            for dataset in words:
                todo = np.argwhere(~writer.done(dataset)).tolist()
                for view, block in progress(todo, total=len(todo), desc=f"copying {dataset}"):
                    writer.put(dataset, view, block, np.frombuffer(read(dataset, view, block), np.uint8))
                    writer.sync()
            writer.finish()
    layout = read_layout(path)
    require_same(path, layout.meta, meta, remedy)
    require_finished(layout)
    with Blocks(layout) as made:
        require_words(made, words, remedy)
    return path


def require_words(file: Blocks, words: Words, remedy: str) -> None:
    """Refuses a file whose finished blocks differ from those that would be copied into it now."""
    for dataset, expected in words.items():
        if (file.done(dataset) & (file.words(dataset) != expected)).any():
            raise CacheError(file.layout.path, f"the blocks of {dataset} as they are now", "other ones", remedy)


def moved(file: Blocks, dataset: str, views: Sequence[int]) -> np.ndarray:
    """The words of some views under their new numbers. CRC-32 is linear, so that no block is read for it."""
    words, version = file.words(dataset)[views], file.layout.version
    for view, block in np.argwhere(words != 0).tolist() if version > 1 else ():
        zeros = bytes(file.layout.span(dataset, views[view], block)[1])
        for number in {views[view], view} if views[view] != view else ():
            words[view, block] ^= np.uint64(zlib.crc32(zeros, place_of(version, dataset, number, block)))
    return words


def require_apart(path: Path, paths: Sequence[Path]) -> None:
    """Refuses to write to a file that is read."""
    for target in (path, part_of(path)):
        for one in paths:
            if target.exists() and one.exists() and target.samefile(one):
                raise UsageError(
                    f"`out` {path}", "another file than those it is made of", str(one), "name another file"
                )


def require_begun(file: Blocks) -> None:
    """Refuses a finished cache, and a finished shard that was damaged since."""
    if file.layout.path.suffix == ".part" or any(file.missing(name) for name in file.layout.filled()):
        require_seal_if_any(file)  # a dump at work, or one that was stopped
        return
    if "shard" not in file.layout.meta:
        expected = "a shard or an unfinished dump"
        raise CacheError(file.layout.path, expected, "a finished cache", "use it as it is")
    require_intact(file.layout)


def require_kin(first: Blocks, other: Blocks) -> None:
    """Refuses a file of another request, of other images or pixels, or of a teacher who answers otherwise."""
    place, named = other.layout.path, f"in {first.layout.path}"
    remedy = "merge the shards of one dump-logits"
    asked = {key: value for key, value in other.layout.meta.items() if key not in OWN}
    asked["requires"] = of_the_whole(other)
    require_same(place, {**first.layout.meta, "shard": None, "requires": of_the_whole(first)}, asked, remedy, named)
    sides = shapes(first), shapes(other)
    lacking = LATER & (sides[0].keys() ^ sides[1].keys())
    expected, found = ({name: shape for name, shape in side.items() if name not in lacking} for side in sides)
    if expected != found:
        raise CacheError(place, f"{expected}, as {named}", str(found), remedy)
    tolerance = LOGIT_TOLERANCE.get(first.layout.meta["forward"].get("dtype"), 0)
    for name in expected:
        ours, theirs = first.array(name), other.array(name)
        wrong = ours != theirs
        if name in EXACT and wrong.any():
            verdict, what = EXACT[name]
            found, remedy = f"others in {int(wrong.sum())} of {wrong.size}", "dump it again on what the others were"
            raise verdict(place, f"the {what} {named}", found, remedy)
        if name.startswith(("canaries/logits", "constants/")):  # in the last bits they are each machine's own
            error = float(np.abs(ours.astype(float) - theirs.astype(float)).max(initial=0))
            if not error <= tolerance * max(1.0, float(np.abs(ours).max(initial=0))):
                remedy = "dump all shards on machines of one kind"
                raise TeacherChanged(f"{place}:/{name}", f"what is {named}", f"other values by {error:.3g}", remedy)


def of_the_whole(shard: Blocks) -> list[str]:
    """What a reader of the merged file has to understand."""
    return [feature for feature in shard.meta["requires"] if feature != "shard"]


def shapes(file: Blocks) -> dict[str, tuple[int, ...]]:
    """What was known when a file was begun, by its name."""
    places = file.layout.places.items()
    return {n: p.shape for n, p in places if n in EXACT or n.startswith(("canaries/", "constants/"))}


def gathered(files: Sequence[Blocks], path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Which file each block is taken from, and its word; refuses blocks that differ between files or are in none."""
    holders, words, missing = {}, {}, {}
    for dataset in files[0].layout.filled():
        every, done = (np.stack(of) for of in zip(*((f.words(dataset), f.done(dataset)) for f in files), strict=True))
        holders[dataset] = done.argmax(0)
        words[dataset] = np.take_along_axis(every, holders[dataset][None], 0)[0]
        for which, view, block in np.argwhere(done & (every != words[dataset])).tolist():
            place, other = (f.layout.path for f in (files[which], files[holders[dataset][view, block]]))
            expected = f"block {block} of view {view} as in {other}"
            raise CacheError(f"{place}:/{dataset}", expected, "another one", "leave one of the two files out")
        missing[dataset] = ~np.logical_or.reduce(done)
    require_none_missing(files, missing, path)
    return holders, words


def require_none_missing(files: Sequence[Blocks], missing: Mapping[str, np.ndarray], path: Path) -> None:
    """Names the shards whose blocks are in no file."""
    of = max(file.layout.shard.of for file in files)
    given = {file.layout.shard.number + 1 for file in files if file.layout.shard.of == of}
    counts = Counter(int(turn) + 1 for lost in missing.values() for turn in turns(lost.shape, of)[lost])
    found = [
        f"{count} blocks of shard {number} missing" if number in given else f"no shard {number}"
        for number, count in sorted(counts.items())
    ]
    if found:
        remedy = "name them all, and finish first those that are unfinished"
        raise CacheError(path, f"all of {of} shards, finished", ", ".join(found), remedy)


def known(file: Blocks, views: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """What was known when a file was begun; of some views, their canaries alone, under their new numbers."""
    found = {name: file.array(name) for name in shapes(file)}
    for name in found.keys() & set(file.layout.filled()):
        file.require_blocks(name)
    return found if views is None else with_canaries_of(found, "view", views)


def chosen(option: str, every: Sequence, wanted: Sequence | None) -> list:
    """What was asked for, in the order of the file; all where nothing was."""
    if wanted is None:
        return list(every)
    if strange := [one for one in wanted if one not in every]:
        there = f"{every[0]} to {every[-1]}" if isinstance(every, range) else ", ".join(every)
        raise UsageError(option, f"some of {there}, as in the file", repr(strange[0]), "see `kdcache inspect`")
    different = set(wanted)
    if not wanted or len(different) < len(wanted):
        found = "one twice" if wanted else "none"
        raise UsageError(option, "each that is to be kept, once", found, "name each once")
    return [one for one in every if one in different]


def pruned(meta: dict, views: Sequence[int], names: Sequence[str]) -> dict:
    """The header of a part; it names the views by their numbers in the dump, also in a part of a part."""
    before = {"views": list(range(meta["views"])), "of": meta["views"], "knowledge": list(meta["knowledge"])}
    before |= meta.get("pruned_from", {})
    kept = {key: {n: of for n, of in meta.get(key, {}).items() if n in names} for key in ("knowledge", "measured")}
    return meta | kept | {"views": len(views), "pruned_from": before | {"views": [before["views"][v] for v in views]}}
