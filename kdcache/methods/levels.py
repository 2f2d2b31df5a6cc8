"""MLKD: the teacher's probabilities at several temperatures, row by row, among the rows, and among the classes."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from kdcache.errors import UsageError
from kdcache.methods.base import Method
from kdcache.methods.response import above_zero, both, relative_entropy

OTHERS = (3.0, 5.0, 2.0, 6.0)  # temperatures beside T
WEAK_TWICE = 2  # of them: of the last so many, the authors' code reads the first view in place of the second


class MultiLevel(Method):
    """T² KL of each row of two views of it, and squared distances of the Gram matrices of rows and of classes.

    The first half of a batch are some rows in one view, the second half the same rows in the next; the Gram matrices
    are of the first half. All is summed over T and the temperatures 2, 3, 5 and 6. Rows of which the teacher is surer
    than of half of them, and classes that it gives more than to half of them, are to be left out: the authors' code
    (`code`) multiplies the means by the share that is left, and their paper leaves the rows out of the first
    view's KL. `std=True` standardises the logits of the KL first.
    """

    paper = "MLKD, Jin et al. 2023, Multi-Level Logit Distillation"
    taps = ("logits",)
    ce = 0.2  # 0.1 of each view's, where a batch has both
    views = 2
    tail_matters = batch_matters = True
    variants: ClassVar = {
        "code": {},
        "paper": {"masked": True},
        "std": {"weight": 9.0, "T": 2.0, "std": True},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 0.9,
        T: float = 4.0,
        masked: bool = False,
        std: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.T, self.masked, self.std = weight, above_zero("T", T), masked, std

    def weights(self, stage="main"):
        return dict.fromkeys(("mlkd.rows", "mlkd.batch", "mlkd.classes"), self.weight) if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        theirs, mine = (halves(z) for z in both(knowledge, look, self.std))
        teacher, student = (halves(side["logits"])[0] for side in (knowledge, look))
        said = teacher.softmax(1)
        unsure, rare = (least(values).to(said) for values in (said.amax(1), said.sum(0)))
        temperatures = (self.T, *OTHERS)
        rows = between = classes = 0.0
        for number, T in enumerate(temperatures):
            first, second = (T * T * at_temperature(a, b, T) for a, b in zip(theirs, mine, strict=True))
            if self.masked:
                rows = rows + (unsure * first).mean() + second.mean()
            else:
                late = number >= len(temperatures) - WEAK_TWICE
                rows = rows + unsure.mean() * first.mean() + (first if late else second).mean()
            p, q = ((z / T).softmax(1) for z in (teacher, student))
            between = between + unsure.mean() * apart(p, q) / len(p)
            classes = classes + rare.mean() * apart(p.T, q.T) / p.shape[1]
        return {
            "mlkd.rows": self.weight * rows,
            "mlkd.batch": self.weight * between,
            "mlkd.classes": self.weight * classes,
        }


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the first view, and those of the second."""
    if len(rows) % 2:
        found = f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}"
        raise UsageError("method mlkd", "two views of each row in a batch", found, "give one view after the other")
    first, second = rows.tensor_split(2)
    return first, second


def at_temperature(teacher: Tensor, student: Tensor, T: float) -> Tensor:
    """KL of each row."""
    return relative_entropy((teacher / T).log_softmax(1), (student / T).log_softmax(1))


def apart(teacher: Tensor, student: Tensor) -> Tensor:
    """The squared distance of the Gram matrices of the rows."""
    return (teacher @ teacher.T - student @ student.T).square().sum()


def least(values: Tensor) -> Tensor:
    """Which of them are at most their median."""
    return values <= values.median()
