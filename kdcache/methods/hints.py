"""The teacher's feature maps themselves, regressed from the student's: FitNet and VID."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.base import Method
from kdcache.methods.bridges import bare_regressor, known_shape, on_smaller_grid, refuse, regressor, row_shape, tap_pair
from kdcache.methods.response import above_zero, kl


class FitNet(Method):
    """The mean squared error of a regressor that maps the student's hint layer to the teacher's.

    RepDistiller's form, for no author's code is known: one stage, a regressor that ends in a ReLU, which cannot
    reach the negative values of a pre-activation teacher; `relu=False` lifts that. `fitnet/paper` learns the hint
    in a stage of its own, then soft targets at T = 3 without T², with a weight that falls from 4 to 1.
    `fitnet/bare` has the regressor of lenscloth/RKD: a 1x1 convolution alone, drawn from U(-0.005, 0.005).
    """

    paper = "FitNets, Romero et al. 2015"
    variants: ClassVar = {
        "zoo": {"weight": 0.1, "tap": "f3.post", "connector": False},
        "paper": {"hint_stage": True},
        "bare": {"weight": 1.0, "bare": True},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 100.0,
        tap: str = "f2.raw",
        connector: bool = True,
        relu: bool = True,
        bare: bool = False,
        hint_stage: bool = False,
        T: float = 3.0,
        anneal: int = 200,
        init_share: float | None = None,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.tap, self.hint_stage, self.anneal = weight, tap, hint_stage, anneal
        self.T = above_zero("T", T)
        self.taps = (tap, "logits") if hint_stage else (tap,)
        self.init_share = (0.3 if hint_stage else 0.0) if init_share is None else init_share
        self.connector: nn.Module = nn.Identity()
        place = f"method fitnet at {tap}"
        if connector:
            shapes = [row_shape("method fitnet", *side, tap) for side in (("student", student), ("teacher", teacher))]
            made = bare_regressor if bare else partial(regressor, relu=relu)
            self.connector = made(place, *shapes)
        elif (mine := known_shape(student, tap)) != (theirs := known_shape(teacher, tap)) and mine and theirs:
            refuse(place, "equal shapes", mine, theirs, "add the option connector=yes")

    def weights(self, stage="main"):
        return {"fitnet.kd": 1.0} if self.hint_stage and stage == "main" else {"fitnet": self.weight}

    def init_terms(self, look, knowledge, batch):
        mine, theirs = tap_pair(look, knowledge, self.tap)
        mine = self.connector(mine)
        if mine.shape != theirs.shape:
            place = f"method fitnet at {self.tap}"
            refuse(place, "equal shapes", mine.shape[1:], theirs.shape[1:], "add the option connector=yes")
        return {"fitnet": self.weight * F.mse_loss(mine, theirs)}

    def terms(self, look, knowledge, batch):
        if not self.hint_stage:
            return self.init_terms(look, knowledge, batch)
        logits = knowledge["logits"].to(look["logits"])
        return {"fitnet.kd": self.confidence(batch.epoch) * kl(logits, look["logits"], self.T)}

    def confidence(self, epoch: int | None) -> float:
        """From 4 to 1 over the first `anneal` epochs."""
        left = 0.0 if epoch is None else 1 - (epoch - 1) / max(self.anneal - 1, 1)
        return 1 + 3 * max(left, 0.0)


class VID(Method):
    """-log N(t; μ(s), σ²) up to a constant, mean over everything, summed over three stages; it can be negative."""

    paper = "VID, Ahn et al. 2019"
    term = "vid"
    taps = ("f1.raw", "f2.raw", "f3.raw")
    variants: ClassVar = {"zoo": {"eps": 1e-6, "mean": True}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        eps: float = 1e-5,
        variance: float = 5.0,
        mean: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        if variance <= eps:
            raise UsageError("method vid", f"an initial variance above {eps}", f"{variance}", "take a larger one")
        self.weight, self.mean = weight, mean
        self.gaussians = nn.ModuleList()
        for tap in self.taps:
            mine = row_shape("method vid", "student", student, tap)
            theirs = row_shape("method vid", "teacher", teacher, tap)
            self.gaussians.append(Gaussian(mine[0], theirs[0], variance, eps))

    def terms(self, look, knowledge, batch):
        pairs = [on_smaller_grid(*tap_pair(look, knowledge, tap)) for tap in self.taps]
        total = sum(gaussian(*pair) for gaussian, pair in zip(self.gaussians, pairs, strict=True))
        return {"vid": self.weight * (total / len(self.taps) if self.mean else total)}


class Gaussian(nn.Module):
    """What the student's map says of the teacher's: a mean for each value, a variance for each channel."""

    def __init__(self, student: int, teacher: int, variance: float, eps: float):
        super().__init__()
        widths = (student, teacher, teacher, teacher)
        convs = [nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths)]
        self.mu = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        self.rho = nn.Parameter(torch.full((teacher,), math.log(math.expm1(variance - eps))))
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        variance = (F.softplus(self.rho) + self.eps).view(1, -1, 1, 1)
        return ((self.mu(student) - teacher).square() / variance + variance.log()).mean() / 2
