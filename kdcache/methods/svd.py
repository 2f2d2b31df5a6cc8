"""The top right-singular vector of each stage: KD-SVD with its variant KD-EID, and what MHGD shares with them.

A map [C, h, w] is read as a matrix of h·w rows and C columns. Its first right-singular vector v, of length 1 and with
sum(v) >= 0, is cached. Libraries pick signs at will and the loss depends on them; of a map after a ReLU v is the
Perron vector, for which this sign is the natural one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.checks import one_of
from kdcache.methods.base import Method, upcast
from kdcache.methods.bridges import known_shape, refuse
from kdcache.types import Knowledge, Look, Shapes

TAPS = ("f1.post", "f2.post", "f3.post")
NAMES = {"svd.f1": "f1.post", "svd.f2": "f2.post", "svd.f3": "f3.post"}
CANDIDATES = 4  # of the student's vectors, the one most like the teacher's is taken


class SingularVectors(Method):
    """Σ over stages, rows and channel pairs of (R_student - R_teacher)², R[a, b] = exp(-(v_l[a] - v_{l-1}[b])²/8).

    The author clips the gradient of this sum to the cross-entropy's, variable by variable, so it has no weight;
    `rep` is the port without the clip, which divides by the batch size instead. `eid` is KD-EID, the authors' loss with
    vectors from an eigendecomposition: that is how we get them for KD-SVD too, so the two agree to the last digit and
    differ in the name of their term. Where h·w is close to C the authors' code for it detaches the map, so that stage
    never learns (of ResNet the last one); here every stage has its true gradient.

    The rewrite in TensorFlow 2 has no variant: its connectors are never trained, any exception in it leaves a plain
    student, and its revisions disagree on whether the student is decomposed at all.
    """

    paper = "KD-SVD, Lee, Kim & Song 2018, Self-supervised Knowledge Distillation Using SVD; KD-EID in their code"
    taps = TAPS
    clips_to_ce = True
    variants: ClassVar = {"rep": {"mean": True, "clip": False}, "eid": {"vectors": "eid"}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        mean: bool = False,
        clip: bool = True,
        vectors: str = "svd",
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        one_of("method option vectors", vectors, ("svd", "eid"))
        self.term = f"kd{vectors}"
        same_channels(f"method {self.term}", student, teacher)
        self.weight, self.mean, self.clips_to_ce = weight, mean, clip
        self.batch_matters = not mean  # a sum, which grows with the batch
        self.clipped = frozenset({self.term} if clip else ())

    def project(self, look):
        return project(look)

    def projected(self, shapes):
        return projected(shapes)

    def terms(self, look, knowledge, batch):
        return {self.term: self.weight * radial(look, knowledge, self.mean)}


def radial(look: Look, knowledge: Knowledge, mean: bool) -> Tensor:
    """The loss of KD-SVD, summed over the rows or averaged."""
    mine, theirs = both_sides(look, knowledge)
    apart = [kernel(mine[i], mine[i - 1]) - kernel(theirs[i], theirs[i - 1]) for i in (1, 2)]
    total = apart[0].square().sum() + apart[1].square().sum()
    return total / len(mine[0]) if mean else total


def kernel(later: Tensor, earlier: Tensor) -> Tensor:
    return torch.exp((later[:, :, None] - earlier[:, None, :]).square() / -8)


def project(look: Look) -> Knowledge:
    """The teacher's side of KD-SVD, KD-EID and MHGD, so a cache of one serves the others."""
    with torch.no_grad(), torch.autocast(look[TAPS[0]].device.type, enabled=False):
        vectors = {name: decompose(matrix(look[tap]))[1][..., 0] for name, tap in NAMES.items()}
    return {name: v * torch.where(v.sum(1, keepdim=True) < 0, -1, 1) for name, v in vectors.items()}


def projected(shapes: Shapes) -> Shapes:
    """One entry for each channel."""
    return {name: shapes[tap][:1] for name, tap in NAMES.items()}


def both_sides(look: Look, knowledge: Knowledge) -> tuple[list[Tensor], list[Tensor]]:
    """One vector of each stage: the student's, brought in line with the teacher's, and the teacher's."""
    theirs = [knowledge[name].to(look[tap]) for name, tap in NAMES.items()]
    return [aligned(look[tap], v) for tap, v in zip(NAMES.values(), theirs, strict=True)], theirs


def aligned(features: Tensor, teacher: Tensor) -> Tensor:
    """The student's candidate of largest |cos| to the teacher's vector, with its sign and with a gradient.

    Perturbation theory gives the derivative: dv = Σ_j v_j (v_jᵀ dA v) / (λ - λ_j) for A = xᵀx, of which the null
    space is one term. It is written as a change of value 0. autograd's own formula also divides by the gaps between
    vectors that were not asked for, and a constant image makes those 0. Parts with a gap below the rounding of the
    decomposition are noise and left out.
    """
    x = matrix(features)
    with torch.no_grad():
        values, vectors = decompose(x)
        cosines = (vectors[..., :CANDIDATES] * teacher[..., None]).sum(1)
        chosen = cosines.abs().argmax(1, keepdim=True)
        sign = torch.where(cosines.gather(1, chosen) < 0, -1, 1)
        v = sign * vectors.gather(2, chosen[:, None].expand(-1, vectors.shape[1], 1))[..., 0]
        value = values.gather(1, chosen)
        gaps = value - values
        inverse = torch.where(gaps.abs() > noise(x) * values[:, :1], 1 / gaps, 0)
        null = torch.where(value > noise(x) * values[:, :1], 1 / value, 0)
    product = times(x.mT, times(x, v))
    change = product - product.detach()
    along = times(vectors.mT, change)
    return v + times(vectors, inverse * along) + null * (change - times(vectors, along))


def decompose(x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values, descending, and right-singular vectors [B, C, n] of x [B, h·w, C].

    From the smaller Gram matrix. Vectors whose value is lost in rounding are 0; of a map of zeros the first one has
    equal entries, of a map with NaN all entries are NaN.
    """
    wide = x.shape[1] < x.shape[2]
    gram = x @ x.mT if wide else x.mT @ x
    finite = gram.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    values, vectors = torch.linalg.eigh(gram.where(finite, 0))
    values, vectors = values.flip(1), vectors.flip(2)
    if wide:
        vectors = x.mT @ vectors
        vectors = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    vectors = vectors.where((values > noise(x) * values[:, :1])[:, None], 0)
    vectors[..., 0] = vectors[..., 0].where(values[:, :1] > 0, x.shape[2] ** -0.5)
    return values, vectors.where(finite, torch.nan)


def matrix(features: Tensor) -> Tensor:
    """[B, C, h, w] as [B, h·w, C] in f32 or f64."""
    return upcast({"": features})[""].flatten(2).mT


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[..., None])[..., 0]


def noise(x: Tensor) -> float:
    """Differences of squared singular values below this share of the largest one are rounding."""
    return 10 * min(x.shape[1:]) * torch.finfo(x.dtype).eps


def same_channels(place: str, student: Shapes | None, teacher: Shapes | None) -> None:
    """Vectors of different lengths cannot be compared."""
    for name, tap in NAMES.items():
        mine, theirs = known_shape(student, tap), known_shape(teacher, name, tap)
        if mine and theirs and mine[0] != theirs[0]:
            refuse(f"{place} at {tap}", "as many channels in both networks", mine, theirs, "take at or rkd")


def clipped_gradients(
    ce: Sequence[Tensor | None], terms: Sequence[Tensor | None], epoch: int | None
) -> list[Tensor | None]:
    """The sum of two gradients, the second clipped variable by variable to the first one's norm times a ramp.

    The ramp is the logistic function of the epoch, which the author counts from 0 and `Batch` from 1: 0.5, 0.73, 0.88
    and so on. Not finite parts count as 0, as does a missing gradient.
    """
    ramp = 1.0 if epoch is None else 1 / (1 + math.exp(1 - epoch))
    total: list[Tensor | None] = []
    for main, term in zip(ce, terms, strict=True):
        if main is None or term is None:
            total.append(main if term is None else torch.zeros_like(term))
            continue
        term = term.nan_to_num(0, 0, 0)
        bound, length = ramp * torch.linalg.vector_norm(main), torch.linalg.vector_norm(term)
        total.append(main + term * torch.where(length > bound, bound / length, 1))
    return total
