"""What every teacher is, and how it may be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from kdcache.errors import CacheError, TeacherError
from kdcache.types import Batch, Knowledge

Teacher = Callable[[Batch], Knowledge]


@dataclass(frozen=True)
class Forward:
    """The settings that move the last bits of an answer: fixed in the cache, obeyed on resume and by `--live`."""

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


def no_teacher(batch: Batch) -> Knowledge:
    """For methods that need none."""
    return {}


def require_finite(place: object, knowledge: Knowledge, rows) -> None:
    """Refuses NaN and infinities before they are stored."""
    for name, value in knowledge.items():
        if not torch.isfinite(value).all():
            row = int(rows[int((~torch.isfinite(value)).flatten(1).any(1).nonzero()[0])])
            remedy = "check the teacher's weights and its forward dtype; nothing of this block was written"
            raise TeacherError(place, f"finite {name}", f"NaN or infinity for row {row}", remedy)
