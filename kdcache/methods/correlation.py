"""DIST: the student's probabilities are to go with the teacher's, by rows and by columns, not to equal them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from kdcache.methods.base import Method
from kdcache.methods.response import above_zero


class Correlations(Method):
    """T² (1 - Pearson correlation) of the probabilities: of each row over the classes, of each class over the batch.

    The second one depends on who else is in the batch; in a batch of one it is a constant.
    """

    paper = "DIST, Huang et al. 2022, Knowledge Distillation from A Stronger Teacher"
    taps = ("logits",)
    tail_matters = True
    batch_matters = True
    variants: ClassVar = {"imagenet": {"T": 1.0}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 2.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        T: float = 4.0,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.beta, self.gamma, self.T = weight, beta, gamma, above_zero("T", T)

    def weights(self, stage="main"):
        found = {"dist.inter": self.weight * self.beta, "dist.intra": self.weight * self.gamma}
        return found if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        mine, theirs = ((side["logits"] / self.T).softmax(1) for side in (look, knowledge))
        scale = self.weight * self.T**2
        return {
            "dist.inter": scale * self.beta * (1 - correlation(mine, theirs).mean()),
            "dist.intra": scale * self.gamma * (1 - correlation(mine.T, theirs.T).mean()),
        }


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, of each pair of rows; 0 without a gradient where a row is constant but for rounding."""
    centred = [x - x.mean(1, keepdim=True) for x in (a, b)]
    sizes = [x.norm(dim=1) for x in centred]
    least = 4 * torch.finfo(a.dtype).eps
    varied = (sizes[0] > least * a.norm(dim=1)) & (sizes[1] > least * b.norm(dim=1))
    return torch.where(varied, (centred[0] * centred[1]).sum(1) / (sizes[0] * sizes[1] + 1e-8), 0)
