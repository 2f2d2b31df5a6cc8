"""A student and its teacher, in the style of Keras."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kdcache import jobs
from kdcache.checks import require_kind
from kdcache.errors import KdcacheWarning, UsageError
from kdcache.models.network import Network
from kdcache.models.weights import save
from kdcache.pseudo import PseudoTeacher
from kdcache.runs import Run
from kdcache.train import Settings
from kdcache.types import quiet

MANY = 10**8  # epochs; before `fit` says how many, no warm-up is too long


def told(line: str) -> None:
    """A remark to whoever runs it."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Distiller:
    """A student and its teacher, in the style of Keras; what `kdcache train-student` does, with its defaults.

    student   a name of `kdcache list models`, MODULE:FACTORY, or a module: it is trained itself, from the weights
              that it has now. Modules take normalised float images; None: what suits the data
    teacher   the path of a cache, several paths, a Cache; a module, which is then asked in every step; a
              PseudoTeacher; None for methods that need none, with `data`
    augment, fraction, views    of the data, where no cache says them
    average, average_weights    of caches of several teachers
    mix       "labels" mixes images, and two stored answers
    label_smoothing    of the cross-entropy, a share such as 0.1
    taps, student_taps    of modules, by the paths of what is in them: "f1=layer1,f2=layer2,f3=layer3,emb=avgpool"

    >>> distiller = Distiller(student="resnet20", teacher="logits.h5", method="st").compile(lr=0.1)
    >>> history = distiller.fit(epochs=200)
    >>> distiller.evaluate()["top1"], distiller.save("student.safetensors")
    """

    def __init__(
        self, student: str | nn.Module | None = None, teacher=None, method: str = "st", data: str | None = None,
        device: str | None = None, augment: str | None = None, *, fraction: float = 1.0, views: int | None = None,
        mix: str | None = None, workers: int | None = None, average: str | None = None,
        average_weights: Sequence[float] | None = None, taps: str | None = None, student_taps: str | None = None,
        label_smoothing: float = 0.0,
    ):  # fmt: skip
        network = teacher if isinstance(teacher, nn.Module) else None
        pseudo = teacher if isinstance(teacher, PseudoTeacher) else None
        caches = None if network is not None or pseudo is not None else teacher
        opened, cache = jobs.open_data(caches, data, augment, fraction, average, average_weights)
        if taps and network is None:
            raise UsageError("`taps`", "a module as teacher", "none", "leave them out: a cache has its own")
        taught_by = jobs.taught_by(cache, None if network is None else opened.network(network, 0, taps=taps), pseudo)
        for note in taught_by.notes:
            warnings.warn(note, KdcacheWarning, stacklevel=2)
        options = {"views": views, "mix": mix, "device": device, "workers": workers, "taps": student_taps}
        options["label_smoothing"] = label_smoothing
        self.chosen = jobs.Student(opened, student, method, Settings(), taught_by, **options)
        self.first = copy.deepcopy(student.state_dict()) if isinstance(student, nn.Module) else None
        self.settings: dict = {}
        self.network: Network | None = None
        self.history: list[dict] = []

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
        resume: bool = False, restart: bool = False,
    ) -> list[dict]:  # fmt: skip
        """Trains from the beginning; the records of all epochs, each of which is a line on standard error.

        run        a folder where they are kept, with the weights. `resume` goes on with what was interrupted there,
                   `restart` moves that aside
        progress   what wraps the batches of an epoch: `tqdm.tqdm` shows a bar
        verbose    0: not a line
        """
        settings = Settings(**self.settings | ({} if epochs is None else {"epochs": epochs}))
        self.chosen = replace(self.chosen, settings=settings)
        if self.first is not None:
            self.chosen.model.load_state_dict(self.first)
        folder = None if run is None else Run(Path(run), self.chosen.facts(), resume, restart)
        networks, self.history = self.chosen.train(folder, progress, told if verbose else quiet)
        self.network = networks[0].eval()
        return self.history

    def evaluate(self) -> dict[str, float]:
        """top1, top5, nll, ece, agreement and kl on the evaluation images."""
        evaluation = self.chosen.data.evaluation(self.chosen.judged(), self.chosen.device, self.chosen.workers)
        return evaluation(self._trained())

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits of uint8 images [n, 3, h, w]."""
        return self._trained()(images.to(self.chosen.device))

    def save(self, path: str | os.PathLike) -> Path:
        """The student alone, as safetensors."""
        place = require_kind("save", Path(path), "safetensors file")
        save(self._trained(), place)
        return place

    def _trained(self) -> Network:
        if self.network is None:
            raise UsageError("Distiller", "a trained student", "none yet", "call fit() first")
        return self.network
