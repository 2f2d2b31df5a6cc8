"""A teacher whose answers lie in a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.batches import Loader
from kdcache.cache import Store
from kdcache.cache.base import Held
from kdcache.codecs import from_json
from kdcache.errors import CacheError, UsageError
from kdcache.methods import Method
from kdcache.teachers.base import Answers, Forward, Same, SampleViews
from kdcache.types import Batch, Knowledge, Shapes

# what tells two caches of a teacher apart
FACTS = ("views", "run_key", "first_view", "method", "knowledge", "joined", "average", "pruned_from")
LARGEST_HELD = 1 << 30  # bytes of a view's knowledge that are kept on the device


@dataclass(frozen=True)
class Cached:
    """The teacher whose answers are in a cache."""

    cache: Store

    @property
    def name(self) -> str:
        return self.cache.path.stem

    @property
    def views(self) -> int:
        return self.cache.views

    @property
    def notes(self) -> Sequence[str]:
        return self.cache.notes

    @property
    def stored(self) -> Store:
        return self.cache

    def identity(self) -> dict:
        return self.cache.meta["teacher"]

    def facts(self) -> dict:
        meta = self.cache.meta
        cache = {key: meta[key] for key in FACTS if key in meta}
        return {"teacher": self.identity(), "cache": cache, "live": False, "pseudo": None}

    def shapes(self, image: tuple[int, int, int]) -> Shapes:
        shown = self.identity().get("shapes", {}) | self.cache.shapes  # several teachers' are wider than the first's
        return {name: tuple(shape) for name, shape in shown.items()}

    def constants(self) -> Mapping[str, Tensor]:
        return self.cache.constants

    def forward(self) -> Forward:
        return Forward.from_json(self.cache.path, self.cache.meta["forward"])

    def sample_views(self, drawn: SampleViews) -> SampleViews:
        return self.cache

    def eval_logits(self, held_out: Loader, same: Same) -> Tensor | None:
        if not self.cache.has_eval("logits") or not same(self.cache, held_out.source):
            return None
        return self.cache.read_eval(np.arange(len(held_out.source)), ["logits"])["logits"]

    @contextmanager
    def answering(self, method: Method, loader: Loader, text: str) -> Iterator[Answers]:
        shown = self.shapes((3, *loader.view.size))
        yield CacheTeacher(self.cache, self.read_by(method, shown, text), loader.device)

    def rounding(self, answers: Answers, loader: Loader) -> Sequence[str]:
        return ()

    def read_by(self, method: Method, shown: Shapes, text: str) -> list[str]:
        """The knowledge that a method reads: what its projection of such a teacher would be called."""
        stored = self.cache.shapes
        asked = self.cache.meta["teacher"].get("kind", "network") == "network"
        again = f"dump again with `method` {text}" if asked else "only dump-logits, of a network, can store it"
        if "average" in self.cache.meta:
            again = "of several teachers only logits and embeddings are joined: take a method of these, or one cache"

        def refuse(expected: str, found: str, remedy: str = again):
            raise CacheError(self.cache.path, f"{expected}, which {text} needs", found, remedy)

        if missing := [tap for tap in method.taps if tap not in shown]:
            refuse(f"knowledge of {missing[0]}", f"only {', '.join(stored)}")
        try:
            method.use(self.cache.constants)
        except UsageError as error:
            refuse(f"the constant {error.expected}", error.found)
        wanted = method.stores(shown)
        for name, shape in wanted.items():
            if name not in stored:
                method.require_cacheable(shown, text)
                refuse(f"knowledge {name!r}", f"only {', '.join(stored)}")
            if stored[name] != shape:
                refuse(f"{name} of shape {shape}", f"{stored[name]}")
        if "logits" in wanted:
            self.require_kept(method, refuse)
        return list(wanted)

    def require_kept(self, method: Method, refuse: Callable) -> None:
        """Refuses logits of which something is lost that the method reads."""
        again = "store them again with codec f16"
        for file in self.cache.files:
            codec = from_json(file.path, file.meta["knowledge"]["logits"])
            if method.tail_matters and not codec.keeps_all:
                found = f"codec {codec.label} in {file.path}, which models some of them"
                refuse("logits of every class", found, again)
            if method.shift_matters and not codec.keeps_shift:
                refuse("the level of logits", f"codec {codec.label} in {file.path}, which loses it", again)
        if method.shift_matters and self.cache.meta.get("average", {}).get("of") == "probability":
            refuse("the level of logits", "a mean of probabilities, which loses it", "give `average` logits")


class CacheTeacher:
    """What a teacher said when the cache was made: Batch -> Knowledge."""

    def __init__(self, cache: Store, names: Sequence[str], device="cpu"):
        if missing := [name for name in names if name not in cache.names]:
            remedy = "dump again with the `method` that needs it"
            raise CacheError(cache.path, f"knowledge {missing[0]!r}", f"only {', '.join(cache.names)}", remedy)
        self.cache, self.names, self.device = cache, list(names), torch.device(device)
        self.view: int | None = None
        self.held: Held | None = None
        self.hold = self.device.type != "cpu" and cache.bytes_of_view(self.names) < LARGEST_HELD

    def __call__(self, batch: Batch) -> Knowledge:
        items, n = batch.items, len(self.cache)
        view = int(items[0] // n) if len(items) else self.view
        if view is not None and view != self.view:
            self.turn(view)
        if self.held and view is not None and len(items):
            rows = items - view * n
            if rows.min() >= 0 and rows.max() < n:
                return self.held(torch.from_numpy(rows).to(self.device, non_blocking=True))
        return self.cache.gather(items, self.names, self.device)

    def turn(self, view: int) -> None:
        """Begins a view: copies its knowledge to the device if it fits, and has that of the next one read ahead."""
        self.view = view
        self.cache.require_unchanged()  # reading what was cut off would end the process
        self.cache.advise((view + 1) % self.cache.views, self.names)
        if self.hold:
            self.held = self.cache.hold(view, self.names, self.device)
