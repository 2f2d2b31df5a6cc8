"""The teacher's decision as a second label."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F

from kdcache.errors import UsageError
from kdcache.methods.base import Method


class HardLabels(Method):
    """Cross-entropy with the class that the teacher finds most probable, of a second head that learns from it alone.

    The head belongs to the student and is saved with it; in evaluation mode, a network answers with the mean of both.
    `hard/one` does without, and gives both labels to the one head.
    """

    paper = "DeiT, Touvron et al. 2021, Training Data-Efficient Image Transformers & Distillation through Attention"
    taps = ("logits",)
    term = "hard"
    ce = 0.5
    variants: ClassVar = {"one": {"heads": 1}}

    def __init__(self, student=None, teacher=None, *, weight: float = 0.5, heads: int = 2, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        if heads not in (1, 2):
            raise UsageError("method option heads", "1 or 2", f"{heads}", "write hard or hard/one")
        self.weight, self.heads, self.two_heads = weight, heads, heads == 2

    def terms(self, look, knowledge, batch):
        if self.two_heads and "logits.dist" not in look:
            remedy = "make it one with kdcache.models.heads.with_second_head, or take hard/one"
            raise UsageError("method hard", "a student with a second head, shown as logits.dist", "none", remedy)
        mine = look["logits.dist" if self.two_heads else "logits"]
        return {"hard": self.weight * F.cross_entropy(mine, knowledge["logits"].argmax(1))}
