"""How the samples of a batch lie to each other."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.checks import one_of
from kdcache.methods.base import Method

TINY = 1e-12  # squared length below which two embeddings are one point: no direction, no gradient
NORMALISED = {"none": (False, False), "teacher": (False, True), "both": (True, True)}


class Relational(Method):
    """Distances between pairs, each network's by its own mean, and angles of triplets; both under a Huber loss.

    The embeddings are cached and the relations formed here, so batches may be composed at will. Angles take B³
    numbers: 8 MB in f32 at B = 128. One row has no relations: both terms are then 0.
    """

    paper = "RKD, Park et al. 2019, Relational Knowledge Distillation"
    taps = ("emb",)
    batch_matters = True
    variants: ClassVar = {
        "author": {"distance": 1.0, "angle": 2.0, "normalise": "teacher"},  # for metric learning
        "tf1": {"normalise": "both", "diagonal": True},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        distance: float = 25.0,
        angle: float = 50.0,
        normalise: str = "none",
        diagonal: bool = False,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        one_of("method option normalise", normalise, NORMALISED)
        self.weight, self.distance, self.angle = weight, distance, angle
        self.normalise, self.diagonal = NORMALISED[normalise], diagonal

    def weights(self, stage="main"):
        distance, angle = self.weight * self.distance, self.weight * self.angle
        return {"rkd.distance": distance, "rkd.angle": angle} if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        sides = look["emb"].flatten(1), knowledge["emb"].flatten(1).to(look["emb"])
        mine, theirs = (direction(x) if asked else x for x, asked in zip(sides, self.normalise, strict=True))
        mine, theirs = relations(mine, self.diagonal), relations(theirs, self.diagonal)
        return {
            "rkd.distance": self.weight * self.distance * F.smooth_l1_loss(mine[0], theirs[0]),
            "rkd.angle": self.weight * self.angle * F.smooth_l1_loss(mine[1], theirs[1]),
        }


def relations(x: Tensor, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Distances [B, B] over their mean, and cosines [B, B, B] of the angle at i between j and k.

    The mean is over pairs of different rows; with `diagonal` over all B², as TensorFlow's port counts.
    """
    n = len(x)
    apart = x[None] - x[:, None]  # differences, not |a|²+|b|²-2ab, which loses its digits between close rows
    squared = apart.square().sum(2)
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=x.device)
    distances = squared.clamp(min=TINY).sqrt().where(off_diagonal, 0)
    mean = distances.sum() / max(n * n if diagonal else n * (n - 1), 1)
    units = direction(apart)
    return distances / mean.clamp(min=TINY), units @ units.mT


def direction(x: Tensor) -> Tensor:
    """Vectors of length 1; 0 without a gradient where there is no length, where a division would explode."""
    squared = x.square().sum(-1, keepdim=True)
    long = squared > TINY
    return (x / squared.where(long, 1).sqrt()).where(long, 0)
