"""Who teaches a student: from what a user names to one of the teachers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from kdcache import models
from kdcache.cache import Store, open_cache
from kdcache.cache.bound import Bound
from kdcache.cache.joined import join
from kdcache.cache.same import teacher_of
from kdcache.cache.subset import Subset
from kdcache.checks import Range
from kdcache.errors import UsageError
from kdcache.jobs.content import reopened
from kdcache.jobs.data import Data, opener
from kdcache.jobs.loading import Normalisation, load_teacher, normalisation_in
from kdcache.jobs.pseudo import pseudo_from_text
from kdcache.models.network import Network
from kdcache.proof.verdicts import require_teacher
from kdcache.pseudo import PseudoTeacher
from kdcache.sources import open_source
from kdcache.sources.arrays import stratified
from kdcache.teachers import ALONE, Cached, Live, Pseudo, Teacher, describe
from kdcache.types import quiet
from kdcache.views import runs_user_code


def open_data(
    caches: str | os.PathLike | Store | Sequence[str | os.PathLike | Store] | None,
    data: str | None = None,
    augment: str | None = None,
    fraction: float = 1.0,
    average: str | None = None,
    average_weights: Sequence[float] | None = None,
    source=open_source,
    views: int | None = None,
    missing: str | None = None,
    progress=quiet,
) -> tuple[Data, Store | None]:
    """The data of a training: a cache names its own. Several of one teacher are more views, of several an average.

    `fraction` is that of the data, beside a cache, too: the same rows as without one; smaller ones lie in larger ones.
    `views` takes the first so many of a cache. `missing`, beside `data`, has images found by content, and says what
    becomes of those that the cache does not know: refuse, plain or skip.
    """
    files = [caches] if isinstance(caches, str | os.PathLike | Store) else list(caches or ())
    if not files:
        for name, given in (("average", average), ("average_weights", average_weights)):
            if given is not None:
                raise UsageError(f"`{name}`", "caches of several teachers", "no cache", "leave it out")
        return Data.open(data, augment, fraction, source), None
    if augment and not runs_user_code(augment):
        raise UsageError("`cache`", "its own view", "`augment` beside it", "leave `augment` out")
    opened = [file if isinstance(file, Store) else open_cache(file) for file in files]
    cache = join(opened, average_weights, *average_of(average))
    if views is not None:
        cache = Subset(cache, None, views=views)
    if data and missing:
        whole, cache = reopened(cache, data, augment, missing, source, progress)
    else:
        whole = Data.of_cache(cache, data, augment, source)
    return (whole, cache) if fraction == 1 else part_of(whole, cache, data, fraction, source)


def part_of(opened: Data, cache: Store, data: str | None, fraction: float, source=open_source) -> tuple[Data, Store]:
    """The rows of a cache that such a fraction of its data has."""
    stored = cache.meta["source"]
    if isinstance(cache, Bound):
        found, remedy = "another, found by content", "leave `fraction` out"
        raise UsageError("`fraction`", "the data that the cache was dumped from", found, remedy)
    Range(above=0, most=stored["fraction"], remedy="the cache has no more of the data").checked("`fraction`", fraction)
    if opened.view.mixes:
        expected, remedy = "a view that does not mix rows", "dump with this `fraction`, or train on all rows"
        raise UsageError("`fraction`", expected, opened.view.name, remedy)
    if fraction == stored["fraction"]:
        return opened, cache
    if "kept" in stored:
        remedy = "take the cache that it was pruned from"
        raise UsageError("`fraction`", "a cache of all rows of its data", f"{len(cache)} of them", remedy)
    every = opened.train
    if stored["fraction"] < 1:
        every = opener(cache.path, stored, data, source)("train", 1.0)
    had, rows = (stratified(every.labels, share) for share in (stored["fraction"], fraction))
    part = every.part(fraction)
    subset = Subset(cache, np.searchsorted(had, rows), part.identity())
    part.expect(subset.digests)
    return Data(part, opened.held_out, opened.view), subset


def average_of(text: str | None) -> tuple[str | None, float]:
    """`logits`, `probability`, or `probability:4` at a temperature."""
    if text is None:
        return None, 1.0
    space, _, temperature = text.partition(":")
    try:
        value = float(temperature or 1)
    except ValueError:
        value = 0.0
    if space not in ("logits", "probability") or not 0 < value < math.inf or (temperature and space == "logits"):
        expected = "logits, probability, or probability:T"
        raise UsageError("`average`", expected, repr(text), "write it like probability:4, with the T of the method")
    return space, value


def named_teacher(
    teacher: str | None, weights: str | None, cache: Store | None, data: Data, *, live: bool, root,
    normalisation: Normalisation | None = None, taps: str | None = None, seed: int = 0, views: int = 1,
) -> Teacher:  # fmt: skip
    """Who teaches, as `train-student` names it: a network with `live`, pseudo:ACCURACY, else whom the cache is of."""
    if not (teacher and teacher.startswith("pseudo:")):
        return taught_by(cache, live_teacher(live, teacher, weights, cache, data, root, normalisation, taps))
    for option, given in (("live", live), ("weights", weights)):
        if given:
            raise UsageError(f"`teacher` {teacher}", "no network beside it", f"`{option}`", f"leave `{option}` out")
    live_teacher(False, None, None, cache, data, root, normalisation, taps)  # refuses what only a network has
    return taught_by(cache, pseudo=pseudo_from_text(teacher, data, seed, views))


def named_teachers(
    seeds: Iterable[int], teacher: str | None, weights: str | None, cache: Store | None, data: Data, **options
) -> list[Teacher]:
    """One for each seed: a made-up one errs under its seed, every other is the same for all."""
    first, *others = (partial(named_teacher, teacher, weights, cache, data, seed=seed, **options) for seed in seeds)
    one = first()
    return [one, *(another() if teacher and teacher.startswith("pseudo:") else one for another in others)]


def taught_by(
    cache: Store | None = None, network: Network | None = None, pseudo: PseudoTeacher | None = None
) -> Teacher:
    """The one who answers: a network or a made-up teacher before a cache, whose sample-views they are shown."""
    beside = ALONE if cache is None else Cached(cache)
    if pseudo is not None:
        return Pseudo(pseudo, beside)
    if network is None:
        return beside
    if cache is not None:
        require_one_teacher(cache)
        require_teacher(cache, describe(network))
    return Live(network, beside)


def require_one_teacher(cache: Store) -> None:
    """Refuses files that no single network, asked in one way, could stand in for."""
    for file in cache.files:
        one = {"one teacher": teacher_of(file.meta) == teacher_of(cache.meta)}
        one["one set of forward settings"] = file.meta["forward"] == cache.meta["forward"]
        if several := [what for what, same in one.items() if not same]:
            remedy = "give one cache, or leave `live` out"
            raise UsageError(f"`live` {file.path}", f"answers of {several[0]}", "several", remedy)


def live_teacher(
    live: bool, teacher: str | None, weights: str | None, cache: Store | None, data: Data, root,
    normalisation: Normalisation | None = None, taps: str | None = None,
) -> Network | None:  # fmt: skip
    """The network of `live`; the cache's own where none is named."""
    if not live:
        if teacher or weights:
            flag = "`teacher`" if teacher else "`weights`"
            raise UsageError(flag, "`live` beside it", "none", f"add `live`, or leave {flag} out")
        for option, given in (("`mean` and `std`", normalisation), ("`taps`", taps)):
            if given:
                raise UsageError(option, "a live teacher beside them", "none", "leave them out")
        return None
    name = teacher or (cache.meta["teacher"].get("model") if cache else None)
    if not isinstance(name, str):
        raise UsageError("`live`", "`teacher`", "none", "name the teacher's model")
    if cache and cache.meta["teacher"].get("kind") != "network":
        found = f"answers of kind {cache.meta['teacher'].get('kind')}"
        raise UsageError(f"`live` {cache.path}", "a network's answers", found, "leave `live` out")
    if cache and not teacher and models.runs_user_code(name):  # a header never picks code to import
        expected = f"teacher {name} named beside it, for that is code"
        raise UsageError(f"`live` {cache.path}", expected, "none", "name it with `teacher` if you trust that code")
    stored = (normalisation_in(cache), cache.meta["teacher"].get("taps")) if cache else (None, None)
    return load_teacher(name, weights, data, root, normalisation or stored[0], taps or stored[1])
