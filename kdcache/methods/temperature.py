"""Methods that differ from soft targets in their temperature: on the teacher's side alone, or learnt."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdcache.methods.base import Method
from kdcache.methods.response import above_zero, both, kl, relative_entropy


class TransformedTeacher(Method):
    """KL(teacher's p^gamma / U ‖ student), the student at temperature 1; U is the sum of p^gamma over the classes.

    `weighted=True` multiplies each row by its U, which is large where the teacher is unsure: WTTM.
    """

    paper = "TTM, Zheng & Yang 2024, Knowledge Distillation Based on Transformed Teacher Matching"
    taps = ("logits",)
    term = "ttm"
    tail_matters = True
    variants: ClassVar = {"weighted": {"weighted": True}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 45.0,
        gamma: float = 0.1,
        weighted: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.gamma, self.weighted = weight, above_zero("gamma", gamma), weighted
        self.term = "wttm" if weighted else "ttm"

    def terms(self, look, knowledge, batch):
        raised = self.gamma * knowledge["logits"].log_softmax(1)
        log_sum = raised.logsumexp(1, keepdim=True)
        apart = relative_entropy(raised - log_sum, look["logits"].log_softmax(1))
        if self.weighted:
            apart = log_sum[:, 0].exp() * apart
        return {self.term: self.weight * apart.mean()}


class Curriculum(Method):
    """Soft targets at a learnt temperature between 1 and 1 + `span`, which makes the loss as large as it can.

    The gradient of the temperature is reversed, more and more over the first `warmup` epochs. It is trained with the
    student, by the same optimiser.
    """

    paper = "CTKD, Li et al. 2023, Curriculum Temperature for Knowledge Distillation"
    taps = ("logits",)
    term = "ctkd"
    ce = 0.1
    tail_matters = True
    variants: ClassVar = {
        "imagenet": {"weight": 1.0, "warmup": 5, "ce": 1.0},
        "std": {"weight": 9.0, "std": True},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 0.9,
        span: float = 20.0,
        warmup: int = 10,
        std: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.span, self.warmup, self.std = weight, above_zero("span", span), warmup, std
        self.place = nn.Parameter(torch.ones(()))  # of the temperature, before a sigmoid

    def terms(self, look, knowledge, batch):
        theirs, mine = both(knowledge, look, self.std)
        T = 1 + self.span * reversed_gradient(self.place, self.share(batch.epoch)).sigmoid()
        return {"ctkd": self.weight * T**2 * kl(theirs, mine, T)}

    def share(self, epoch: int | None) -> float:
        """How much of the reversed gradient counts in this epoch: from 0 to 1 along a cosine."""
        done = 1.0 if epoch is None else min(epoch / max(self.warmup, 1), 1.0)
        return (1 - math.cos(math.pi * done)) / 2


def reversed_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, to the bit; its gradient is multiplied by -factor."""
    held = value.detach()
    return held - factor * (value - held)
