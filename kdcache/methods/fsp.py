"""How a network gets from one stage to the next: the flow of solution procedure."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.base import Method, upcast
from kdcache.methods.bridges import ConvNorm, he, known_shape, refuse, row_shape, stored

STAGES = ("f0", "f1", "f2", "f3")


class FSP(Method):
    """Initialisation only: mean squared difference of the matrices (1/HW) Σ f_i ⊗ f_j of consecutive stages, summed.

    RepDistiller's form, for no author's code is known. The larger map is pooled first: on average, or as the paper
    has it by its maximum (`fsp/max`); `fsp/tf1` is the form of KD_methods_with_TF. `fsp/tf2` is that of
    Knowledge_distillation_via_TF2.0: connectors on the student's side, and a sum over everything of a difference that
    is divided by the batch size before it is squared. Then cross-entropy alone.
    """

    paper = "FSP, Yim et al. 2017, A Gift from Knowledge Distillation"
    init_share = 0.125
    variants: ClassVar = {
        "max": {"pool": "max"},
        "zoo": {"mean": True, "init_share": 0.2},
        "tf1": {"pool": "max", "version": "post", "first": 1, "form": "sum", "weight": 1e-3, "init_share": 0.3},
        "tf2": {
            "pool": "max",
            "version": "pre",
            "first": 1,
            "form": "squared",
            "connector": True,
            "init_share": 0.3,
        },
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        pool: str = "avg",
        version: str = "raw",
        first: int = 0,
        form: str = "mean",
        mean: bool = False,
        connector: bool = False,
        init_share: float | None = None,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        if pool not in ("avg", "max") or form not in ("mean", "sum", "squared"):
            expected = "pool avg or max, form mean, sum or squared"
            raise UsageError("method fsp", expected, f"{pool}, {form}", "try pool=avg:form=mean")
        self.weight, self.pool, self.form, self.mean = weight, pool, form, mean
        self.batch_matters = form == "squared"  # divided by the rows twice
        self.init_share = type(self).init_share if init_share is None else init_share
        stages = STAGES[first:]
        self.taps = tuple(f"{stage}.{version}" for stage in stages)
        suffix = ("" if version == "raw" else "." + version) + ("@max" if pool == "max" else "")
        self.pairs = {f"fsp.{a}{b}{suffix}": (f"{a}.{version}", f"{b}.{version}") for a, b in pairwise(stages)}
        self.connectors = nn.ModuleDict()
        for tap in self.taps:
            if connector:
                sides = (("student", student), ("teacher", teacher))
                mine, theirs = (row_shape("method fsp", *side, tap) for side in sides)
                self.connectors[tap.replace(".", "_")] = ConvNorm(he(nn.Conv2d(mine[0], theirs[0], 1, bias=False)))
                continue
            mine, theirs = known_shape(student, tap), known_shape(teacher, tap)
            if mine and theirs and mine[0] != theirs[0]:
                refuse(f"method fsp at {tap}", "equal channels", mine, theirs, "take fsp/tf2, which has connectors")

    def weights(self, stage="main"):
        return {"fsp": self.weight} if stage == "init" else {}

    def project(self, look):
        look = upcast({tap: look[tap] for tap in self.taps})
        return {name: self.flow(look[a], look[b]) for name, (a, b) in self.pairs.items()}

    def projected(self, shapes):
        return {name: (shapes[a][0], shapes[b][0]) for name, (a, b) in self.pairs.items()}

    def flow(self, a: Tensor, b: Tensor) -> Tensor:
        """[B, C, h, w] and [B, D, h, w] to [B, C, D]."""
        size = min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1])
        pooled = F.adaptive_avg_pool2d if self.pool == "avg" else F.adaptive_max_pool2d
        a, b = (x if x.shape[-2:] == size else pooled(x, size) for x in (a, b))
        with torch.autocast(a.device.type, enabled=False):
            return a.flatten(2) @ b.flatten(2).mT / (size[0] * size[1])

    def init_terms(self, look, knowledge, batch):
        total = 0.0
        maps = {tap: self.connected(tap, look[tap]) for tap in self.taps}
        for name, (a, b) in self.pairs.items():
            mine = self.flow(maps[a], maps[b])
            theirs = stored("method fsp", knowledge, name).to(mine)
            if mine.shape != theirs.shape:
                remedy = "take fsp/tf2, which has connectors"
                refuse(f"method fsp at {a} and {b}", "equal channels", mine.shape[1:], theirs.shape[1:], remedy)
            square = (mine - theirs).square()
            total = total + reduced(square, self.form)
        return {"fsp": self.weight * (total / len(self.pairs) if self.mean else total)}

    def connected(self, tap: str, features: Tensor) -> Tensor:
        name = tap.replace(".", "_")  # modules have no dots in their names
        return self.connectors[name](features) if name in self.connectors else features

    def terms(self, look, knowledge, batch):
        return {}


def reduced(square: Tensor, form: str) -> Tensor:
    """`mean` over everything; half the `sum` of a row, mean over rows; the sum, divided by their number `squared`."""
    if form == "mean":
        return square.mean()
    return square.sum() / (2 * len(square) if form == "sum" else len(square) ** 2)
