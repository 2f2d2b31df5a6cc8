"""What the last layer makes of the pixels of the last map: CAT compares these maps, SDD the logits of their regions."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.checks import one_of
from kdcache.errors import UsageError
from kdcache.methods.base import Method, upcast
from kdcache.methods.bridges import average, stored, unit
from kdcache.methods.response import above_zero, decoupled, over_labelled, ramp, relative_entropy

SCALES = (1, 2, 4)  # regions along a side, of the whole image, its quadrants and their cells


class ClassAttention(Method):
    """Mean squared difference of the class activation maps, in a grid of cells: the last layer, without its bias.

    `unit` gives each class's map the length 1. The authors weigh pairs of one family from 0.7 to 15 without it, others
    from 15 to 600 with it. `cat/only` learns from the maps alone.
    """

    paper = "CAT-KD, Guo et al. 2023, Class Attention Transfer Based Knowledge Distillation"
    taps = ("cam",)
    term = "cat"
    variants: ClassVar = {
        "unit": {"weight": 15.0, "unit": True},
        "imagenet": {"weight": 0.5, "grid": 4},
        "only": {"ce": 0.0},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 0.7,
        grid: int = 2,
        unit: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        if not grid:
            raise UsageError("method option grid", "one cell or more", "0", "try 2")
        self.weight, self.grid, self.unit = weight, grid, unit
        self.name = f"cat.cam-{grid}"

    def project(self, look):
        return {self.name: average(upcast(look)["cam"], (self.grid, self.grid))}

    def projected(self, shapes):
        return {self.name: (shapes["cam"][0], self.grid, self.grid)}

    def terms(self, look, knowledge, batch):
        mine = average(look["cam"], (self.grid, self.grid)).flatten(2)
        theirs = stored("method cat", knowledge, self.name).to(mine).flatten(2)
        if self.unit:
            mine, theirs = unit(mine), unit(theirs)
        return {"cat": self.weight * F.mse_loss(mine, theirs)}


class ScaleDecoupled(Method):
    """DKD (`of=dkd`) or soft targets (`of=st`) of the logits of each region: the image, its quadrants and their cells.

    A region counts twice where it alone, or the whole image alone, makes the teacher right. `grid` is the regions along
    a side of the finest scale: 4, 2 or 1. The map is first averaged to 4x4 cells, whatever the scales.
    """

    paper = "SDD, Wei, Luo & Luo 2024, Scale Decoupled Distillation"
    taps = ("cam", "logits")
    term = "sdd"
    one_label = needs_labels = True
    variants: ClassVar = {"st": {"of": "st", "weight": 0.9, "warmup": 0, "ce": 0.1}, "quadrants": {"grid": 2}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        of: str = "dkd",
        grid: int = 4,
        alpha: float = 1.0,
        beta: float = 8.0,
        T: float = 4.0,
        warmup: int = 20,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        one_of("method option of", of, ("dkd", "st"))
        if grid not in SCALES:
            raise UsageError("method option grid", "one of 1, 2, 4", f"{grid}", "try 4")
        self.weight, self.of, self.grid, self.alpha, self.beta = weight, of, grid, alpha, beta
        self.T, self.warmup = above_zero("T", T), warmup
        self.keeps_ce = of == "dkd"
        self.name = f"sdd.regions-{grid}"

    def project(self, look):
        return {self.name: self.regions(upcast(look))}

    def projected(self, shapes):
        return {self.name: (shapes["logits"][0], sum(side**2 for side in SCALES if side <= self.grid))}

    def regions(self, look) -> Tensor:
        """The logits of each region, the whole first: its mean of the map, through the last layer."""
        bias = look["logits"] - look["cam"].mean((2, 3))
        cells = average(look["cam"], (4, 4))
        scales = [average(cells, (side, side)).flatten(2) for side in SCALES if side <= self.grid]
        return torch.cat(scales, 2) + bias[:, :, None]

    def terms(self, look, knowledge, batch):
        mine, right = self.regions(look).transpose(1, 2), batch.targets.clamp(min=0)[:, None]
        theirs = stored("method sdd", knowledge, self.name).to(mine).transpose(1, 2)
        known = theirs.argmax(2) == right
        apart = self.apart(*(side.flatten(0, 1) for side in (mine, theirs)), right.expand_as(known).flatten())
        values = ((1 + (known != known[:, :1]).to(mine)) * apart.view(known.shape)).mean(1)
        return {"sdd": self.weight * ramp(batch, self.warmup) * over_labelled(values, batch)}

    def apart(self, mine: Tensor, theirs: Tensor, right: Tensor) -> Tensor:
        """How far each row of logits is from the teacher's."""
        mine, theirs = mine / self.T, theirs / self.T
        if self.of == "st":
            return self.T**2 * relative_entropy(theirs.log_softmax(1), mine.log_softmax(1))
        pairs = zip(decoupled(theirs, right), decoupled(mine, right), strict=True)
        target, others = (relative_entropy(*pair) for pair in pairs)
        return self.T**2 * (self.alpha * target + self.beta * others)
