"""Methods that read only the teacher's logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdcache.methods.base import Method


class Plain(Method):
    """Cross-entropy alone: the baseline."""

    paper = "-"
    shift_matters = False

    def terms(self, look, knowledge, batch):
        return {}


class SoftTarget(Method):
    """T² KL(teacher ‖ student) at temperature T, beside a little cross-entropy."""

    paper = "Hinton 2015, Distilling the Knowledge in a Neural Network"
    taps = ("logits",)
    ce = 0.1
    shift_matters = False

    def __init__(self, student=None, teacher=None, *, weight: float = 0.9, T: float = 4.0, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.T = weight, T

    def terms(self, look, knowledge, batch):
        return {"st": self.weight * self.T**2 * kl(knowledge["logits"], look["logits"], self.T)}


class Logits(Method):
    """Squared distance of the logits, mean over rows and classes."""

    paper = "Ba & Caruana 2014, Do Deep Nets Really Need to be Deep?"
    taps = ("logits",)

    def __init__(self, student=None, teacher=None, *, weight: float = 0.1, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        self.weight = weight

    def terms(self, look, knowledge, batch):
        return {"logits": self.weight * F.mse_loss(look["logits"], knowledge["logits"])}


def kl(teacher: Tensor, student: Tensor, T: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of softmaxes at temperature T, mean over rows."""
    return F.kl_div(
        F.log_softmax(student / T, 1), F.log_softmax(teacher / T, 1), reduction="batchmean", log_target=True
    )
