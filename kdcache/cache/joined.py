"""Several caches as one: more views of one teacher, or the average of several teachers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.errors import CacheError, UsageError

COMPARED = 256  # rows whose seeds are compared between files


class Joined:
    """What all caches of a joint training have in common, in the manner of a single one."""

    def __init__(self, caches: Sequence[Cache], names: Sequence[str]):
        self.caches, self.names = list(caches), list(names)
        self.first = self.caches[0]
        self.path, self.layout, self.constants = self.first.path, self.first.layout, self.first.constants
        self.labels, self.digests, self.classes = self.first.labels, self.first.digests, self.first.classes
        self.canaries = self.first.canaries

    @property
    def meta(self) -> dict:
        """The header of the first file, with what is known of the others."""
        parts = [{"run_key": c.meta["run_key"], "views": c.views, "teacher": c.meta["teacher"]} for c in self.caches]
        return self.first.meta | {"views": self.views, "joined": parts}

    def __len__(self) -> int:
        return len(self.first)

    @property
    def views(self) -> int:
        return self.first.views

    def seeds(self, view, rows) -> np.ndarray:
        return self.first.seeds(view, rows)

    def advise(self, view: int, names: Sequence[str]) -> None:
        for cache in self.caches:
            cache.advise(view, names)


class MoreViews(Joined):
    """The views of one teacher, file after file."""

    def __init__(self, caches: Sequence[Cache]):
        names = [name for name in caches[0].names if all(name in cache.names for cache in caches)]
        super().__init__(caches, names)
        self.starts = np.cumsum([0, *(cache.views for cache in self.caches)])
        rows = np.arange(min(COMPARED, len(self)))
        seen: dict[bytes, str] = {}
        for cache in self.caches:
            for view in range(cache.views):
                seeds = cache.seeds(view, rows).tobytes()
                if seeds in seen:
                    found = f"view {view} of it again, from {seen[seeds]}"
                    remedy = "dump more views with another --seed, or --first-view"
                    raise CacheError(cache.path, "other views than the other files", found, remedy)
                seen[seeds] = str(cache.path)

    @property
    def views(self) -> int:
        return int(self.starts[-1])

    def seeds(self, view, rows) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64)
        out = np.empty(len(rows), dtype=np.int64)
        for cache, place, local in self.parts(view, rows):
            out[place] = cache.seeds(local, rows[place])
        return out

    def read(self, view, rows, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        rows = np.asarray(rows, dtype=np.int64)
        found: dict[str, Tensor] = {}
        for cache, place, local in self.parts(view, rows):
            for name, values in cache.read(local, rows[place], names or self.names, device).items():
                if name not in found:
                    found[name] = values.new_empty((len(rows), *values.shape[1:]))
                found[name][torch.from_numpy(place).to(values.device)] = values
        return found

    def read_eval(self, rows, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return self.first.read_eval(rows, names, device)

    def advise(self, view: int, names: Sequence[str]) -> None:
        number = int(np.searchsorted(self.starts, view, side="right")) - 1
        self.caches[number].advise(view - int(self.starts[number]), names)

    def parts(self, view, rows: np.ndarray):
        """(cache, places in the batch, views of its own) for every file that a batch touches."""
        views = np.broadcast_to(np.asarray(view, dtype=np.int64), rows.shape)
        if views.size and (views.min() < 0 or views.max() >= self.views):
            found = f"{views.min()} to {views.max()}"
            raise UsageError(self.path, f"views from 0 to {self.views - 1}", found, "take the view modulo `views`")
        which = np.searchsorted(self.starts, views, side="right") - 1
        for number in np.unique(which).tolist():
            place = np.flatnonzero(which == number)
            yield self.caches[number], place, views[place] - self.starts[number]


class Average(Joined):
    """The logits of several teachers of the same views, averaged with weights.

    `logits` averages them as they are; `probability` averages the softmaxes at a temperature, in logits again.
    """

    def __init__(self, caches: Sequence[Cache], weights: Sequence[float] | None, space: str, temperature: float):
        super().__init__(caches, ["logits"])
        weights = [1.0] * len(caches) if weights is None else list(weights)
        if len(weights) != len(caches) or not all(w >= 0 for w in weights) or not sum(weights) > 0:
            expected = f"{len(caches)} weights from 0, not all 0"
            raise UsageError("--average-weights", expected, str(weights), "give one for each --cache")
        self.weights = [w / sum(weights) for w in weights]
        self.space, self.temperature = space, temperature
        rows = np.arange(min(COMPARED, len(self)))
        for cache in self.caches[1:]:
            same = cache.views == self.first.views and all(
                np.array_equal(cache.seeds(v, rows), self.first.seeds(v, rows)) for v in range(cache.views)
            )
            if not same:
                remedy = "dump all teachers with the same --seed and --views"
                raise CacheError(cache.path, f"the views of {self.path}", "other seeds", remedy)

    def read(self, view, rows, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return {"logits": self.mean([c.read(view, rows, ["logits"], device)["logits"] for c in self.caches])}

    def read_eval(self, rows, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return {"logits": self.mean([c.read_eval(rows, ["logits"], device)["logits"] for c in self.caches])}

    def mean(self, logits: Sequence[Tensor]) -> Tensor:
        if self.space == "logits":
            return sum(w * part for w, part in zip(self.weights, logits, strict=True))
        parts = [
            part.div(self.temperature).log_softmax(1) + math.log(w)
            for w, part in zip(self.weights, logits, strict=True)
            if w
        ]
        return torch.stack(parts).logsumexp(0) * self.temperature


def join(
    caches: Sequence[Cache],
    weights: Sequence[float] | None = None,
    space: str = "probability",
    temperature: float = 1.0,
) -> Cache | MoreViews | Average:
    """One cache as it is; of one teacher, their views; of several, their average."""
    first = caches[0]
    if len(caches) == 1:
        return first
    for cache in caches[1:]:
        for key in ("rows", "classes", "fingerprint"):
            if cache.meta["source"][key] != first.meta["source"][key]:
                found = f"{key} {str(cache.meta['source'][key])[:40]}"
                expected = f"the data of {first.path}: {key} {str(first.meta['source'][key])[:40]}"
                raise CacheError(cache.path, expected, found, "join caches of the same data")
        if cache.meta["view"] != first.meta["view"]:
            expected = f"the view of {first.path}, {first.meta['view']['view']}"
            raise CacheError(cache.path, expected, cache.meta["view"]["view"], "join caches of the same view")
    identities = {str(sorted(cache.meta["teacher"].items(), key=str)) for cache in caches}
    if len(identities) == 1:
        return MoreViews(caches)
    return Average(caches, weights, space, temperature)
