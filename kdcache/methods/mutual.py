"""Networks that teach each other while they learn: nothing to cache, for the peers change with every step."""

from __future__ import annotations

from typing import ClassVar

from kdcache.errors import UsageError
from kdcache.methods.base import Method
from kdcache.methods.response import above_zero, kl


class Mutual(Method):
    """CE + Σ over peers of KL(peer ‖ student), summed as in the paper's code, not averaged.

    Its 1e-8 below logarithms are left out. knowledge["peers"] holds the peers' logits of the same forward, detached:
    [n, students - 1, C].
    """

    paper = "DML, Zhang et al. 2018, Deep Mutual Learning"
    term = "dml"
    students = 2
    variants: ClassVar = {
        "tf1": {"symmetric": True},
        "tf2": {"weight": 0.5, "T": 5.0, "ce": 0.5},  # without T²; theirs steps one network before it is asked
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        T: float = 1.0,
        symmetric: bool = False,
        students: int = 2,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        if students < 2:
            raise UsageError("method dml", "at least 2 students", f"{students}", "ask for more, or take st")
        self.weight, self.T, self.symmetric, self.students = weight, above_zero("T", T), symmetric, students

    def terms(self, look, knowledge, batch):
        mine, total = look["logits"], 0.0
        peers = knowledge["peers"]
        if peers.shape[1] != self.students - 1:
            raise UsageError("method dml", f"{self.students - 1} peers", f"{peers.shape[1]}", "set students to match")
        for peer in peers.unbind(1):
            apart = kl(peer, mine, self.T)
            if self.symmetric:
                apart = (apart + kl(mine, peer, self.T)) / 2
            total = total + apart
        return {"dml": self.weight * total}
