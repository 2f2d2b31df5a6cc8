"""Proof that a cache is whole, and that data, view, teacher and libraries are still those it was made with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kdcache import wording
from kdcache.batches import Loader
from kdcache.cache import Cache
from kdcache.cache.base import Store
from kdcache.cache.blocks import Blocks
from kdcache.cache.same import LOGIT_TOLERANCE
from kdcache.checks import short
from kdcache.errors import DataChanged, KdcacheError, LibraryChanged, PipelineChanged, TeacherChanged
from kdcache.proof.canaries import apart, changed_packages, decoders, drift, packages, pixel_crcs
from kdcache.sources import Source
from kdcache.teachers import LiveTeacher
from kdcache.types import Batch, Knowledge, quiet
from kdcache.views import View

DRIFT = 3  # levels of 256 that an 8x8 average may move where a library's arithmetic is not bit-stable across CPUs
TOLERABLE = (
    32  # levels that a remedy offers to tolerate; where single pixels differ by more, it is no decoder's rounding
)
TOGETHER = 1 << 20  # labels that are compared at a time: of many rows, they are not held twice
RECORD_TOLERANCE = 0.05  # of the length of all records: signs and directions may turn over in a few of them


@dataclass
class Check:
    """One line of `verify`."""

    name: str
    ok: bool
    detail: str


def require_source(cache: Store, source: Source) -> None:
    """Refuses images that are not the teacher's, as far as can be known without reading all of them."""
    stored, found = cache.meta["source"], source.identity()
    for key, what in (("rows", "rows"), ("classes", "classes"), ("fingerprint", "content hash")):
        if stored[key] != found[key]:
            expected, given = (f"{what} {short(side[key])}" for side in (stored, found))
            remedy = "give the data it was made from with `data`, or dump again"
            raise DataChanged(f"{cache.path} on {source.spec}", expected, given, remedy)
    if not same_labels(cache, source):
        raise DataChanged(f"{cache.path} on {source.spec}", "the same labels", "other labels", "dump again")
    source.expect(cache.digests)


def same_labels(cache: Store, source: Source) -> bool:
    parts = (np.arange(start, min(start + TOGETHER, len(source))) for start in range(0, len(source), TOGETHER))
    return all(np.array_equal(cache.labels_of(rows), source.labels[rows]) for rows in parts)


def require_images(cache: Cache, source: Source, progress=quiet) -> str:
    """Refuses images that are not the teacher's, having read them all."""
    require_every_digest(cache.path, source, cache.digests, progress=progress)
    return f"all {len(cache):,} have the hashes that the teacher's had"


def require_eval_images(cache: Store, held_out: Source) -> bool:
    """Whether the stored answers are of these evaluation images; refuses those of which one has changed.

    Of files, each is compared when it is first read.
    """
    stored, digests = cache.meta["eval"], cache.eval_digests
    if stored["rows"] != len(held_out):
        return False
    if stored.get("fingerprint") == held_out.fingerprint():
        if digests is not None:
            held_out.expect(digests)
        return True
    if digests is not None:
        require_every_digest(cache.path, held_out, digests, "evaluation ")
    return False


def check_eval_images(cache: Cache, held_out: Source, progress=quiet) -> Check:
    """The evaluation images that were answered, one by one."""
    stored, digests, name = cache.meta["eval"], cache.eval_digests, "evaluation images"
    if not stored["rows"]:
        return Check(name, True, "none in this file")
    if digests is None:
        return Check(name, True, "their hashes are not in this file (version 1)")
    if stored["rows"] != len(held_out):
        found = f"{len(held_out)}"
        raise DataChanged(cache.path, f"{stored['rows']} evaluation images", found, "dump again to have them answered")
    require_every_digest(cache.path, held_out, digests, "evaluation ", progress)
    return Check(name, True, f"all {len(held_out):,} have the hashes that the teacher's had")


def check_padding(cache: Cache) -> Check:
    """The bytes that belong to no dataset and no structure are zero."""
    found = cache.padding()
    if found is None:
        return Check("padding", True, "not compared: libhdf5 laid out this file (version 1)")
    return Check("padding", not found, wording.padded(found))


SEEN = ("the images the teacher saw", "dump again")


def require_every_digest(
    place: object, source: Source, digests: np.ndarray, kind="", progress=quiet, known: tuple[str, str] = SEEN
) -> None:
    """Reads all images; refuses the first that is another one than is known, with what to do then."""
    row = next((row for row, found in enumerate(source.hashes(progress)) if found != digests[row]), None)
    if row is not None:
        raise another_image(place, source, row, kind, known)


def require_digests(place: object, source: Source, rows: np.ndarray, digests: np.ndarray) -> None:
    wrong = np.flatnonzero(source.digests(rows) != digests)
    if len(wrong):
        raise another_image(place, source, rows[wrong[0]])


def another_image(
    place: object, source: Source, row: int, kind: str = "", known: tuple[str, str] = SEEN
) -> DataChanged:
    expected, remedy = known
    return DataChanged(f"{place} on {source.spec}", expected, f"another {kind}image as row {row}", remedy)


def require_pixels(held: Store | Blocks, loader: Loader, exact: bool = False) -> str:
    """Refuses a view that no longer renders what the teacher saw; what was compared.

    Where a library rounds otherwise on this machine, this is forgiven unless `exact`: see `forgiven`. Whatever else
    differs is put down to a package that decodes or renders, where one has another version than in the header, and to
    the pipeline where none has.
    """
    canaries = held.canaries
    if not canaries:
        return "not compared: no canaries are left in it"
    place, rows = held.path if isinstance(held, Store) else held.layout.path, canaries["row"]
    images = loader.images(canaries["view"] * len(loader.source) + rows)
    require_digests(place, loader.source, rows, held.digests[rows])
    differ = int((pixel_crcs(images) != canaries["crc"]).sum())
    if not differ:
        return f"{len(rows)} canaries are pixel for pixel the same"
    same_size = list(images.shape[2:]) == held.meta["view"]["size"]
    levels, moved = (measure(images, canaries) if same_size else None for measure in (apart, drift))
    extent = "" if moved is None else f" ({distance(moved)}, in an 8x8 grid)"
    if levels is not None:
        then = decoders(held.meta["libraries"], loader)
        grid = "" if moved is None else f" in an 8x8 grid {distance(moved)};"
        extent = f" ({distance(levels)};{grid} once decoded by {then})"
    changed = changed_packages(held.meta["libraries"], packages(loader))
    cause = f", with {changed}" if changed else ""
    if forgiven(levels, moved, loader, exact):
        why = "by rounding only" if loader.source.tolerance is None else "as far as `tolerate_decoder` allows"
        return f"{differ} of {len(rows)} canaries differ {why}{extent}{cause}"
    expected, found = "the pixels the teacher saw", f"other pixels in {differ} of {len(rows)} canaries{extent}{cause}"
    verdict, remedy = PipelineChanged, "restore the pipeline it was made with, or dump again"
    if changed:
        verdict, remedy = LibraryChanged, "install the version it was made with, or dump again"
    if levels is not None and levels.max() <= TOLERABLE:
        remedy += f"; `tolerate_decoder` {max(1, levels.max())} goes on"
    raise verdict(f"{place}, view {loader.view.name}", expected, found, remedy)


def distance(levels: np.ndarray) -> str:
    return f"at most {wording.count(int(levels.max()), 'level')}, {levels.mean():.2g} on average"


def forgiven(levels: np.ndarray | None, moved: np.ndarray | None, loader: Loader, exact: bool) -> bool:
    """Whether other pixels are close enough to those that the teacher saw, by single values and by averages.

    What a user tolerates of the decoder is a bound on single values, or on averages where a file has no others. Else
    averages may move by DRIFT, and so may single values where only the decoder can have changed them.
    """
    tolerance = loader.source.tolerance if loader.source.packages else None
    if tolerance is not None:
        measured = moved if levels is None else levels
        return tolerance > 0 and measured is not None and measured.max() <= tolerance
    by_decoder = levels is not None and loader.view.native and levels.max() > DRIFT
    return not exact and moved is not None and moved.max() <= DRIFT and not by_decoder


def require_teacher(cache: Store, described: dict) -> None:
    """Refuses a network whose weights are not those that answered."""
    stored = cache.meta["teacher"]
    for key in ("model", "fingerprint"):
        if stored.get(key) != described.get(key):
            expected, found = f"{key} {stored.get(key)}", f"{described.get(key)}"
            remedy = "give the weights it was made with, or dump again"
            raise TeacherChanged(f"{cache.path}, teacher", expected, found, remedy)


def require_answers(cache: Cache, loader: Loader, teacher: LiveTeacher) -> str:
    """Refuses a teacher that answers the canaries otherwise than it did; what was compared."""
    canaries = cache.canaries
    if not canaries:
        return "its weights are the same; no canaries are left to ask it"
    items = canaries["view"] * len(cache) + canaries["row"]
    batch = loader.show(items)
    if "logits" not in canaries:
        return f"no logits among the canaries; {require_records(cache, batch, teacher(batch))}"
    error = (teacher.logits(batch).cpu() - torch.from_numpy(canaries["logits"])).abs().max().item()
    scale = max(1.0, float(np.abs(canaries["logits"]).max()))
    if not error <= LOGIT_TOLERANCE[teacher.forward.dtype] * scale:  # NaN is no answer, either
        raise other_answers(cache, f"logits that differ by {error:.3g}")
    return f"{len(batch)} canaries answered within {error:.1e}"


def require_records(cache: Cache, batch: Batch, knowledge: Knowledge) -> str:
    """The same by what is stored of the canaries, as far as the codecs tell."""
    names, worst = [name for name in cache.names if name in knowledge], 0.0
    stored = cache.gather(batch.items, names)
    for name in names:
        truth, codec = knowledge[name].cpu(), cache.layout.codecs[name]
        coded = codec.decode(codec.encode(truth))
        apart, rounded = float((stored[name] - truth).norm()), float((coded - truth).norm())
        error = max(0.0, apart - 2 * rounded) / max(1e-9, float(truth.norm()))
        if not error <= RECORD_TOLERANCE:
            raise other_answers(cache, f"{name} that differs by {100 * error:.3g} %")
        worst = max(worst, error)
    return f"{', '.join(names)} of {len(batch)} of them within {100 * worst:.1g} % of what is stored"


def other_answers(cache: Cache, found: str) -> TeacherChanged:
    remedy = "give the same weights, or dump again"
    return TeacherChanged(f"{cache.path}, teacher", "the answers in the file", found, remedy)


def rounding(cache: Cache, loader: Loader, teacher: LiveTeacher) -> str:
    """Whether an answer depends on the images asked about with it: on this machine, and on that of the dump."""
    stored = cache.meta.get("exactness")
    canaries = cache.canaries
    if not canaries:
        return f"no canaries are left to measure it on; when it was dumped {wording.exactness(stored)}"
    images = loader.images(canaries["view"] * len(cache) + canaries["row"])
    here, then = wording.exactness(teacher.exactness(images)), wording.exactness(stored)
    return f"here and when it was dumped {here}" if here == then else f"here {here}; when it was dumped {then}"


def check_blocks(cache: Cache, progress=quiet) -> Iterator[Check]:
    """Every CRC of every dataset."""
    for dataset in cache.layout.filled():
        views, blocks = cache.layout.blocks(dataset)
        every = progress(range(views * blocks), total=views * blocks, desc=f"checking {dataset}")
        wrong = [b for b in every if not cache.block_is_right(dataset, b // blocks, b % blocks)]
        where = f": view {wrong[0] // blocks}, rows from {wrong[0] % blocks * cache.layout.block_rows}" if wrong else ""
        yield Check(dataset, not wrong, f"{len(wrong)} of {views * blocks} blocks damaged{where}")


def check_canary_records(cache: Cache) -> Check:
    """The stored records say what the teacher said of the canaries, as well as their codec can."""
    canaries = cache.canaries
    if not canaries:
        return Check("canary records", True, "not compared: no canaries are left in it")
    if "logits" not in canaries or "logits" not in cache.names:
        return Check("canary records", True, "no logits in this cache")
    codec, logits = cache.layout.codecs["logits"], torch.from_numpy(canaries["logits"])
    stored = cache.read(canaries["view"], canaries["row"], ["logits"])["logits"]
    try:
        right = codec.decode(codec.encode(logits))
    except KdcacheError as error:
        return Check("canary records", False, str(error))
    error = float((stored - right).abs().max())
    # a forward in another batch may differ in the last bits, and a codec may round those to its next step
    ok = error <= 1e-3 * max(1.0, float(logits.abs().max())) + 2 * float((right - logits).abs().max())
    return Check("canary records", ok, f"records and canary logits differ by at most {error:.1e}")


def verify(
    cache: Cache,
    source: Source | None,
    view: View | None,
    teacher: LiveTeacher | None,
    described: dict,
    progress=quiet,
    held_out: Source | None = None,
) -> Iterator[Check]:
    """All checks, one by one; a damaged part does not hide what comes after it."""
    yield Check("header", True, f"format version {cache.meta['version']}, seal right, finished")
    yield check_padding(cache)
    damaged = False
    for check in check_blocks(cache, progress):
        damaged |= not check.ok
        yield check
    if damaged:
        return
    yield check_canary_records(cache)
    if source is None or view is None:
        return
    try:
        require_source(cache, source)
        yield Check("source", True, f"{source.spec} is the data it was made from")
        yield Check("images", True, require_images(cache, source, progress))
        if held_out is not None:
            yield check_eval_images(cache, held_out, progress)
        loader = Loader(source, view, cache)
        yield Check("pixels", True, require_pixels(cache, loader))
        if teacher:
            require_teacher(cache, described)
            yield Check("teacher", True, require_answers(cache, loader, teacher))
            yield Check("rounding", True, rounding(cache, loader, teacher))
    except KdcacheError as verdict:
        yield Check(type(verdict).__name__, False, str(verdict))
