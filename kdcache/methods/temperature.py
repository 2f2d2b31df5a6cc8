"""Methods that differ from soft targets in their temperature: on the teacher's side alone, or learnt."""

from __future__ import annotations

from typing import ClassVar

from kdcache.methods.base import Method
from kdcache.methods.response import above_zero, relative_entropy


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
