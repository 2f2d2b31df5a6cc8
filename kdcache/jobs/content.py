"""A data set bound to a cache by what its images are, whatever they are called and wherever they lie."""

from __future__ import annotations

import copy

import numpy as np

from kdcache.cache import Store
from kdcache.cache.bound import Bound, Evaluated
from kdcache.cache.lookup import Lookup
from kdcache.checks import one_of, short
from kdcache.errors import DataChanged, KdcacheError, UsageError
from kdcache.jobs.data import Data, opener
from kdcache.seeds import PROBE, below, keyed
from kdcache.sources import Source, open_source
from kdcache.sources.adopted import AdoptedSource, has_rows
from kdcache.types import Numbers, quiet
from kdcache.views import View, from_json
from kdcache.wording import count

MISSING = ("refuse", "plain", "skip")
NAMED = 10  # images in a message
COMPARED = 64  # images whose rows somebody knows
REFUSED = "`missing` skip leaves them out, plain learns them from their labels alone; or dump again"


def bound(
    cache: Store, train: Source, held_out: Source, view: View, missing: str, digests: np.ndarray,
    rows: np.ndarray | None = None,
) -> tuple[Data, Bound]:  # fmt: skip
    """The images, and the answers of a cache to those that it knows; `missing` says what becomes of the others.

    `digests` are those of the training images, `rows` the cache's of them, where somebody knows them already.
    """
    require_possible(cache, train, view)
    found = cache.rows_of(digests) if rows is None else rows
    train, held_out = (renumbered(cache.path, cache.classes, source) for source in (train, held_out))
    if not (found >= 0).any():
        expected, remedy = "images that the teacher saw", "give them in the bytes that it saw, or dump again"
        raise DataChanged(f"{cache.path} on {train.spec}", expected, f"none among {len(train):,}", remedy)
    found = labelled_alike(cache, train, digests, found)
    unknown = np.flatnonzero(found < 0)
    if len(unknown) and missing == "refuse":
        names = ", ".join(name_of(train, row) for row in unknown[:NAMED]) + (", ..." if len(unknown) > NAMED else "")
        what = f"{len(unknown):,} of {len(train):,} that it did not: {names}"
        raise DataChanged(f"{cache.path} on {train.spec}", "images that the teacher saw", what, REFUSED)
    if len(unknown) and missing == "skip":
        there = np.flatnonzero(found >= 0)
        train, digests, found = train.take(there), digests[there], found[there]
    train.labels = np.where((train.labels < 0) & (found >= 0), cache.labels[found], train.labels)
    train.expect(digests)
    store = Bound(cache, found, train.identity(), digests, view, evaluated(cache, held_out))
    return Data(train, held_out, view), store


def reopened(
    cache: Store, data: str, augment: str | None, missing: str, source=open_source, progress=quiet
) -> tuple[Data, Store]:
    """The data of that name: as they were at the dump if they are what it was dumped from, else by content."""
    one_of("`missing`", missing, MISSING)
    try:
        return Data.of_cache(cache, data, augment, source), cache
    except KdcacheError:  # what has another reason is met again
        opened = opener(cache.path, cache.meta["source"], data, source)
        view = from_json(cache.path, cache.meta["view"], augment)
        train = opened("train")
        return bound(cache, train, opened("eval"), view, missing, digests_of(train, progress))


def images_of(
    cache: Store, data: str | None = None, images=None, augment: str | None = None, missing: str = "refuse",
    rows: Numbers | None = None,
) -> tuple[Data, Store]:  # fmt: skip
    """What a cache was dumped from, or other images: those of a name, or of a data set of the user's."""
    one_of("`missing`", missing, MISSING)
    if images is None:
        if rows is not None:
            raise UsageError("`rows`", "`images` beside them", "none", "give the images whose rows they are")
        return reopened(cache, data, augment, missing) if data else (Data.of_cache(cache, None, augment), cache)
    if data is not None:
        raise UsageError("`images`", "no `data` beside them", repr(data), "leave one of them out")
    if isinstance(images, str) or not has_rows(images):
        remedy = "name images with `data`; take a kdcache.CachedStream for those that come one after the other"
        raise UsageError("`images`", "a data set that has a length and items", type(images).__name__, remedy)
    source = AdoptedSource(images, type(images).__name__)
    source.name_classes(cache.classes)
    view, nothing = from_json(cache.path, cache.meta["view"], augment), source.take(np.arange(0))
    if rows is None:
        return bound(cache, source, nothing, view, missing, source.met(np.arange(len(source))))
    return bound(cache, source, nothing, view, missing, believed(cache, source, rows), np.asarray(rows, np.int64))


def require_possible(cache: Store, source: Source, view: View) -> None:
    place, remedy = f"{cache.path} on {source.spec}", "train on the data that it was dumped from"
    if view.mixes:
        raise UsageError(place, "a view of single images", f"{view.name}, which mixes rows of its own data", remedy)
    if source.scaled:
        raise UsageError(place, "images in their own size", "a pack of smaller ones", "name the images themselves")


def renumbered(place: object, classes: list[str], source: Source) -> Source:
    """The source with the numbers that a teacher's classes have, by their names.

    Classes that are called by their numbers on one side have these on both; `labelled_alike` compares them.
    """
    named = source.classes
    source = copy.copy(source)
    if len(named) <= len(classes) and any(names == [*map(str, range(len(names)))] for names in (classes, named)):
        source.classes = classes
        return source
    if strange := [name for name in named if name not in classes]:
        found = f"class {short(strange[0])}, which it does not know"
        raise DataChanged(f"{place} on {source.spec}", "classes of its own", found, "dump again with these classes")
    if named != classes:
        number = np.array([classes.index(name) for name in named] + [-1], dtype=np.int64)
        source.labels, source.classes = number[source.labels], classes
    return source


def digests_of(source: Source, progress=quiet) -> np.ndarray:
    """Of all images, each of which is read once."""
    return np.fromiter(source.hashes(progress), np.uint64, len(source))


def labelled_alike(cache: Store, source: Source, digests: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows, of those with the same bytes one with the same label; refuses a label that is another in the cache."""
    stored, given = cache.labels, source.labels
    differ = np.flatnonzero((rows >= 0) & (given >= 0) & (stored[rows] >= 0) & (given != stored[rows]))
    if not len(differ):
        return rows
    every = cache.digests
    twice = np.flatnonzero(np.isin(every, digests[differ]))[::-1]
    known = {(digest, label): row for digest, label, row in zip(every[twice], stored[twice], twice, strict=True)}
    rows = rows.copy()
    for image in differ:
        row = known.get((digests[image], given[image]))
        if row is None:
            name = name_of(source, int(image))
            expected = f"class {cache.classes[stored[rows[image]]]} of {name}, as the cache has it"
            found = f"class {dict(enumerate(cache.classes)).get(given[image], given[image])}"
            remedy = "number the classes alike, or dump again"
            raise DataChanged(f"{cache.path} on {source.spec}", expected, found, remedy)
        rows[image] = row
    return rows


def evaluated(cache: Store, held_out: Source) -> Evaluated | None:
    """The evaluation images by content; None where there are none, or the cache has no answers to some of them."""
    stored = cache.eval_digests
    if stored is None or not len(held_out):
        return None
    digests = digests_of(held_out)
    rows = Lookup(stored).rows_of(digests)
    if (rows < 0).any():
        return None
    return Evaluated({"rows": len(held_out), "fingerprint": held_out.fingerprint()}, rows, digests, held_out.labels)


def name_of(source: Source, row: int) -> str:
    return source.names[row] if source.names is not None else f"row {row}"


def believed(cache: Store, source: AdoptedSource, rows: Numbers) -> np.ndarray:
    """The digests of images whose rows somebody knows: of some they are compared now, of the others when first read."""
    given = np.asarray(rows)
    whole = given.dtype.kind in "iu" and given.shape == (len(source),)
    if not whole or (given < -1).any() or (given >= len(cache)).any():
        expected = f"a row from 0 to {len(cache) - 1} for each of {count(len(source), 'image')}, -1 where there is none"
        found, remedy = f"{given.dtype}{list(given.shape)}", "leave `rows` out to have them found by content"
        raise UsageError("`rows`", expected, found, remedy)
    digests = cache.digests[given]
    unknown, known = np.flatnonzero(given < 0), np.flatnonzero(given >= 0)
    digests[unknown] = source.met(unknown)
    some = known[below(keyed(0, np.arange(COMPARED), use=PROBE)[0], len(known))] if len(known) else known
    wrong = some[source.digests(some) != digests[some]]
    if len(wrong):
        found = f"another image than that of row {given[wrong[0]]}"
        place = f"{source.spec}, {name_of(source, wrong[0])}"
        raise DataChanged(place, "the row that was given", found, "leave `rows` out")
    return digests
