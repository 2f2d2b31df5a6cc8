"""What every teacher is: to a student's training, and to a dump."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdcache.batches import Loader, Seeded, Seeds
from kdcache.cache import Store
from kdcache.errors import CacheError, TeacherError, UsageError
from kdcache.methods import Method
from kdcache.sources import Source
from kdcache.types import Batch, Knowledge, Shapes
from kdcache.views import View

Answers = Callable[[Batch], Knowledge]
"""All that the training loop knows of a teacher."""


Same = Callable[[Store, Source], bool]
"""Whether a cache's evaluation answers are of these images."""


class SampleViews(Seeds, Protocol):
    """The renderings that a student is shown: those of a cache, or others drawn under a key."""

    @property
    def views(self) -> int:
        """How many before they repeat."""


class Drawn(Seeded):
    """Sample-views drawn under a new key, which no teacher has seen."""

    def __init__(self, view: View, key: int, rows: int, views: int):
        super().__init__(view, key, rows)
        self.views = views


class Teacher(Protocol):
    """Who teaches a student: `Cached`, `Live`, `Pseudo` or `Alone`. A training cannot tell which one it has."""

    @property
    def name(self) -> str:
        """For the folder of a run."""

    @property
    def views(self) -> int | None:
        """How many sample-views are given; None: as many as are drawn."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should be told before a training."""

    @property
    def stored(self) -> Store | None:
        """The cache that its answers are read from; None: it is asked."""

    def identity(self) -> dict | None:
        """The teacher as it stands in a cache, and in a run."""

    def facts(self) -> dict:
        """What a run is to be continued with."""

    def shapes(self, image: tuple[int, int, int]) -> Shapes:
        """Of all that it shows or stored, by name: the shape of one row. Nothing: whatever the student shows."""

    def constants(self) -> Mapping[str, Tensor] | None:
        """What methods made of it before a dump; None: nothing was, and it is made anew."""

    def forward(self) -> Forward:
        """The settings that it answers with."""

    def sample_views(self, drawn: SampleViews) -> SampleViews:
        """Those of its cache, else those that were drawn."""

    def eval_logits(self, held_out: Loader, same: Same) -> Tensor | None:
        """Its answers to the evaluation images, for agreement; `same` tells whether stored ones are of these."""

    def answering(self, method: Method, loader: Loader, text: str) -> AbstractContextManager[Answers]:
        """What a method reads of it; `text` is the method as the user wrote it."""

    def rounding(self, answers: Answers, loader: Loader) -> Sequence[str]:
        """Whether what it answers depends on the images asked about together, where that is not known from a dump."""


class Dumped(Protocol):
    """What a dump needs of the teacher that it asks: `LiveTeacher`, `KnownTeacher`."""

    method: Method
    """What is kept of its answers."""
    forward: Forward
    sees: bool
    """Whether it needs the pixels of a batch; if not, none are rendered."""

    def __call__(self, batch: Batch) -> Knowledge: ...

    def logits(self, batch: Batch) -> Tensor:
        """Its answers, whatever the method keeps: for the canaries."""

    def prepare(self, loader: Loader) -> Mapping[str, Tensor]:
        """The constants that its method makes of it."""

    def exactness(self, images: Tensor) -> dict | None:
        """Measures whether an answer depends on the other images asked about; None where that is not measured."""


@dataclass(frozen=True)
class Alone:
    """No teacher: a student learns from labels, or from other students."""

    name = "alone"
    views = None
    notes = ()
    stored = None

    def identity(self) -> None:
        return None

    def facts(self) -> dict:
        return {"teacher": None, "cache": None, "live": False, "pseudo": None}

    def shapes(self, image: tuple[int, int, int]) -> Shapes:
        return {}

    def constants(self) -> None:
        return None

    def forward(self) -> Forward:
        return Forward()

    def sample_views(self, drawn: SampleViews) -> SampleViews:
        return drawn

    def eval_logits(self, held_out: Loader, same: Same) -> None:
        return None

    @contextmanager
    def answering(self, method: Method, loader: Loader, text: str) -> Iterator[Answers]:
        if method.taps:
            remedy = "give a `cache`, or a `teacher` and `live`"
            raise UsageError(f"`method` {text}", "a teacher's answers", "neither a cache nor `live`", remedy)
        yield no_teacher

    def rounding(self, answers: Answers, loader: Loader) -> Sequence[str]:
        return ()


@dataclass(frozen=True)
class Forward:
    """The settings that move the last bits of an answer: fixed in the cache, obeyed on resume and by a live teacher."""

    batch: int = 256
    dtype: str = "f32"
    channels_last: bool = False
    tf32: bool = False
    compile: bool = False

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, place: object, header: dict) -> Forward:
        try:
            forward = cls(**header)
        except TypeError as error:
            raise CacheError(place, "known forward settings", str(error), "read it with a newer kdcache") from None
        if forward.dtype not in ("f32", "bf16"):
            raise CacheError(place, "forward dtype f32 or bf16", repr(forward.dtype), "read it with a newer kdcache")
        return forward


ALONE = Alone()


def no_teacher(batch: Batch) -> Knowledge:
    """The answers for methods that read none."""
    return {}


def require_finite(place: object, knowledge: Knowledge, rows) -> None:
    """Refuses NaN and infinities before they are stored."""
    for name, value in knowledge.items():
        if not torch.isfinite(value).all():
            row = int(rows[int((~torch.isfinite(value)).flatten(1).any(1).nonzero()[0])])
            remedy = "check the teacher's weights and its forward dtype; nothing of this block was written"
            raise TeacherError(place, f"finite {name}", f"NaN or infinity for row {row}", remedy)
