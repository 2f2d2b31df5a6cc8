"""The Python face: the same engine that the commands use."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from kdcache import jobs
from kdcache.batches import Loader
from kdcache.cache import Cache, open_cache
from kdcache.checks import require_kind
from kdcache.errors import KdcacheWarning, UsageError
from kdcache.models.network import Network
from kdcache.models.weights import save
from kdcache.proof.verdicts import require_eval_images, require_pixels
from kdcache.pseudo import PseudoTeacher
from kdcache.runs import Run
from kdcache.seeds import permutation
from kdcache.train import Settings
from kdcache.types import Batch, quiet
from kdcache.wording import by, count


class CachedDataset(Dataset):
    """What the teacher saw and said, for any training loop: (uint8 image, label, teacher's logits).

    Where the view mixes images, the label is a target for each class, as `cross_entropy` takes it, too.

    Item number v*N+i is row i in view v; nothing depends on what was asked before, or in which process.

    A view that is code of yours is named, as `augment="torchvision:my_views:make"`; no file has it imported by itself.

    >>> data = CachedDataset("logits.h5")
    >>> for images, labels, logits in DataLoader(data.view(0), 128, shuffle=True): ...

    For many epochs with workers that live on, hand out item numbers instead:

    >>> loader = DataLoader(data, 128, sampler=data.epochs(seed=0), num_workers=2, persistent_workers=True)

    With `names`, the third part is a dict of several kinds of knowledge. The evaluation images are a dataset, too:

    >>> data = CachedDataset("logits.h5", names=["logits"])
    >>> image, label, knowledge = data[0]
    >>> knowledge["logits"].shape
    torch.Size([10])
    >>> for images, labels in DataLoader(data.evaluation(answers=False), 128): ...
    """

    def __init__(
        self, path: str | os.PathLike | Cache, data: str | None = None, name: str = "logits",
        augment: str | None = None, *, names: Sequence[str] | None = None,
    ):  # fmt: skip
        self.cache = path if isinstance(path, Cache) else open_cache(path)
        self.named = Named([name] if names is None else list(names), names is not None)
        for one in self.named.names:
            if one not in self.cache.names:
                found = ", ".join(self.cache.names)
                raise UsageError(self.cache.path, f"knowledge {one!r}", f"only {found}", "name one of these")
        self.opened = jobs.Data.of_cache(self.cache, data, augment)
        self.source = self.opened.train
        self.loader = Loader(self.source, self.opened.view, self.cache)
        require_pixels(self.cache, self.loader)

    def __repr__(self) -> str:
        shown = f"{count(self.views, 'view')} of {count(len(self.source), 'row')} of {self.source.spec}"
        view = f"{self.loader.view.name} {by(self.loader.view.size)}"
        return f"CachedDataset({str(self.cache.path)!r}): {shown}, {view}, with {', '.join(self.named.names)}"

    @property
    def views(self) -> int:
        return self.cache.views

    @property
    def classes(self) -> list[str]:
        return self.cache.classes

    def view(self, epoch: int) -> CachedView:
        """One epoch: every row once, in view `epoch` modulo the number of views."""
        self.cache.require_unchanged()
        return CachedView(self, epoch % self.views)

    def epochs(self, seed: int = 0, first: int = 0, shuffle: bool = True) -> Epochs:
        """A sampler of item numbers: each pass over it is the next epoch, in the next view."""
        return Epochs(len(self.source), self.views, seed, first, shuffle)

    def evaluation(self, answers: bool = True) -> EvaluationImages:
        """The evaluation images, un-augmented: (uint8 image, label, the teacher's answer), or the first two."""
        return EvaluationImages(self, answers)

    def __len__(self) -> int:
        return len(self.source) * self.views

    def __getitem__(self, item: int) -> tuple[Tensor, int, Answer]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> list[tuple[Tensor, int, Answer]]:
        items = within(items, len(self), "item numbers")
        batch = self.loader.show(items)
        answers = self.named.rows(self.cache.gather(items, self.named.names))
        labels = batch.targets.tolist() if batch.shares is None else soft_targets(batch, len(self.classes))
        return list(zip(batch.images, labels, answers, strict=True))


Answer: TypeAlias = Tensor | dict[str, Tensor]


class Named(NamedTuple):
    """Which knowledge is handed out: of one kind as it is, of several by name."""

    names: list[str]
    several: bool

    def rows(self, knowledge: dict[str, Tensor]) -> list[Answer]:
        if not self.several:
            return list(knowledge[self.names[0]])
        parts = zip(*(knowledge[name] for name in self.names), strict=True)
        return [dict(zip(self.names, row, strict=True)) for row in parts]


class EvaluationImages(Dataset):
    """The evaluation images of a CachedDataset, and what the teacher said of them."""

    def __init__(self, data: CachedDataset, answers: bool):
        self.cache, self.named = data.cache, data.named if answers else None
        self.loader = data.opened.held_out_loader("cpu", 0)
        if answers:
            self._require_answers(data.named.names)

    def _require_answers(self, names: Sequence[str]) -> None:
        remedy = "take evaluation(answers=False) for images and labels alone"
        if missing := [name for name in names if not self.cache.has_eval(name)]:
            raise UsageError(self.cache.path, f"{missing[0]} of the evaluation images", "none", remedy)
        if not require_eval_images(self.cache, self.loader.source):
            raise UsageError(self.cache.path, "answers to these evaluation images", "answers to others", remedy)

    def __len__(self) -> int:
        return len(self.loader.source)

    def __getitem__(self, row: int) -> tuple:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple]:
        rows = within(rows, len(self), "rows")
        batch = self.loader.show(rows)
        parts = [batch.images, batch.targets.tolist()]
        if self.named:
            parts.append(self.named.rows(self.cache.read_eval(rows, self.named.names)))
        return list(zip(*parts, strict=True))


def soft_targets(batch: Batch, classes: int) -> Tensor:
    """f32 [n, C]: the shares of both labels of each image; what has no label adds nothing."""
    out = torch.zeros(len(batch), classes)
    for targets, share in ((batch.targets, batch.shares), (batch.others, 1 - batch.shares)):
        out.scatter_add_(1, targets.clamp(min=0)[:, None], (share * (targets >= 0))[:, None])
    return out


class CachedView(Dataset):
    """The rows of a CachedDataset in one view."""

    def __init__(self, data: CachedDataset, number: int):
        self.data, self.number = data, number

    def __len__(self) -> int:
        return len(self.data.source)

    def __getitem__(self, row: int) -> tuple[Tensor, int, Tensor]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Tensor, int, Tensor]]:
        return self.data.__getitems__(self.number * len(self) + within(rows, len(self), "rows"))


def within(numbers: Sequence[int], stop: int, what: str) -> np.ndarray:
    """Whole numbers from 0 to stop - 1; counting from the end would hide mistakes in item numbers."""
    if any(isinstance(number, slice) for number in numbers):
        raise TypeError(f"{what} are whole numbers, not slices; torch.utils.data.Subset(data, range(10)) is a part")
    found = np.asarray(numbers)
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(f"{what} are whole numbers, not {found.dtype}")
    if found.size and (found.min() < 0 or found.max() >= stop):
        raise IndexError(f"{what} go from 0 to {stop - 1}")
    return found.astype(np.int64)


class Epochs(Sampler[int]):
    """Item numbers, a keyed order for each epoch; in the main process, so that workers need know nothing."""

    def __init__(self, rows: int, views: int, seed: int, first: int, shuffle: bool):
        self.rows, self.views, self.seed, self.epoch, self.shuffle = rows, views, seed, first, shuffle

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1  # not before a number is wanted: loaders may ask twice
        order = permutation(self.rows, self.seed, epoch) if self.shuffle else np.arange(self.rows)
        yield from (epoch % self.views * self.rows + order).tolist()


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
