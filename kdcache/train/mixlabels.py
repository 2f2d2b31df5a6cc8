"""The cheap way to mix: two images are mixed, and two stored answers. No teacher saw the mixture.

A view that mixes (`--augment crop-flip+mixup`) asks the teacher about the mixed image itself; this takes any cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdcache.batches import Loader
from kdcache.errors import UsageError
from kdcache.methods import Method
from kdcache.seeds import PARTNER, bijection, sample_seeds
from kdcache.teachers import Answers
from kdcache.types import Batch, Knowledge
from kdcache.views.mixing import Mixing, parse_mixing


@dataclass
class Pair(Batch):
    """Mixed images, beside the two batches that they were mixed of."""

    shares: Tensor = field(kw_only=True)
    of: tuple[Batch, Batch] = field(kw_only=True)


class MixingLoader:
    """The batches of another loader, each image mixed with that of another row in the same view; new pairs each epoch.

    Partner, share and box depend on key, epoch and row alone.
    """

    def __init__(self, loader: Loader, mixing: Mixing, key: int):
        self.loader, self.mixing, self.key = loader, mixing, key
        self.source, self.view, self.device = loader.source, loader.view, loader.device

    def run(self, plan: Iterable[np.ndarray], epoch: int | None = None, pixels: bool = True) -> Iterator[Batch]:
        doubled = (np.concatenate([items, self.partners(items, epoch or 0)]) for items in plan)
        for both in self.loader.run(doubled, epoch, pixels):
            yield self.mixed(both)

    def partners(self, items: np.ndarray, epoch: int) -> np.ndarray:
        n = len(self.source)
        rows = items % n
        return items - rows + bijection(rows, n, self.key, epoch, PARTNER)

    def mixed(self, both: Batch) -> Pair:
        own, other = two_batches(both)
        seeds = sample_seeds(self.key, np.int64(both.epoch or 0), own.rows)
        shares = self.mixing.kept(seeds, self.view.size).to(self.device)
        images = self.mixing.mix(own.images, other.images, seeds)
        size, epoch = both.rows_per_view, both.epoch
        return Pair(images, own.targets, own.items, size, epoch, other.targets, shares=shares, of=(own, other))


def two_batches(both: Batch) -> tuple[Batch, Batch]:
    halves = slice(0, len(both) // 2), slice(len(both) // 2, None)
    own, other = (
        Batch(both.images[half], both.targets[half], both.items[half], both.rows_per_view, both.epoch)
        for half in halves
    )
    return own, other


class MixedAnswers:
    """What a teacher said of both images, as the mean of its probabilities with the shares of the two."""

    def __init__(self, teacher: Answers):
        self.teacher = teacher

    def __call__(self, batch: Batch) -> Knowledge:
        assert isinstance(batch, Pair)
        own, other = (self.teacher(part)["logits"].log_softmax(1) for part in batch.of)
        share = batch.shares[:, None]
        return {"logits": torch.logaddexp(own + share.log(), other + (1 - share).log())}


def parse_mix(text: str) -> Mixing:
    """`labels`, or `labels:mixup:0.2+cutmix`."""
    kind, _, rest = text.partition(":")
    if kind != "labels":
        remedy = "for a teacher that sees the mixture, dump with a view such as crop-flip+mixup"
        raise UsageError("`mix`", "labels, perhaps with a kind as in labels:cutmix", repr(text), remedy)
    return parse_mixing(rest or "mixup")


def require_fit(text: str, method: Method) -> None:
    """Refuses methods that read more than probabilities."""
    if strange := [tap for tap in method.taps if tap != "logits"]:
        found, remedy = f"{strange[0]}, which means nothing when mixed", "dump with a view such as crop-flip+mixup"
        raise UsageError(f"`method` {text} `mix` labels", "logits alone", found, remedy)
    if method.shift_matters:
        found, remedy = "their level, which a mean of probabilities loses", "take st, or a view such as crop-flip+mixup"
        raise UsageError(f"`method` {text} `mix` labels", "a method that reads probabilities", found, remedy)
