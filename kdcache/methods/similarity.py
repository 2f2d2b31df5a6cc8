"""Which samples resemble each other (SP) and which neurons do (NST); formed at the student's time from plain maps."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from kdcache.methods.base import Method
from kdcache.methods.bridges import known_shape, map_shape, on_smaller_grid, tap_pair, unit


class SimilarityPreserving(Method):
    """G = F Fᵀ over the batch, rows of length 1; the mean squared difference of the two. Any shapes agree."""

    paper = "SP, Tung & Mori 2019"
    taps = ("f3.raw",)
    term = "sp"
    batch_matters = True

    def __init__(self, student=None, teacher=None, *, weight: float = 3000.0, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        self.weight = weight

    def terms(self, look, knowledge, batch):
        mine, theirs = (similarity(features) for features in tap_pair(look, knowledge, self.taps[0]))
        return {"sp": self.weight * (mine - theirs).square().mean()}


def similarity(features: Tensor) -> Tensor:
    rows = features.flatten(1)
    return unit(rows @ rows.T)


class NeuronSelectivity(Method):
    """Maximum mean discrepancy with the kernel <a, b>² between the channels' maps, each of length 1."""

    paper = "NST, Huang & Wang 2017, Like What You Like"
    term = "nst"
    variants: ClassVar = {"f3": {"taps": ("f3.raw",)}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 50.0,
        taps=("f1.raw", "f2.raw", "f3.raw"),
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.weight, self.taps = weight, tuple(taps)
        for tap in self.taps:
            for whose, shapes in (("student", student), ("teacher", teacher)):
                if known_shape(shapes, tap):
                    map_shape("method nst", whose, shapes, tap)

    def terms(self, look, knowledge, batch):
        return {"nst": self.weight * sum(discrepancy(*tap_pair(look, knowledge, tap)) for tap in self.taps)}


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (unit(x.flatten(2)) for x in on_smaller_grid(student, teacher))
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Mean over samples and pairs of channels."""
    return (a @ b.mT).square().mean()
