"""SRRL: the student's embedding, as the teacher's last layer sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.base import Method
from kdcache.methods.bridges import last_layer, map_shape, row_shape, stored, widen
from kdcache.methods.checks import times

PLACE = "method srrl"
CONSTANT = "srrl.weight"


class SoftmaxRegression(Method):
    """Mean squared errors of the embedding, and, `beta` times, of the logits that the teacher's last layer makes of it.

    The student's last map goes through a 1x1 convolution, BatchNorm and a ReLU, then the mean over its pixels is taken.
    The teacher's layer is kept in the cache; no logits are.
    """

    paper = "SRRL, Yang et al. 2021, Knowledge Distillation via Softmax Regression Representation Learning"
    taps = ("emb",)
    variants: ClassVar = {"cifar": {"beta": 5.0}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        beta: float = 1.0,
        tap: str = "f3.post",
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        mine = map_shape(PLACE, "student", student, tap)
        theirs = math.prod(row_shape(PLACE, "teacher", teacher, "emb"))
        self.weight, self.beta, self.tap, self.student_taps = weight, beta, tap, (tap,)
        self.connector = widen(mine[0], theirs, nn.ReLU())

    def made_before(self):
        return (CONSTANT,)

    def prepare(self, teacher, looks):
        return {CONSTANT: last_layer(PLACE, teacher, "take feat").weight.detach().float().cpu().clone()}

    def use(self, constants: Mapping[str, Tensor]) -> None:
        layer, width = stored(PLACE, constants, CONSTANT), self.connector.conv.out_channels
        if layer.shape[-1] != width:
            expected, found = f"a last layer of the teacher that reads its embedding of {width}", times(layer.shape)
            raise UsageError(PLACE, expected, found, "name what goes into its last layer, as emb=fc:in")
        self.register_buffer("layer", layer, persistent=False)

    def weights(self, stage="main"):
        return {"srrl": self.weight, "srrl.logits": self.weight * self.beta} if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        if not hasattr(self, "layer"):
            raise UsageError(PLACE, "the teacher's last layer", "none", "call use(prepare(teacher, looks)) first")
        mine = self.connector(look[self.tap]).mean((2, 3))
        apart = mine - knowledge["emb"].flatten(1).to(mine)
        logits = apart @ self.layer.to(mine).T  # its bias is on both sides
        return {
            "srrl": self.weight * apart.square().mean(),
            "srrl.logits": self.weight * self.beta * logits.square().mean(),
        }
