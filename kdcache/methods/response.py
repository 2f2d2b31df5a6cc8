"""Methods that read only the teacher's logits."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.checks import one_of
from kdcache.errors import UsageError
from kdcache.methods.base import Method, label_count, labelled
from kdcache.types import Batch, Knowledge, Look


class Plain(Method):
    """Cross-entropy alone: the baseline."""

    paper = "-"
    needs_labels = True

    def terms(self, look, knowledge, batch):
        return {}


class SoftTarget(Method):
    """T² KL(teacher ‖ student) at temperature T, beside a little cross-entropy; `squared=False` leaves T² out.

    `std=True` standardises the logits of both first (Sun et al. 2024, Logit Standardization in Knowledge Distillation).
    """

    paper = "Hinton 2015, Distilling the Knowledge in a Neural Network"
    taps = ("logits",)
    term = "st"
    ce = 0.1
    variants: ClassVar = {
        "at": {},  # Zagoruyko & Komodakis, also RepDistiller and mdistiller
        "watson21": {"weight": 0.1, "T": 6.0, "ce": 0.9},
        "zoo": {"weight": 0.1, "ce": 1.0},
        "tf1": {"weight": 0.3, "squared": False, "ce": 0.7},
        "tf2": {"weight": 0.5, "T": 5.0, "squared": False, "ce": 0.5},
        "ab": {"weight": 1.0, "T": 3.0, "squared": False, "ce": 0.0},
        # FunMatch guards the teacher's logarithm at 1e-8: below 4e-9 per class, and no gradient, so it is left out
        "funmatch": {"weight": 1.0, "T": 1.0, "ce": 0.0},
        "std": {"weight": 9.0, "T": 2.0, "std": True},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 0.9,
        T: float = 4.0,
        squared: bool = True,
        std: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.T, self.squared = weight, above_zero("T", T), squared
        self.std = self.tail_matters = std

    def terms(self, look, knowledge, batch):
        scale = self.weight * (self.T**2 if self.squared else 1)
        theirs, mine = both(knowledge, look, self.std)
        return {"st": scale * kl(theirs, mine, self.T)}


class Logits(Method):
    """Squared distance of the logits, mean over rows; `over` says whether the classes are averaged or summed."""

    paper = "Ba & Caruana 2014, Do Deep Nets Really Need to be Deep?"
    taps = ("logits",)
    term = "logits"
    shift_matters = tail_matters = True
    variants: ClassVar = {
        "zoo": {},
        "paper": {"weight": 0.5, "over": "sum", "ce": 0.0},
        "funmatch": {"weight": 1.0, "over": "sum", "ce": 0.0},
    }

    def __init__(self, student=None, teacher=None, *, weight: float = 0.1, over: str = "mean", ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        one_of("method option over", over, ("mean", "sum"))
        self.weight, self.over = weight, over

    def terms(self, look, knowledge, batch):
        squares = (look["logits"] - knowledge["logits"]).square()
        return {"logits": self.weight * (squares.mean() if self.over == "mean" else squares.sum(1).mean())}


class Decoupled(Method):
    """Soft targets in two parts: is it the true class (TCKD), and which of the wrong ones is it rather (NCKD).

    `beta` depends strongly on the pair of networks; the authors took 2 to 8. The first `warmup` epochs ramp up.
    `std=True` standardises the logits of both first.
    """

    paper = "DKD, Zhao et al. 2022, Decoupled Knowledge Distillation"
    taps = ("logits",)
    keeps_ce = True
    one_label = needs_labels = True
    variants: ClassVar = {
        "res": {"beta": 2.0},  # resnet110 or 56 to resnet32 or 20
        "wrn": {"beta": 6.0},  # wrn40-2 to wrn16-2
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
        warmup: int = 20,
        std: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.alpha, self.beta, self.T, self.warmup = weight, alpha, beta, above_zero("T", T), warmup
        self.std = self.tail_matters = std

    def weights(self, stage="main"):
        tckd, nckd = self.weight * self.alpha, self.weight * self.beta
        return {"tckd": tckd, "nckd": nckd} if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        right = batch.targets.clamp(min=0)
        teacher, student = both(knowledge, look, self.std)
        mine, my_others = decoupled(student / self.T, right)
        theirs, their_others = decoupled(teacher.to(mine) / self.T, right)
        scale = self.weight * ramp(batch, self.warmup) * self.T**2
        return {
            "tckd": scale * self.alpha * over_labelled(relative_entropy(theirs, mine), batch),
            "nckd": scale * self.beta * over_labelled(relative_entropy(their_others, my_others), batch),
        }


def decoupled(logits: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (the true class, any other), and those of the others among themselves."""
    number = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    others = logits.gather(1, number + (number >= right[:, None]))
    # in this form neither side becomes log 0, however sure the network is
    ahead = logits.gather(1, right[:, None]) - others.logsumexp(1, keepdim=True)
    return F.logsigmoid(torch.cat([ahead, -ahead], 1)), others.log_softmax(1)


def ramp(batch: Batch, warmup: int) -> float:
    """What a term of this epoch is multiplied by, where the first `warmup` epochs ramp up."""
    return 1.0 if batch.epoch is None else min(batch.epoch / max(warmup, 1), 1.0)


def both(knowledge: Knowledge, look: Look, std: bool) -> tuple[Tensor, Tensor]:
    """The teacher's logits and the student's, standardised if so asked."""
    pair = knowledge["logits"], look["logits"]
    return (standardised(pair[0]), standardised(pair[1])) if std else pair


def standardised(logits: Tensor) -> Tensor:
    """Each row with mean 0 and (unbiased) standard deviation 1; of a constant row zeros, without a gradient.

    Divided by its rounding error, such a row would learn from noise, 10 million times over.
    """
    mean, std = logits.mean(1, keepdim=True), logits.std(1, keepdim=True)
    flat = std <= 4 * torch.finfo(logits.dtype).eps * logits.abs().amax(1, keepdim=True)
    return torch.where(flat, 0, (logits - mean) / (std + 1e-7))


def relative_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each row of log-probabilities; a class that it rules out (-inf) counts nothing."""
    return F.kl_div(student, teacher.clamp(min=-1e30), reduction="none", log_target=True).sum(1)


def over_labelled(values: Tensor, batch: Batch) -> Tensor:
    """Mean over the labelled rows, as of the cross-entropy; 0 where no row has a label."""
    weights = labelled(batch)
    total = label_count(batch, weights.sum())
    return (values.where(weights > 0, 0) * weights).sum() / total.where(total > 0, 1)


def kl(teacher: Tensor, student: Tensor, T: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of softmaxes at temperature T, mean over rows."""
    return relative_entropy(F.log_softmax(teacher / T, 1), F.log_softmax(student / T, 1)).mean()


def above_zero(option: str, value: float) -> float:
    if not value > 0:
        raise UsageError(f"method option {option}", "a number above 0", f"{value}", "try 4")
    return value
