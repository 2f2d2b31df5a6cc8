"""Methods that need no teacher, or only the student's own earlier self: label smoothing and Tf-KD."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.methods.base import Method
from kdcache.methods.response import above_zero, kl, over_labelled, relative_entropy


class LabelSmoothing(Method):
    """(1-ε) CE + ε mean over classes of -log q: ε/C on every class, as torch does. `others` leaves the true one out."""

    paper = "Szegedy et al. 2016, Rethinking the Inception Architecture"
    term = "ls"
    ce = 0.9
    needs_labels = True
    variants: ClassVar = {"tfkd": {"others": True}}  # 1-ε on the true class, ε/(C-1) on the others

    def __init__(
        self, student=None, teacher=None, *, weight: float = 0.1, others: bool = False, ce: float | None = None
    ):
        super().__init__(student, teacher, ce=1 - share(weight) if ce is None else ce)
        self.weight, self.others = weight, others
        self.one_label = others

    def terms(self, look, knowledge, batch):
        surprise = -F.log_softmax(look["logits"], 1)
        if self.others:
            wrong = surprise.scatter(1, batch.targets.clamp(min=0)[:, None], 0)  # one_hot would look at the labels
            spread = wrong.sum(1) / max(surprise.shape[1] - 1, 1)
        else:
            spread = surprise.mean(1)
        return {"ls": self.weight * over_labelled(spread, batch)}


class TeacherFree(Method):
    """(1-α) CE + α KL / C times a multiplier, C unless stated, to a teacher that is `sure` of the label, evenly unsure
    of the rest. `self` takes a trained copy of the student as the teacher instead, with T² on both sides.

    The virtual teacher's target is the softmax of its *probabilities* over T, nearly even, and meets a student at
    T = 1; that is the authors' form, and not distillation at temperature T. Without a label there is no such teacher.
    """

    paper = "Tf-KD, Yuan et al. 2020, Revisiting Knowledge Distillation via Label Smoothing Regularization"
    term = "tfkd"
    ce = 0.9
    variants: ClassVar = {"self": {"virtual": False, "weight": 0.95, "T": 6.0, "multiplier": 50.0}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 0.1,
        T: float = 20.0,
        multiplier: float | None = None,
        virtual: bool = True,
        sure: float = 0.99,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=1 - share(weight) if ce is None else ce)
        self.weight, self.T, self.multiplier = weight, above_zero("T", T), multiplier
        self.virtual, self.sure = virtual, sure
        self.one_label = self.needs_labels = virtual
        self.taps = () if virtual else ("logits",)

    def terms(self, look, knowledge, batch):
        logits = look["logits"]
        scale = self.weight * (1.0 if self.multiplier is None else self.multiplier / logits.shape[1])
        if not self.virtual:
            return {"tfkd": scale * self.T**2 * kl(knowledge["logits"], logits, self.T)}
        target = (virtual_teacher(batch.targets, logits, self.sure) / self.T).log_softmax(1)
        return {"tfkd": scale * over_labelled(relative_entropy(target, logits.log_softmax(1)), batch)}


def virtual_teacher(targets: Tensor, logits: Tensor, sure: float) -> Tensor:
    """Probabilities shaped like the logits: `sure` on the label, the rest shared by the other classes."""
    rest = torch.full_like(logits, (1 - sure) / max(logits.shape[1] - 1, 1), requires_grad=False)
    return rest.scatter(1, targets.clamp(min=0)[:, None], sure)


def share(weight: float) -> float:
    if not 0 <= weight <= 1:
        raise UsageError("method option weight", "a share from 0 to 1", f"{weight}", "the rest is the cross-entropy's")
    return weight
