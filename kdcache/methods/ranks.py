"""USKD: targets without a teacher, of the student's own belief and of how an earlier stage of it ranks the classes."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.methods.base import Method
from kdcache.methods.bridges import map_shape, row_shape
from kdcache.methods.response import decoupled, over_labelled

PLACE = "method uskd"
SMOOTHING = 0.1  # of the label that the earlier stage learns


class Ranks(Method):
    """Soft targets of the student's own: by its belief in the label, and among the other classes by rank.

    A linear classifier of the pooled stage `tap` takes part in the ranking; it learns the smoothed label and is left
    out of the checkpoint. The author's code adds its probabilities to log-probabilities; `uskd/meant` to probabilities.
    """

    paper = "USKD, Yang et al. 2023, From Knowledge Distillation to Self-Knowledge Distillation"
    one_label = needs_labels = True
    batch_matters = True
    variants: ClassVar = {"meant": {"meant": True}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        beta: float = 0.1,
        mu: float = 0.005,
        tap: str = "f2.post",
        meant: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.beta, self.mu, self.tap, self.meant = weight, beta, mu, tap, meant
        self.student_taps = (tap,)
        width = map_shape(PLACE, "student", student, tap)[0]
        [classes] = row_shape(PLACE, "student", student, "logits")
        self.weak = nn.Linear(width, classes)

    def weights(self, stage="main"):
        names = ("uskd.right", "uskd.others", "uskd.weak")
        shares = (self.weight, self.weight * self.beta, self.weight * self.mu)
        return dict(zip(names, shares, strict=True)) if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        logits, right = look["logits"], batch.targets.clamp(min=0)
        weak, log_q = self.weak(look[self.tap].flatten(2).mean(2)), logits.log_softmax(1)
        surprise = -log_q.gather(1, right[:, None])[:, 0]
        square = torch.exp(-2 * surprise.detach())
        known = batch.targets >= 0
        trust = square + 1 - (square * known).sum() / known.sum().clamp(min=1)
        smoothed = F.cross_entropy(weak, right, reduction="none", label_smoothing=SMOOTHING)
        values = {
            "uskd.right": trust * surprise,
            "uskd.others": -(self.targets(weak, log_q, right) * decoupled(logits, right)[1]).sum(1),
            "uskd.weak": smoothed,
        }
        return {name: weight * over_labelled(values[name], batch) for name, weight in self.weights().items()}

    @torch.no_grad()
    def targets(self, weak: Tensor, log_q: Tensor, right: Tensor) -> Tensor:
        """What the other classes are to have: in proportion to 1/rank."""
        place = right[:, None]
        scores = [side / (1 - side.gather(1, place) + 1e-6) for side in (weak.softmax(1), self.belief(log_q))]
        order = (scores[0] + scores[1]).argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1) + 1
        number = torch.arange(rank.shape[1] - 1, device=rank.device).expand(len(rank), -1)
        shares = 1 / rank.gather(1, number + (number >= place)).to(weak)
        return shares / shares.sum(1, keepdim=True)

    def belief(self, log_q: Tensor) -> Tensor:
        return log_q.exp() if self.meant else log_q
