"""One yes-or-no question a class, as ImageNet recipes with a binary cross-entropy have it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.methods.base import Method, label_count, labelled
from kdcache.types import Batch


class Binary(Method):
    """Binary cross-entropy of the sigmoids with the teacher's softmax, and with the label; means over classes.

    The second one stands in for the cross-entropy; `labels` is its weight beside the first. Labels may be mixed.
    """

    paper = "VanillaKD, Hao et al. 2023, Revisit the Power of Vanilla Knowledge Distillation"
    taps = ("logits",)
    ce = 0.0
    tail_matters = True

    def __init__(
        self, student=None, teacher=None, *, weight: float = 1.0, labels: float = 1.0, ce: float | None = None
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.labels = weight, labels

    def weights(self, stage="main"):
        return {"bce": self.weight * self.labels, "bkd": self.weight} if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        mine = look["logits"]
        kept = labelled(batch).to(mine)
        wanted = soft_labels(batch, mine) / kept.where(kept > 0, 1)[:, None]
        right = (F.binary_cross_entropy_with_logits(mine, wanted, reduction="none").mean(1) * kept).sum()
        total = label_count(batch, kept.sum())
        taught = F.binary_cross_entropy_with_logits(mine, knowledge["logits"].softmax(1).to(mine))
        return {
            "bce": self.weight * self.labels * right / total.where(total > 0, 1),
            "bkd": self.weight * taught,
        }


def soft_labels(batch: Batch, like: Tensor) -> Tensor:
    """The labels as a row of shares each, of a mixed image those of its two labels; zeros where there is none."""
    parts = [(batch.targets, torch.ones_like(like[:, 0]))]
    if batch.shares is not None and batch.others is not None:
        share = batch.shares.to(like)
        parts = [(batch.targets, share), (batch.others, 1 - share)]
    found = torch.zeros_like(like, requires_grad=False)
    for targets, share in parts:
        found = found.scatter_add(1, targets.clamp(min=0)[:, None], (share * (targets >= 0))[:, None])
    return found
