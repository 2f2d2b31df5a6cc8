"""Methods of the logits that treat the label's class apart from the others."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from kdcache.methods.base import Method
from kdcache.methods.response import above_zero, both, decoupled, over_labelled, ramp, relative_entropy


class Normalised(Method):
    """Soft cross-entropies: of the label's class, weighted by the teacher's belief in it, and among the others, at T.

    The value keeps the teacher's entropy, so that it does not reach 0; the gradient is that of a KL.
    """

    paper = "NKD, Yang et al. 2023, From Knowledge Distillation to Self-Knowledge Distillation"
    taps = ("logits",)
    one_label = needs_labels = True
    variants: ClassVar = {"cifar": {"T": 3.0, "gamma": 3.5}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        gamma: float = 1.5,
        T: float = 1.0,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.gamma, self.T = weight, gamma, above_zero("T", T)

    def weights(self, stage="main"):
        return {"nkd.right": self.weight, "nkd.others": self.weight * self.gamma} if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        right = batch.targets.clamp(min=0)
        mine, theirs = (decoupled(side["logits"] / self.T, right)[1] for side in (look, knowledge))
        others = -(theirs.exp() * mine).sum(1)
        return {
            "nkd.right": self.weight * over_labelled(believed(look["logits"], knowledge["logits"], right), batch),
            "nkd.others": self.weight * self.gamma * self.T**2 * over_labelled(others, batch),
        }


class WeightedSoftLabels(Method):
    """T² soft cross-entropy at T, each row as strongly as the student is worse at its label than the teacher."""

    paper = "WSLD, Zhou et al. 2021, Rethinking Soft Labels for Knowledge Distillation"
    taps = ("logits",)
    term = "wsld"
    one_label = needs_labels = tail_matters = True
    variants: ClassVar = {"cifar": {"T": 4.0, "weight": 2.25}}

    def __init__(self, student=None, teacher=None, *, weight: float = 2.5, T: float = 2.0, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.T = weight, above_zero("T", T)

    def terms(self, look, knowledge, batch):
        right = batch.targets.clamp(min=0)[:, None]
        mine, theirs = look["logits"], knowledge["logits"]
        losses = [-side.detach().log_softmax(1).gather(1, right)[:, 0] for side in (mine, theirs)]
        strength = -torch.expm1(-losses[0] / (losses[1] + 1e-7))
        surprise = -((theirs / self.T).softmax(1) * (mine / self.T).log_softmax(1)).sum(1)
        return {"wsld": self.weight * self.T**2 * over_labelled(strength * surprise, batch)}


class Refined(Method):
    """KL of (the teacher's favourite, the rest) to (the label, the rest), and KL among the classes below the label.

    Where the teacher is wrong, its confidence goes to the label, and what it prefers to the label is left out.
    `T_alpha` is the temperature of the first part, T unless stated; the first `warmup` epochs ramp up.
    """

    paper = "RLD, Sun et al. 2024, Knowledge Distillation with Refined Logits"
    taps = ("logits",)
    one_label = needs_labels = tail_matters = True
    variants: ClassVar = {
        "t1": {"T_alpha": 1.0},
        "imagenet": {"T": 1.0, "beta": 0.5, "warmup": 1},
        "std": {"weight": 9.0, "T": 2.0, "std": True},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        T: float = 4.0,
        T_alpha: float | None = None,
        warmup: int = 20,
        std: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.alpha, self.beta, self.T = weight, alpha, beta, above_zero("T", T)
        self.T_alpha = None if T_alpha is None else above_zero("T_alpha", T_alpha)
        self.warmup, self.std = warmup, std

    def weights(self, stage="main"):
        found = {"rld.confidence": self.weight * self.alpha, "rld.others": self.weight * self.beta}
        return found if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        right, T = batch.targets.clamp(min=0), self.T_alpha or self.T
        teacher, student = both(knowledge, look, self.std)
        teacher = teacher.to(student)
        sure, mine = decoupled(teacher / T, teacher.argmax(1))[0], decoupled(student / T, right)[0]
        dropped = teacher >= teacher.gather(1, right[:, None])
        # finite, for a row may keep no class at all: then both sides are even, and nothing is between them
        least = torch.finfo(teacher.dtype).min / 4
        kept = [(side / self.T).masked_fill(dropped, least).log_softmax(1) for side in (teacher, student)]
        scale = self.weight * ramp(batch, self.warmup)
        return {
            "rld.confidence": scale * self.alpha * T**2 * over_labelled(relative_entropy(sure, mine), batch),
            "rld.others": scale * self.beta * self.T**2 * over_labelled(relative_entropy(*kept), batch),
        }


def believed(mine: Tensor, theirs: Tensor, right: Tensor) -> Tensor:
    """-log q[y] of each row, times the teacher's p[y]; both at temperature 1."""
    place = right[:, None]
    return -(theirs.softmax(1).gather(1, place) * mine.log_softmax(1).gather(1, place))[:, 0]
