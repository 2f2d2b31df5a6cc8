"""Several caches as one: more views of one teacher, or the average of several teachers.

All of them are of the same data and the same view. What the whole holds does not depend on the order of the files, but
for the order of the dimensions of embeddings:

    knowledge             what every file holds, in one shape; of several teachers, the mean of their logits, and their
                          embeddings side by side, each standardised
    constants             those of the teacher, which every file must have made alike; of an average, none
    evaluation answers    there are some if every file has them, of the same images; else agreement is not measured
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, reduce

import numpy as np
import torch
from torch import Tensor

from kdcache.cache.base import Held, Store
from kdcache.cache.moments import Moments, moments
from kdcache.cache.same import require_same_images, same_constants, teacher_of
from kdcache.checks import whole_numbers
from kdcache.errors import CacheError, UsageError
from kdcache.types import Numbers, Shapes

COMPARED = 256  # rows whose seeds are compared between files
EMB = "emb"


class Joined(Store):
    """What all files of a joint training have in common; the facts of the data are those of the first."""

    apart = frozenset[str]()  # what canaries of several files do not have in common

    def __init__(self, files: Sequence[Store], names: Sequence[str]):
        self._files, self._names = list(files), list(names)
        self.first = self._files[0]
        self.path = self.first.path
        digests = [found for file in files if (found := file.eval_digests) is not None]  # version 1 has none
        self.with_eval = all(file.meta["eval"] == self.first.meta["eval"] for file in files)
        self.with_eval = self.with_eval and all(np.array_equal(found, digests[0]) for found in digests)

    @cached_property
    def meta(self) -> dict:
        """The header of the first file, with what is known of the others."""
        parts = [{"run_key": f.meta["run_key"], "views": f.views, "teacher": f.meta["teacher"]} for f in self.files]
        for part, file in zip(parts, self.files, strict=True):  # what is as usual is left out, so that names stay
            part |= {key: file.meta[key] for key in ("first_view", "pruned_from") if file.meta.get(key)}
        return self.first.meta | {"views": self.views, "joined": parts}

    @property
    def files(self) -> Sequence[Store]:
        return self._files

    @property
    def shapes(self) -> Shapes:
        return {name: self.first.shapes[name] for name in self._names}

    @property
    def labels(self) -> np.ndarray:
        return self.first.labels

    def labels_of(self, rows: Numbers) -> np.ndarray:
        return self.first.labels_of(rows)

    @property
    def digests(self) -> np.ndarray:
        return self.first.digests

    @property
    def eval_digests(self) -> np.ndarray | None:
        return self.first.eval_digests if self.with_eval else None

    @property
    def eval_labels(self) -> np.ndarray | None:
        return self.first.eval_labels if self.with_eval else None

    @cached_property
    def canaries(self) -> Mapping[str, np.ndarray]:
        """Those of all files; of several teachers without what each of them answered."""
        parts = [
            (found, start) for file, start in zip(self.files, self.offsets, strict=True) if (found := file.canaries)
        ]
        names = [name for name in parts[0][0] if all(name in found for found, _ in parts)] if parts else []
        names = [name for name in names if name not in self.apart]
        return {
            name: np.concatenate([found[name] + (start if name == "view" else 0) for found, start in parts])
            for name in names
        }

    @property
    def offsets(self) -> Sequence[int]:
        """The number here of the first view of each file."""
        return [0] * len(self.files)

    @property
    def notes(self) -> Sequence[str]:
        """Which file keeps the others' answers to the evaluation images from being used."""
        if "logits" not in self._names or self.has_eval("logits"):
            return ()
        have = [str(file.path) for file in self.files if file.has_eval("logits")]
        lack = [str(file.path) for file in self.files if not file.has_eval("logits")]
        if not have:
            return ()
        reason = f"{', '.join(lack)} has no answers to them" if lack else "the files have answers to different ones"
        return (f"agreement on the evaluation images is not measured: {reason}",)

    def __len__(self) -> int:
        return len(self.first)

    def has_eval(self, name: str) -> bool:
        return self.with_eval and name in self._names and all(file.has_eval(name) for file in self.files)


class MoreViews(Joined):
    """The views of one teacher, file after file."""

    def __init__(self, files: Sequence[Store]):
        shapes = files[0].shapes
        names = [name for name in shapes if all(file.shapes.get(name) == shapes[name] for file in files)]
        if len({file.meta["teacher"].get("taps") for file in files}) > 1:  # f1 of one need not be f1 of another
            names = [name for name in names if name == "logits"]
        super().__init__(files, names)
        self.starts = np.cumsum([0, *(file.views for file in files)])
        self.alike = all(same_constants(self.first, file) for file in files)
        if not self.alike and names != ["logits"]:
            strange = next(file for file in files if not same_constants(self.first, file))
            expected, found = f"the constants of {self.path}", "others: each dump trained its own"
            remedy = "dump all views into one file; for methods of logits, `kdcache prune --knowledge logits` each file"
            raise CacheError(strange.path, expected, found, remedy)
        self.require_other_views()

    def require_other_views(self) -> None:
        """Refuses a view that two files hold, or one file twice."""
        rows = np.arange(min(COMPARED, len(self)))
        seen: dict[bytes, str] = {}
        for file in self.files:
            for view in range(file.views):
                seeds = file.seeds(view, rows).tobytes()
                if seeds in seen:
                    found = f"view {view} of it again, from {seen[seeds]}"
                    remedy = "dump more views with `kdcache dump-logits --first-view N`, or with another --seed"
                    raise CacheError(file.path, "other views than the other files", found, remedy)
                seen[seeds] = str(file.path)

    @property
    def views(self) -> int:
        return int(self.starts[-1])

    @property
    def offsets(self) -> Sequence[int]:
        return self.starts[:-1].tolist()

    @property
    def constants(self) -> Mapping[str, Tensor]:
        return self.first.constants if self.alike else {}

    def seeds_of(self, items: np.ndarray) -> np.ndarray:
        out = np.empty(len(items), dtype=np.int64)
        for file, place, own in self.parts(items):
            out[place] = file.seeds_of(own)
        return out

    def gather(self, items: np.ndarray, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for file, place, own in self.parts(items):
            for name, values in file.gather(own, self.names if names is None else names, device).items():
                if name not in out:
                    out[name] = values.new_empty((len(items), *values.shape[1:]))
                out[name][torch.from_numpy(place).to(values.device)] = values
        return out

    def read_eval(self, rows: Numbers, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return self.first.read_eval(rows, names, device)

    def advise(self, view: int, names: Sequence[str]) -> None:
        file, own = self.file_of(view)
        file.advise(own, names)

    def bytes_of_view(self, names: Sequence[str]) -> int:
        return max(file.bytes_of_view(names) for file in self.files)

    def hold(self, view: int, names: Sequence[str], device) -> Held:
        file, own = self.file_of(view)
        return file.hold(own, names, device)

    def file_of(self, view: int) -> tuple[Store, int]:
        """The file of a view, and its number there."""
        number = int(np.searchsorted(self.starts, view, side="right")) - 1
        return self.files[number], view - int(self.starts[number])

    def parts(self, items: np.ndarray):
        """(file, places in the batch, item numbers of its own) for every file that a batch touches, at least one."""
        items, starts = whole_numbers(self.path, "item numbers", items, len(self) * self.views), self.starts * len(self)
        which = np.searchsorted(starts, items, side="right") - 1
        for number in np.unique(which).tolist() or [0]:
            place = np.flatnonzero(which == number)
            yield self.files[number], place, items[place] - starts[number]


class Average(Joined):
    """What several teachers say of the same views: their logits averaged with weights, their embeddings side by side.

    `logits` averages them as they are; `probability` averages the softmaxes at a temperature, in logits again.
    Embeddings are standardised by each file's own mean and deviation, whatever the weights.
    """

    apart = frozenset({"logits"})

    def __init__(self, files: Sequence[Store], weights: Sequence[float] | None, space: str, temperature: float):
        lacking = [file for file in files if file.shapes.get("logits") != (len(files[0].classes),)]
        names = ["logits"] * (not lacking) + [EMB] * all(EMB in file.names for file in files)
        if not names:
            found, remedy = f"only {', '.join(lacking[0].names)}", "dump them with st, or all of them with feat"
            raise CacheError(lacking[0].path, "logits to average", found, remedy)
        super().__init__(files, names)
        weights = [1.0] * len(files) if weights is None else list(weights)
        if len(weights) != len(files) or not all(0 <= w < math.inf for w in weights) or not sum(weights) > 0:
            expected = f"{len(files)} weights from 0, not all 0"
            raise UsageError("`average_weights`", expected, str(weights), "give one for each cache")
        self.weights = [w / sum(weights) for w in weights]
        self.space, self.temperature = space, temperature
        rows = np.arange(min(COMPARED, len(self)))
        for file in files[1:]:
            if file.views != self.first.views or any(
                not np.array_equal(file.seeds(v, rows), self.first.seeds(v, rows)) for v in range(file.views)
            ):
                remedy = "dump all teachers with `kdcache dump-logits` and the same --seed and --views"
                raise CacheError(file.path, f"the views of {self.path}", "other seeds", remedy)

    @cached_property
    def meta(self) -> dict:
        how = {"of": self.space, "temperature": self.temperature, "weights": self.weights}
        return super().meta | {"average": how}

    @property
    def shapes(self) -> Shapes:
        found = super().shapes
        return {**found, EMB: (sum(file.shapes[EMB][0] for file in self.files),)} if EMB in found else found

    @cached_property
    def moments(self) -> list[Moments]:
        """Of the embeddings of each file, when they are first asked for."""
        return [moments(file, EMB) for file in self.files]

    @property
    def views(self) -> int:
        return self.first.views

    @property
    def constants(self) -> Mapping[str, Tensor]:
        return {}

    def seeds_of(self, items: np.ndarray) -> np.ndarray:
        return self.first.seeds_of(items)

    def gather(self, items: np.ndarray, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return self.averaged(lambda file: file.gather(items, self.asked_for(names), device))

    def read_eval(self, rows: Numbers, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return self.averaged(lambda file: file.read_eval(rows, self.asked_for(names), device))

    def advise(self, view: int, names: Sequence[str]) -> None:
        for file in self.files:
            file.advise(view, names)

    def bytes_of_view(self, names: Sequence[str]) -> int:
        return sum(file.bytes_of_view(names) for file in self.files)

    def hold(self, view: int, names: Sequence[str], device) -> Held:
        held = {file: file.hold(view, names, device) for file in self.files}
        return lambda rows: self.averaged(lambda file: held[file](rows))

    def asked_for(self, names: Sequence[str] | None) -> Sequence[str]:
        """Refuses what teachers do not share."""
        if strange := [name for name in names or () if name not in self.names]:
            expected = f"knowledge out of {', '.join(self.names)}, of several teachers"
            raise UsageError(self.path, expected, repr(strange[0]), "name what they have in common")
        return self.names if names is None else names

    def averaged(self, ask: Callable[[Store], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        parts = [ask(file) for file in self.files]
        each = {name: [part[name] for part in parts] for name in parts[0]}
        return {name: self.beside(rows) if name == EMB else self.mean(rows) for name, rows in each.items()}

    def beside(self, embeddings: Sequence[Tensor]) -> Tensor:
        return torch.cat([m.standardised(rows) for m, rows in zip(self.moments, embeddings, strict=True)], 1)

    def mean(self, logits: Sequence[Tensor]) -> Tensor:
        if self.space == "logits":
            return reduce(torch.add, [w * part for w, part in zip(self.weights, logits, strict=True)])
        parts = [
            part.div(self.temperature).log_softmax(1) + math.log(w)
            for w, part in zip(self.weights, logits, strict=True)
            if w
        ]
        return torch.stack(parts).logsumexp(0) * self.temperature


def join(
    files: Sequence[Store],
    weights: Sequence[float] | None = None,
    space: str | None = None,
    temperature: float = 1.0,
) -> Store:
    """One cache as it is; of one teacher, their views; of several, their average, of `probability` or of `logits`."""
    for file in files[1:]:
        require_same_images(files[0], file)
    teachers = {str(sorted(teacher_of(file.meta).items(), key=str)) for file in files}
    if len(teachers) > 1:
        return Average(files, weights, space or "probability", temperature)
    for name, given in (("average", space), ("average_weights", weights)):
        if given is not None:
            found = "one cache" if len(files) == 1 else "caches of one teacher, which are more views"
            raise UsageError(f"`{name}`", "caches of several teachers", found, "leave it out")
    return files[0] if len(files) == 1 else MoreViews(files)
