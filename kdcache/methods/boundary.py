"""What happens just before a ReLU: AB moves the student's signs, CO the values that the teacher lets through."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.base import Method, upcast
from kdcache.methods.bridges import (
    known_shape,
    refuse,
    regressor,
    row_shape,
    stage_weight,
    stored,
    widen,
)
from kdcache.methods.response import above_zero, kl

TAPS = ("f1.pre", "f2.pre", "f3.pre")


def names(method: str) -> dict[str, str]:
    """Tap to knowledge, such as f1.pre to ab.f1."""
    return {tap: f"{method}.{tap.removesuffix('.pre')}" for tap in TAPS}


class ActivationBoundaries(Method):
    """Initialisation only: every neuron is pushed beyond a margin on the teacher's side of zero.

    Knowledge is one bit per value, t > 0. Afterwards the author distils the logits alone (T = 3, no T², no
    cross-entropy); `ab/rep` and `ab/zoo` train with cross-entropy alone. Connectors only where channels differ.
    """

    paper = "AB, Heo et al. 2019"
    ce = 0.0
    init_share = 0.3
    codecs: Mapping[str, str] = dict.fromkeys(names("ab").values(), "bits")
    variants: ClassVar = {
        "rep": {"logits": False, "ce": 1.0, "rep_connectors": True, "init_share": 0.125},
        "zoo": {"logits": False, "ce": 1.0, "mean": True, "weight": 10.0, "margin": 2.0, "init_share": 0.2},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 3e-3,
        margin: float = 1.0,
        mean: bool = False,
        logits: bool = True,
        T: float = 3.0,
        rep_connectors: bool = False,
        init_share: float | None = None,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.margin, self.mean, self.logits = weight, margin, mean, logits
        self.T = above_zero("T", T)
        self.taps = (*TAPS, "logits") if logits else TAPS
        self.init_share = type(self).init_share if init_share is None else init_share
        self.connectors = nn.ModuleList(self.connect(student, teacher, rep_connectors))

    def weights(self, stage="main"):
        return {"ab": self.weight} if stage == "init" else {"ab.kl": 1.0} if self.logits else {}

    def connect(self, student, teacher, rep: bool) -> list[nn.Module]:
        """Author: all stages or none. RepDistiller: a regressor for each stage whose shape differs."""
        asked = [(known_shape(student, tap), known_shape(teacher, name, tap)) for tap, name in names("ab").items()]
        shapes = [(mine, theirs) for mine, theirs in asked if mine is not None and theirs is not None]
        if len(shapes) < len(asked):
            return [nn.Identity() for _ in asked]
        if rep:
            return [nn.Identity() if s == t else regressor("method ab", s, t, relu=False) for s, t in shapes]
        for tap, (mine, theirs) in zip(TAPS, shapes, strict=True):
            if mine[1:] != theirs[1:]:
                refuse(f"method ab at {tap}", "equal grids", mine, theirs, "take ab/rep, which has connectors for them")
        if all(mine == theirs for mine, theirs in shapes):
            return [nn.Identity() for _ in shapes]
        return [widen(mine[0], theirs[0]) for mine, theirs in shapes]

    def project(self, look):
        signs = {name: (look[tap] > 0).to(look[tap].dtype) for tap, name in names("ab").items()}
        return signs | ({"logits": look["logits"]} if self.logits else {})

    def projected(self, shapes):
        signs = {name: shapes[tap] for tap, name in names("ab").items()}
        return signs | ({"logits": shapes["logits"]} if self.logits else {})

    def init_terms(self, look, knowledge, batch):
        total = 0.0
        for stage, (tap, name) in enumerate(names("ab").items()):
            mine, on = self.connectors[stage](look[tap]), stored("method ab", knowledge, name) > 0
            if mine.shape != on.shape:
                refuse(f"method ab at {tap}", "equal shapes", mine.shape[1:], on.shape[1:], "give it both shapes")
            costs = outside(mine, on.to(mine.device), self.margin)
            total = total + (costs.mean() / 3 if self.mean else stage_weight(stage, 3) * costs.sum() / len(mine))
        return {"ab": self.weight * total}

    def terms(self, look, knowledge, batch):
        if not self.logits:
            return {}
        return {"ab.kl": kl(knowledge["logits"].to(look["logits"]), look["logits"], self.T)}


def outside(student: Tensor, on: Tensor, margin: float) -> Tensor:
    """Squared distance to the margin on the teacher's side of zero, 0 beyond it."""
    return torch.where(on, margin - student, margin + student).clamp(min=0).square()


class Overhaul(Method):
    """Squared distance to the teacher's value before the ReLU, clipped from below at a margin of its channel.

    The margin is the mean of the channel's negative values, told by the batch norm that feeds the ReLU. Where the
    teacher is off and the student is below it already, nothing is asked. Connectors always, as the author has them.
    The form of Zoo has no variant: it takes its margins from the batch, which cannot be cached.
    """

    paper = "CO, Heo et al. 2019, A Comprehensive Overhaul of Feature Distillation"
    term = "co"
    taps = norms = TAPS
    variants: ClassVar = {"imagenet": {"weight": 1e-4}}

    def __init__(self, student=None, teacher=None, *, weight: float = 1e-3, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        self.weight = weight
        self.connectors = nn.ModuleList()
        for tap, name in names("co").items():
            mine = row_shape("method co", "student", student, tap)
            theirs = row_shape("method co", "teacher", teacher, name, tap)
            if mine[1:] != theirs[1:]:
                refuse(f"method co at {tap}", "equal grids", mine, theirs, "take networks with the same strides")
            self.connectors.append(widen(mine[0], theirs[0]))

    def prepare(self, teacher, looks):
        return {f"{name}.margin": margins(teacher.bn_before_relu(tap)) for tap, name in names("co").items()}

    def use(self, constants):
        for tap, name in names("co").items():
            margin = stored("method co", constants, f"{name}.margin")
            margin = margin.view(-1, 1, 1).to(next(self.parameters()).device)
            self.register_buffer(buffer(tap), margin, persistent=False)

    def project(self, look):
        if not hasattr(self, buffer(TAPS[0])):
            raise UsageError("method co", "the teacher's margins", "none", "call use(prepare(teacher, looks)) first")
        clipped = {}
        for tap, values in upcast({tap: look[tap] for tap in TAPS}).items():
            clipped[names("co")[tap]] = torch.maximum(values, getattr(self, buffer(tap)).to(values))
        return clipped

    def projected(self, shapes):
        return {name: shapes[tap] for tap, name in names("co").items()}

    def terms(self, look, knowledge, batch):
        total = 0.0
        for stage, (tap, name) in enumerate(names("co").items()):
            mine = self.connectors[stage](look[tap])
            theirs = stored("method co", knowledge, name).to(mine)
            if mine.shape != theirs.shape:
                refuse(f"method co at {tap}", "equal shapes", mine.shape[1:], theirs.shape[1:], "give it both shapes")
            asked = (mine > theirs) | (theirs > 0)
            total = total + stage_weight(stage, 3) * ((mine - theirs).square() * asked).sum() / len(mine)
        return {"co": self.weight * total}


def buffer(tap: str) -> str:
    return "margin_" + tap.removesuffix(".pre")


def margins(norm: nn.BatchNorm2d) -> Tensor:
    """E[x | x < 0] for x ~ N(β, γ²), channel by channel; -3|γ| where that is hardly ever so."""
    zero = torch.zeros(norm.num_features, dtype=torch.float64)
    mean = zero if norm.bias is None else norm.bias.detach().cpu().double()
    std = zero + 1 if norm.weight is None else norm.weight.detach().cpu().double().abs()
    z = mean / std.clamp(min=1e-30)  # γ can be exactly 0
    below = torch.special.ndtr(-z)
    inside = mean - std * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) / below.clamp(min=1e-3)
    return torch.where(below > 1e-3, inside, -3 * std).float()
