"""Teachers that answer without pixels: a PseudoTeacher, or logits that a user already has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kdcache.batches import Loader
from kdcache.errors import UsageError
from kdcache.methods import Method, build
from kdcache.teachers.base import ALONE, Answers, Forward, Same, SampleViews, Teacher, no_teacher
from kdcache.types import Batch, Knowledge, Shapes
from kdcache.views import View


class Known(Protocol):
    """Logits by row and view, as PseudoTeacher gives them."""

    def logits(self, view, rows) -> np.ndarray: ...


class Described(Known, Protocol):
    def to_json(self) -> dict: ...

    def __len__(self) -> int:
        """Of rows."""


@dataclass(frozen=True)
class Pseudo:
    """A made-up teacher, which has only logits; `beside` a cache it is asked about the sample-views of that cache."""

    teacher: Described
    beside: Teacher = ALONE

    stored = None

    @property
    def name(self) -> str:
        return self.beside.name

    @property
    def views(self) -> int | None:
        return self.beside.views

    @property
    def notes(self) -> Sequence[str]:
        return ()

    def identity(self) -> dict | None:
        return self.beside.identity()

    def facts(self) -> dict:
        return self.beside.facts() | {"pseudo": self.teacher.to_json()}

    def shapes(self, image: tuple[int, int, int]) -> Shapes:
        return {}

    def constants(self) -> None:
        return None

    def forward(self) -> Forward:
        return KnownTeacher.forward

    def sample_views(self, drawn: SampleViews) -> SampleViews:
        return self.beside.sample_views(drawn)

    def eval_logits(self, held_out: Loader, same: Same) -> None:
        return None

    @contextmanager
    def answering(self, method: Method, loader: Loader, text: str) -> Iterator[Answers]:
        require_logits_alone(method, text)
        if not method.taps:
            yield no_teacher
            return
        require_unmixed(loader.view)
        require_rows(self.teacher, len(loader.source))
        yield KnownTeacher(self.teacher, loader.device)

    def rounding(self, answers: Answers, loader: Loader) -> Sequence[str]:
        return ()


def require_logits_alone(method: Method, text: str) -> None:
    """Refuses methods that want more of a teacher: its feature maps, or what is made of its weights before a dump."""
    wanted = [tap for tap in method.taps if tap != "logits"]
    try:
        method.use({})
    except UsageError as error:
        wanted.append(error.expected)
    if wanted:
        remedy = "take a method that reads what a made-up teacher has, such as st"
        raise UsageError(f"`method` {text}", wanted[0], "a pseudo teacher, who has logits alone", remedy)


def require_unmixed(view: View) -> None:
    """Refuses a view that mixes images: a pseudo teacher answers by row number, and no row is a mixture."""
    if view.mixes:
        remedy = "mix its answers when you train: `mix` labels"
        raise UsageError(f"view {view.name}", "images as they are, for a pseudo teacher", "mixed ones", remedy)


def require_rows(teacher: Described, rows: int) -> None:
    """Refuses a pseudo teacher of other images: it answers by row number."""
    if len(teacher) != rows:
        remedy = "make it from the labels of the images that are trained on"
        expected = f"a pseudo teacher of {rows} rows, as the data has"
        raise UsageError("`teacher`", expected, f"one of {len(teacher)}", remedy)


class KnownTeacher:
    """Answers a Batch by its rows and views; it needs no pixels, and a dump of it renders none."""

    sees = False
    forward = Forward(batch=1024)

    def __init__(self, known: Known, device="cpu"):
        self.known, self.device = known, device
        self.method: Method = build("st")

    def __call__(self, batch: Batch) -> Knowledge:
        return {"logits": self.logits(batch)}

    def logits(self, batch: Batch) -> Tensor:
        logits = self.known.logits(batch.views, batch.rows)
        return torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float32)).to(self.device)

    def prepare(self, loader: Loader) -> Mapping[str, Tensor]:
        return {}

    def exactness(self, images: Tensor) -> None:
        return None


class StoredLogits:
    """Logits [views, rows, classes] that somebody has computed."""

    def __init__(self, logits: np.ndarray):
        self.table = logits

    def logits(self, view, rows) -> np.ndarray:
        return self.table[np.asarray(view), np.asarray(rows)]
