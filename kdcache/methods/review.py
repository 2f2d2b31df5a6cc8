"""ReviewKD: the student's stages, fused from the deepest up, against the teacher's."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.base import Method
from kdcache.methods.bridges import ConvNorm, average, row_shape
from kdcache.methods.response import ramp

PLACE = "method reviewkd"
WIDEST = 512  # channels inside a fusion, at most
SIDES = (4, 2, 1)  # of the grids that a map is averaged to


class Review(Method):
    """Squared errors of the stages before their ReLU and of the embedding, averaged over four sizes of pixels.

    Each stage of the student is fused with what was made of the deeper ones. `pre` takes the student's before their
    ReLU, too; `first` is the shallowest stage: 0 takes all four of a network for ImageNet, as mdistiller does there.
    The first `warmup` epochs ramp up.
    """

    paper = "ReviewKD, Chen et al. 2021, Distilling Knowledge via Knowledge Review"
    taps: tuple[str, ...] = ("f1.pre", "f2.pre", "f3.pre", "emb")
    term = "reviewkd"
    live_only = True
    variants: ClassVar = {"wide": {"weight": 5.0}, "imagenet": {"weight": 1.0, "pre": True, "warmup": 1}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 0.6,
        pre: bool = False,
        first: int = 1,
        warmup: int = 20,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.pre, self.warmup = weight, pre, warmup
        if first not in (0, 1):
            raise UsageError("method option first", "0 or 1", f"{first}", "leave it out")
        stages = range(first, 4)
        self.taps = (*(f"f{stage}.pre" for stage in stages), "emb")
        self.student_taps = tuple(f"f{stage}.{'pre' if pre else 'post'}" for stage in stages)
        mine = [row_shape(PLACE, "student", student, tap)[0] for tap in (*self.student_taps, "emb")]
        theirs = [row_shape(PLACE, "teacher", teacher, tap)[0] for tap in self.taps]
        widths = zip(mine, theirs, [True] * len(stages) + [False], strict=True)
        self.fusions = nn.ModuleList(Fusion(a, min(WIDEST, mine[-1]), b, fused) for a, b, fused in widths)

    def terms(self, look, knowledge, batch):
        mine = [as_map(look[tap]) for tap in (*self.student_taps, "emb")]
        theirs = [as_map(knowledge[tap]).to(mine[0]) for tap in self.taps]
        deeper, total = None, 0.0
        for fusion, x, target in reversed(list(zip(self.fusions, mine, theirs, strict=True))):
            shown, deeper = fusion(x, deeper, target.shape[-2:])
            total = total + over_sizes(shown, target)
        return {"reviewkd": self.weight * ramp(batch, self.warmup) * total}


class Fusion(nn.Module):
    """A stage with the deeper ones, weighed at each pixel by two gates: as the teacher's is, and as it is passed on."""

    def __init__(self, student: int, middle: int, teacher: int, fused: bool):
        super().__init__()
        self.narrow = ConvNorm(nn.Conv2d(student, middle, 1, bias=False))
        self.widen = ConvNorm(nn.Conv2d(middle, teacher, 3, padding=1, bias=False))
        self.gates = nn.Conv2d(2 * middle, 2, 1) if fused else None
        for connector in (self.narrow, self.widen):
            nn.init.kaiming_uniform_(connector.conv.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None, size) -> tuple[Tensor, Tensor]:
        x = self.narrow(x)
        if self.gates is not None and deeper is not None:
            deeper = resized(deeper, x.shape[-2:])
            own, others = self.gates(torch.cat([x, deeper], 1)).sigmoid().split(1, 1)
            x = own * x + others * deeper
        x = resized(x, size)
        return self.widen(x), x


def resized(x: Tensor, size) -> Tensor:
    """To the nearest pixels."""
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, tuple(size), mode="nearest")


def over_sizes(mine: Tensor, theirs: Tensor) -> Tensor:
    """The mean squared error, and those of averages over ever larger pixels, each half as strong as the last."""
    total, whole, strength = F.mse_loss(mine, theirs), 1.0, 1.0
    for side in SIDES:
        if side < mine.shape[2]:
            strength /= 2
            whole += strength
            total = total + strength * F.mse_loss(average(mine, (side, side)), average(theirs, (side, side)))
    return total / whole


def as_map(x: Tensor) -> Tensor:
    """An embedding as a map of one pixel."""
    return x if x.ndim == 4 else x.flatten(1)[:, :, None, None]
