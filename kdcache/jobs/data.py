"""Images and views by name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from kdcache.batches import Loader
from kdcache.cache import Store
from kdcache.checks import Range
from kdcache.errors import KdcacheWarning, SourceError, UsageError
from kdcache.jobs.loading import Normalisation
from kdcache.jobs.rows import training_rows
from kdcache.models import build, foreign
from kdcache.models.begin import begin
from kdcache.models.checkpoints import options_of
from kdcache.models.elsewhere import PRETRAINED
from kdcache.models.network import Network, wrapped
from kdcache.models.stages import tapped
from kdcache.models.weights import read
from kdcache.proof.verdicts import require_source
from kdcache.sources import Source, located, open_source, path_in
from kdcache.train import ONE_PROCESS, Evaluation, Team
from kdcache.views import View, from_json, open_view

DEFAULT_DATA = "digits"
TOLERATED = Range(0, 255, whole=True, remedy="try 2")


@dataclass
class Data:
    """The images of both splits and the view of the training ones."""

    train: Source
    held_out: Source
    view: View

    @classmethod
    def open(cls, data: str | None, augment: str | None, fraction: float = 1.0, source=open_source) -> Data:
        """By name; `source` opens images, where they may be open already."""
        train, held_out = (source(data or DEFAULT_DATA, split, fraction) for split in ("train", "eval"))
        return cls(train, held_out, open_view(augment or train.default_view, train.size, len(train)))

    @classmethod
    def of_cache(cls, cache: Store, data: str | None = None, augment: str | None = None, source=open_source) -> Data:
        """What a cache was made from, checked; `augment` names its view where that is code of the user's."""
        stored = cache.meta["source"]
        opened = opener(cache.path, stored, data, source)
        view = from_json(cache.path, cache.meta["view"], augment)
        train = training_rows(cache, opened)
        require_source(cache, train)
        return cls(train, opened("eval"), view)

    def tolerate(self, levels: int | None) -> None:
        """Takes files that are decoded otherwise by so many levels of 256 for those that a teacher saw."""
        self.train.tolerance = int(TOLERATED.checked("`tolerate_decoder`", levels)) if levels is not None else None

    def network(
        self, model: str | nn.Module, seed: int, normalisation: Normalisation | None = None, taps: str | None = None,
        init_from: str | None = None,
    ) -> Network:  # fmt: skip
        """A fresh network of that name, or one that begins with weights; a module is taken with those that it has."""
        if not self.train.classes:
            remedy = "train on a teacher's answers"
            raise UsageError("`data`", "images with classes", f"{self.train.spec} without", remedy)
        mean, std = normalisation or self.normalisation_of(model)
        if isinstance(model, str):
            options = options_of(read(Path(init_from))[0], model) if init_from and init_from != PRETRAINED else {}
            network = build(model, len(self.train.classes), mean, std, seed=seed, **options)
        else:
            network = wrapped(model, len(self.train.classes), mean, std)
        if init_from:
            network.begun = begin(network, init_from, own_normalisation=bool(normalisation))
        return self.tapped(network, taps)

    def normalisation_of(self, model: str | nn.Module | None) -> Normalisation:
        """What a network is fed with that has no mean and std of its own: what its library says, else what suits us."""
        other = foreign(model)
        return other.feeding()[1:3] if other else (self.train.mean, self.train.std)

    def tapped(self, network: Network, taps: str | None) -> Network:
        """The network with the taps of a text, else with its own."""
        return tapped(network, taps, self.image)

    def name_classes(self, count: int) -> None:
        """Of images without labels, those that a network tells apart, by their numbers."""
        for source in (self.train, self.held_out):
            source.name_classes([str(number) for number in range(count)])

    def require_labels(self, place: str, asked: str) -> None:
        """Refuses images of which none has a label, for what learns from labels."""
        if not (self.train.labels >= 0).any():
            remedy = "take images with labels, or a method that learns from a teacher alone, such as st or at"
            raise UsageError(place, "images with labels", f"{self.train.spec} without, for {asked}", remedy)

    @property
    def image(self) -> tuple[int, int, int]:
        return (3, *self.view.size)

    def seen_in_evaluation(self) -> dict:
        """What is evaluated: of which images how many, by which view, and at which size."""
        view = self.view.evaluation()
        return {"data": self.held_out.spec, "rows": len(self.held_out), "view": view.name, "size": list(view.size)}

    def evaluation(
        self, teacher: Tensor | None, device: str, workers: int, dtype: str = "f32", team: Team = ONE_PROCESS
    ) -> Evaluation:
        return Evaluation(self.held_out_loader(device, workers), teacher, dtype, team)

    def held_out_loader(self, device: str, workers: int) -> Loader:
        """The evaluation images, un-augmented."""
        return Loader(self.held_out, self.view.evaluation(), 0, device, workers)


def opening(progress) -> Callable[..., Source]:
    """What opens images, and shows its progress where it reads all of them."""
    return partial(open_source, progress=progress)


def opener(file: str | os.PathLike, stored: dict, data: str | None = None, source=open_source) -> Callable[..., Source]:
    """What opens a split of the images whose identity a file of ours holds: of `data`, else where its own are now.

    They keep the name that the file has for them, so that a run which began elsewhere goes on.
    """
    spec = stored["spec"]
    place = None if data else located(spec, file)
    typed, more = path_in(spec)
    if place not in (None, f"{typed}{more}"):
        found = place.removesuffix(more)
        warnings.warn(f"{file}: {spec} is not here; its images are read from {found}", KdcacheWarning, stacklevel=2)

    def opened(split: str, fraction: float = 1.0) -> Source:
        try:
            found = source(data or spec, split, fraction, place)
        except SourceError as error:
            if data or place or not typed:
                raise
            found = "nothing of that name, neither here nor beside it or above"
            remedy = f"name the place where they lie now: `data` {spec.partition(':')[0]}:NEW"
            raise SourceError(file, f"its images at {spec}", found, remedy) from error
        found.name_classes(stored.get("classes", ()))
        return found

    return opened
