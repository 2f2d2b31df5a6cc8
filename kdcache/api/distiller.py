"""A student and its teacher, in the style of Keras."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kdcache import jobs
from kdcache.checks import require_kind
from kdcache.errors import KdcacheWarning, UsageError
from kdcache.models.heads import without_second_head
from kdcache.models.network import Network
from kdcache.models.weights import save
from kdcache.pseudo import PseudoTeacher
from kdcache.runs import ROOT, Run
from kdcache.teachers import Teacher
from kdcache.train import Listeners, Settings
from kdcache.types import quiet

MANY = 10**8  # epochs; before `fit` says how many, no warm-up is too long


def told(line: str) -> None:
    """A remark to whoever runs it."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class History(list):
    """The records of a training's epochs, and `.history`, as Keras has them: a list for each measure."""

    @property
    def history(self) -> dict[str, list]:
        names = dict.fromkeys(name for record in self for name in record)
        return {name: [record.get(name) for record in self] for name in names}


class Distiller:
    """A student and its teacher, in the style of Keras; what `kdcache train-student` does, with its defaults.

    student   a name of `kdcache list models`, MODULE:FACTORY, or a module: it is trained itself, from the weights
              that it has now. Modules take normalised float images; None: what suits the data
    teacher   the path of a cache, several paths, a Cache; a module, which is then asked in every step; "pseudo:0.9",
              or a PseudoTeacher; None for methods that need none, with `data`
    live      `teacher` is the name of a network, which is asked in every step; None: the cache's own. Its `weights` lie
              where train-teacher left them below `runs`, unless they are given
    cache     beside `live` or a made-up teacher: the sample-views are those of this cache, or of several
    mean, std    what such a network is fed with, where its weights do not say it
    augment, fraction    of the data, where no cache says them; a fraction of a cache's rows
    views     before they repeat; of a cache, its first
    average, average_weights    of caches of several teachers
    mix       "labels" mixes images, and two stored answers
    label_smoothing    of the cross-entropy, a share such as 0.1
    tolerate_decoder    levels of 256 by which files may be decoded otherwise than for the cache
    missing    images of `data` beside a cache that it does not know: "refuse", "plain" (labels alone) or "skip"
    taps, student_taps    of networks, by the paths of what is in them: "f1=layer1,f2=layer2,f3=layer3,emb=avgpool"

    >>> distiller = Distiller(student="resnet20", teacher="logits.h5", method="st").compile(lr=0.1)
    >>> history = distiller.fit(epochs=200)
    >>> distiller.evaluate()["top1"] == history[-1]["top1"]
    True
    >>> path = distiller.save("student.safetensors")
    """

    def __init__(
        self, student: str | nn.Module | None = None, teacher=None, method: str = "st", data: str | None = None,
        device: str | None = None, augment: str | None = None, *, live: bool = False, cache=None,
        weights: str | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
        fraction: float = 1.0, views: int | None = None, mix: str | None = None, workers: int | None = None,
        average: str | None = None, average_weights: Sequence[float] | None = None, taps: str | None = None,
        student_taps: str | None = None, label_smoothing: float = 0.0, runs: str | os.PathLike = ROOT,
        missing: str = "refuse", tolerate_decoder: int | None = None,
    ):  # fmt: skip
        self.asked, caches = asked_and_read(teacher, cache, live)
        if missing != "refuse" and (caches is None or data is None):
            raise UsageError("`missing`", "`data` beside a cache", "no such data", "leave it out")
        of_cache = {} if caches is None else {"views": views, "missing": missing}
        opened, store = jobs.open_data(caches, data, augment, fraction, average, average_weights, **of_cache)
        opened.tolerate(tolerate_decoder)
        fed = jobs.normalisation(mean, std)
        self.named = {"live": live, "weights": weights, "normalisation": fed, "taps": taps}
        if isinstance(teacher, nn.Module | PseudoTeacher):
            require_alone(teacher, self.named)
        if isinstance(teacher, nn.Module):
            self.asked = opened.network(teacher, 0, fed, taps)
        self.store, self.runs, own = store, runs, None if store else views
        taught_by = self._teacher(opened, Settings(), own)
        for note in taught_by.notes:
            warnings.warn(note, KdcacheWarning, stacklevel=2)
        self.chosen = jobs.Student(
            opened, student, method, Settings(), taught_by, views=own, mix=mix, device=device, workers=workers,
            taps=student_taps, label_smoothing=label_smoothing,
        )  # fmt: skip
        self.first = copy.deepcopy(student.state_dict()) if isinstance(student, nn.Module) else None
        self.settings: dict = {}
        self.network: Network | None = None
        self.history = History()
        self.listeners = Listeners()

    def _teacher(self, data: jobs.Data, settings: Settings, views: int | None) -> Teacher:
        """Who teaches; a made-up teacher that is named errs under the seed of the training."""
        if isinstance(self.asked, Network | PseudoTeacher):
            pseudo = self.asked if isinstance(self.asked, PseudoTeacher) else None
            return jobs.taught_by(self.store, None if pseudo else self.asked, pseudo)
        shown = self.store.views if self.store else views or settings.epochs
        where = {"cache": self.store, "data": data, "root": self.runs}
        return jobs.named_teacher(self.asked, **where, seed=settings.seed, views=shown, **self.named)

    def __repr__(self) -> str:
        chosen, given = self.chosen, "".join(f", {name}={value!r}" for name, value in self.settings.items())
        teacher = f"{chosen.teacher.name}, {chosen.teacher.views or 'new'} views"
        state = f"{len(self.history)} epochs trained" if self.history else "not trained"
        asked = f"student={chosen.name!r}, teacher=<{teacher}>, method={chosen.method!r}"
        return f"Distiller({asked}, data={chosen.data.train.spec!r}{given}): {state}"

    def compile(self, **settings) -> Distiller:
        """The settings of `kdcache.Settings`: lr, optimizer, schedule, batch, seed, ..."""
        known = Settings.__dataclass_fields__
        if strange := [name for name in settings if name not in known]:
            raise UsageError("compile", f"settings out of {', '.join(known)}", strange[0], "check the spelling")
        Settings(**{"epochs": MANY} | self.settings | settings)  # how many is known when it is fitted
        self.settings |= settings
        return self

    def fit(
        self, epochs: int | None = None, run: str | os.PathLike | None = None, progress=quiet, *, verbose: int = 1,
        resume: bool = False, restart: bool = False, callbacks: Sequence = (),
    ) -> History:  # fmt: skip
        """Trains from the beginning; the records of all epochs, each of which is a line on standard error.

        run        a folder where they are kept, with the weights. `resume` goes on with what was interrupted there,
                   `restart` moves that aside
        progress   what wraps the batches of an epoch: `tqdm.tqdm` shows a bar
        verbose    0: not a line
        callbacks  functions of (epoch, record), called at the end of each epoch; or objects with some of the methods
                   on_train_begin(record), on_epoch_begin(epoch, record), on_train_batch_end(step, terms),
                   on_epoch_end(epoch, record), on_train_end(record), and set_model(distiller), which is called first.
                   Epochs count from 1. Who sets `distiller.stop_training` ends the training after the epoch
        """
        for option, given in (("resume", resume), ("restart", restart)):
            if given and run is None:
                raise UsageError(f"`{option}`", "`run` beside it", "none", "name the folder with `run`")
        settings = Settings(**self.settings | ({} if epochs is None else {"epochs": epochs}))
        chosen = self.chosen
        if isinstance(self.asked, str) and not self.named["live"]:
            chosen = replace(chosen, teacher=self._teacher(chosen.data, settings, chosen.views))
        self.chosen = replace(chosen, settings=settings)
        if self.first is not None and isinstance(self.chosen.model, nn.Module):
            without_second_head(self.chosen.model, self.first)  # which a training with `hard` has put there
            self.chosen.model.load_state_dict(self.first)
        folder = None if run is None else Run(Path(run), self.chosen.facts(), resume, restart)
        self.listeners = Listeners(callbacks)
        for callback in callbacks:
            getattr(callback, "set_model", quiet)(self)
        told_to = told if verbose else quiet
        self.network, self.history = None, History()  # of a training that is interrupted, nothing is told
        networks, records = self.chosen.train(folder, progress, told_to, self.listeners)
        self.network, self.history = networks[0].eval(), History(records)
        return self.history

    @property
    def stop_training(self) -> bool:
        """Whether the training is to end after this epoch; a callback may set it."""
        return self.listeners.stop

    @stop_training.setter
    def stop_training(self, wanted: bool) -> None:
        self.listeners.stop = wanted

    def evaluate(self) -> dict[str, float]:
        """The measures of `kdcache evaluate` on the evaluation images: top1, nll, agreement, ..."""
        chosen = self.chosen
        judged = chosen.judged()
        evaluation = chosen.data.evaluation(judged, *chosen.place, chosen.settings.dtype)
        return evaluation(self._trained())

    @torch.no_grad()
    def predict(self, images: Tensor, batch: int = 256) -> Tensor:
        """Logits of uint8 images [n, 3, h, w], so many at a time."""
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8:
            remedy = "give pixels as they are; the network normalises them"
            raise UsageError("predict", "uint8 images, from 0 to 255", f"{images.dtype}", remedy)
        network, (device, _) = self._trained(), self.chosen.place
        return torch.cat([network(some.to(device)) for some in images.split(batch)])

    def save(self, path: str | os.PathLike) -> Path:
        """The student alone, as safetensors."""
        place = require_kind("save", Path(path), "safetensors file")
        save(self._trained(), place)
        return place

    def _trained(self) -> Network:
        if self.network is None:
            raise UsageError("Distiller", "a trained student", "none yet", "call fit() first")
        return self.network


def asked_and_read(teacher, cache, live: bool) -> tuple:
    """Who is asked, and the caches that are read: `teacher` is one or the other."""
    is_text = isinstance(teacher, str) and (live or teacher.startswith("pseudo:"))
    if teacher is None or is_text or isinstance(teacher, nn.Module | PseudoTeacher):
        return teacher, cache
    if live or cache is not None:
        expected = "a network by its name, a module or a pseudo teacher, beside `cache` or with `live`"
        raise UsageError("`teacher`", expected, repr(teacher), "name what is read with `cache` alone")
    return None, teacher


def require_alone(teacher: nn.Module | PseudoTeacher, named: Mapping[str, object]) -> None:
    """Refuses what is said of a network that is named, beside a teacher who is given."""
    known = ("live", "normalisation", "taps") if isinstance(teacher, nn.Module) else ()
    for name, value in named.items():
        if value and name not in known:
            option = "`mean` and `std`" if name == "normalisation" else f"`{name}`"
            raise UsageError(option, "a network as teacher", type(teacher).__name__, f"leave {option} out")
