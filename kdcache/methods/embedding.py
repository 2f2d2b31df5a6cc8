"""The pooled embedding, one by one: regressed as it is (feat), normalised by its row (VkD) or by the batch (SRD)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.methods.base import Method
from kdcache.methods.bridges import row_shape
from kdcache.methods.response import kl

NOTHING = 1e-12  # a sum of fourth powers below this has no logarithm worth following
SRD_EPS = 1e-4  # beside the variances, as the authors have it


class Feature(Method):
    """Mean squared error of the embeddings; the student's goes through a linear map where the widths differ."""

    paper = "timm, feature distillation"
    taps = ("emb",)
    term = "feat"

    def __init__(self, student=None, teacher=None, *, weight: float = 1.0, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        mine, theirs = widths("feat", student, teacher)
        self.weight = weight
        self.connector = nn.Identity() if mine == theirs else nn.Linear(mine, theirs)

    def terms(self, look, knowledge, batch):
        mine, theirs = embeddings(look, knowledge)
        return {"feat": self.weight * F.mse_loss(self.connector(mine), theirs)}


class Orthogonal(Method):
    """Huber loss between an orthogonal projection of the student's embedding and the teacher's, normalised by row.

    The authors train a second head on soft targets beside it: `vkd+st:1:T=1:ce=1` is that with one head.
    """

    paper = "VkD, Miles, Elezi & Deng 2024"
    taps = ("emb",)
    term = "vkd"

    def __init__(self, student=None, teacher=None, *, weight: float = 1.0, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        mine, theirs = widths("vkd", student, teacher)
        self.weight = weight
        self.connector = nn.utils.parametrizations.orthogonal(nn.Linear(mine, theirs, bias=False))

    def terms(self, look, knowledge, batch):
        mine, theirs = embeddings(look, knowledge)
        return {"vkd": self.weight * F.smooth_l1_loss(self.connector(mine), F.layer_norm(theirs, theirs.shape[1:]))}


class SimpleRecipe(Method):
    """Twice the logarithm of the summed fourth powers of differences, both sides normalised over the batch; and KL.

    The sum stands in the logarithm, so the gradient does not depend on its scale. One row has no statistics: the
    first term is then a constant.
    """

    paper = "SRD, Miles & Mikolajczyk 2024, Understanding the Role of the Projector"
    taps = ("emb", "logits")
    batch_matters = True

    def __init__(self, student=None, teacher=None, *, weight: float = 1.0, kd: float = 1.0, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.kd = weight, kd
        self.connector = nn.Linear(*widths("srd", student, teacher))

    def weights(self, stage="main"):
        return {"srd": self.weight, "srd.kd": self.weight * self.kd} if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        mine, theirs = embeddings(look, knowledge)
        apart = over_batch(self.connector(mine)) - over_batch(theirs)
        return {
            "srd": self.weight * 2 * apart.pow(4).sum().clamp(min=NOTHING).log(),
            "srd.kd": self.weight * self.kd * kl(knowledge["logits"].to(look["logits"]), look["logits"], 1.0),
        }


def over_batch(x: Tensor) -> Tensor:
    """Each feature less its mean over the batch, by its deviation there: what BatchNorm does before its weights."""
    centred = x - x.mean(0)
    return centred / (centred.square().mean(0) + SRD_EPS).sqrt()


def embeddings(look, knowledge) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's, as vectors of the same type."""
    return look["emb"].flatten(1), knowledge["emb"].flatten(1).to(look["emb"])


def widths(method: str, student, teacher) -> tuple[int, int]:
    """The numbers in an embedding of the student, and in one of the teacher."""
    sides = (("student", student), ("teacher", teacher))
    mine, theirs = (math.prod(row_shape(f"method {method}", *side, "emb")) for side in sides)
    return mine, theirs
