"""What every distillation method is: `project` on the teacher's side, `loss` on the student's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.types import Batch, Knowledge, Look, Shapes


class Method(nn.Module):
    """A paper, a formula. Leaves say which taps they look at, what is cached of them, and the terms of the loss.

    A leaf is never subclassed. Trainable parts of the student's side (connectors) are submodules: the trainer
    puts `method.parameters()` into the optimiser and leaves them out of the student's checkpoint.
    """

    paper = ""
    taps: tuple[str, ...] = ()
    """What both networks must show."""
    ce = 1.0
    """The weight of the cross-entropy beside this method's terms."""
    shift_matters = False
    """Whether adding a constant to a row's logits changes the loss; codecs that lose it are refused if so."""
    codecs: Mapping[str, str] = {}
    """Knowledge that wants a codec of its own, such as `bits` for signs."""
    variants: Mapping[str, Mapping[str, object]] = {}
    """Named sets of options: `at/zoo` is `METHODS["at"](**variants["zoo"])`."""
    init_share = 0.0
    """The share of the epochs that goes to an initialisation stage, in which `init_terms` alone are minimised."""
    clips_to_ce = False
    """Whether the gradient of the terms is clipped, variable by variable, to the norm of the cross-entropy's."""
    clipped: frozenset[str] = frozenset()
    """The names of the terms that are clipped so, as the last `loss` gave them."""
    one_label = False
    """Whether the terms take an image to be of one class, so that they mean nothing for mixed ones."""
    students = 1
    """How many networks learn together; with more than one, knowledge["peers"] is [n, students - 1, C]."""

    def __init__(self, student: Shapes | None = None, teacher: Shapes | None = None, *, ce: float | None = None):
        super().__init__()
        self.ce = type(self).ce if ce is None else ce

    def prepare(self, teacher: nn.Module, looks: Callable[[], Iterable[Look]]) -> dict[str, Tensor]:
        """Constants of the teacher, made once before a dump and stored in the cache; `looks()` is one pass."""
        return {}

    def use(self, constants: Mapping[str, Tensor]) -> None:
        """Takes what `prepare` made, before the first `project` or `loss`."""

    def project(self, look: Look) -> Knowledge:
        """Teacher's side, row by row: what gets cached."""
        return {tap: look[tap] for tap in self.taps}

    def init_terms(self, look: Look, knowledge: Knowledge, batch: Batch) -> dict[str, Tensor]:
        """Student's side during the initialisation stage."""
        raise NotImplementedError

    def terms(self, look: Look, knowledge: Knowledge, batch: Batch) -> dict[str, Tensor]:
        """Student's side: named and weighted terms, given in f32 or f64; the cross-entropy is not among them."""
        raise NotImplementedError

    def loss(self, look: Look, knowledge: Knowledge, batch: Batch, stage: str = "main") -> dict[str, Tensor]:
        """Named, weighted terms whose sum is minimised. `stage` is `init` or `main`.

        >>> method = METHODS["st"]()
        >>> loss = method.loss({"logits": student_logits}, {"logits": teacher_logits}, batch)
        >>> sum(loss.values()).backward()
        """
        with torch.autocast(look["logits"].device.type, enabled=False):
            look, knowledge = upcast(look), upcast(knowledge)
            if stage == "init":
                return self.init_terms(look, knowledge, batch)
            terms = self.terms(look, knowledge, batch)
            if self.ce:
                terms = {"ce": self.ce * cross_entropy(look["logits"], batch), **terms}
        return terms


def upcast(tensors):
    """Half precision to f32; f64 is left alone."""
    return {k: v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for k, v in tensors.items()}


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the labelled rows, of a mixed image with the shares of both labels; 0 where no row has a label."""
    if batch.shares is not None:
        return mixed_cross_entropy(logits, batch)
    total = F.cross_entropy(logits, batch.targets, ignore_index=-1, reduction="sum")
    return total / (batch.targets >= 0).sum().clamp(min=1)


def mixed_cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    labels, shares = (batch.targets, batch.others), batch.shares.to(logits)
    total = weight = 0.0
    for targets, share in zip(labels, (shares, 1 - shares), strict=True):
        total = total + (share * F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")).sum()
        weight = weight + (share * (targets >= 0)).sum()
    return total / weight.clamp(min=1)
