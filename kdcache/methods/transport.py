"""WKD: the cost of moving the student's probabilities to the teacher's, where alike classes lie close together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.checks import one_of
from kdcache.errors import UsageError
from kdcache.methods.base import Method
from kdcache.methods.bridges import last_layer, stored
from kdcache.methods.response import above_zero, over_labelled
from kdcache.methods.target import believed
from kdcache.types import Batch, Look

PLACE = "method wkd"
ROUNDS = 10  # of Sinkhorn's iteration
LEAST = 1e-8


class Transport(Method):
    """-p[y] log q[y], and gamma times the cost of transport (by Sinkhorn, with `blur`) among the other classes.

    Classes are as far apart as the teacher's logits of their images are unlike (`distance=cka`), or the rows of its
    last layer (`fc`): found before the dump from `images` of each class (the authors take as many as the smallest has),
    and kept in the cache. From the share `steady` of the epochs on, gamma falls to 0 along a cosine.
    """

    paper = "WKD, Lv et al. 2024, Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation"
    fades = True
    taps = ("logits",)
    one_label = needs_labels = tail_matters = True
    variants: ClassVar = {
        "wrn": {"gamma": 200.0, "T": 6.0},
        "imagenet": {"gamma": 30.0, "T": 2.0, "steady": 0.0},
        "fc": {"distance": "fc"},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        gamma: float = 600.0,
        T: float = 8.0,
        distance: str = "cka",
        images: int = 100,
        sharp: float = 1.0,
        blur: float = 0.05,
        steady: float = 0.625,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        one_of("method option distance", distance, ("cka", "fc"))
        self.weight, self.gamma, self.T, self.distance, self.images = (
            weight,
            gamma,
            above_zero("T", T),
            distance,
            images,
        )
        self.sharp, self.blur, self.steady = above_zero("sharp", sharp), above_zero("blur", blur), steady

    @property
    def constant(self) -> str:
        return "wkd.fc" if self.distance == "fc" else f"wkd.cka{self.images}"

    def made_before(self):
        return (self.constant,)

    def prepare(self, teacher, looks):
        with torch.no_grad():
            found = between_rows(teacher) if self.distance == "fc" else between_images(looks(), self.images)
        return {self.constant: found.float().cpu()}

    def use(self, constants: Mapping[str, Tensor]) -> None:
        self.register_buffer("apart", stored(PLACE, constants, self.constant), persistent=False)

    def weights(self, stage="main"):
        return {"wkd.right": self.weight, "wkd.others": self.weight * self.gamma} if stage == "main" else {}

    def terms(self, look, knowledge, batch):
        if not hasattr(self, "apart"):
            raise UsageError(PLACE, "distances of the classes", "none", "call use(prepare(teacher, looks)) first")
        mine, theirs, right = look["logits"], knowledge["logits"].to(look["logits"]), batch.targets.clamp(min=0)
        others = torch.ones_like(mine, dtype=torch.bool, requires_grad=False).scatter(1, right[:, None], False)
        a, b = ((side / self.T).masked_fill(~others, -math.inf).softmax(1) for side in (mine, theirs))
        cost = (1 - torch.exp(-self.sharp * self.apart.to(mine))).clamp(min=0) + LEAST
        moved = transport(a, b, others / (mine.shape[1] - 1), cost, self.blur)
        return {
            "wkd.right": self.weight * over_labelled(believed(mine, theirs, right), batch),
            "wkd.others": self.weight * self.gamma * faded(batch, self.steady) * over_labelled(moved, batch),
        }


def transport(a: Tensor, b: Tensor, start: Tensor, cost: Tensor, blur: float) -> Tensor:
    """What it costs to move each row of `a` to that of `b`. Both are 0 at the label, and so are all scalings:
    one kernel does for all rows, where each would need its own without its label.
    """
    kernel, u = torch.exp(-cost / blur), start.to(a)
    for _ in range(ROUNDS):
        v = b / (u @ kernel + LEAST)
        u = a / (v @ kernel.T + LEAST)
    return ((u @ (kernel * cost)) * v).sum(1)


def faded(batch: Batch, steady: float) -> float:
    """1 for this share of the epochs, then along a cosine to 0 in the last one."""
    if batch.epoch is None or batch.epochs is None:
        return 1.0
    first = round(steady * batch.epochs)
    if batch.epoch <= first:
        return 1.0
    if batch.epoch >= batch.epochs:  # a trainer may go on behind them
        return 0.0
    return (1 + math.cos(math.pi * (batch.epoch - first) / (batch.epochs - first))) / 2


def between_rows(teacher: nn.Module) -> Tensor:
    """1 - the cosine of the weights of each two classes in the teacher's last linear layer."""
    rows = F.normalize(last_layer(PLACE, teacher, "take wkd, without /fc").weight.detach().double())
    return 1 - rows @ rows.T


def between_images(looks: Iterable[Look], most: int) -> Tensor:
    """1 - linear CKA of the logits of each two classes, over as many images of each, in the order of the pass."""
    kept: dict[int, list[Tensor]] = {}
    classes = 0
    for look in looks:
        classes = look["logits"].shape[1]
        for row, label in zip(look["logits"].float(), look["targets"].tolist(), strict=True):
            if label >= 0 and len(rows := kept.setdefault(label, [])) < most:
                rows.append(row)
        if len(kept) == classes and all(len(rows) == most for rows in kept.values()):
            break
    count = min((len(kept.get(label, [])) for label in range(classes)), default=0)
    if count < 2:
        expected, found = "at least 2 images of every class", f"{count} of some"
        raise UsageError(PLACE, expected, found, "take wkd/fc, which asks no images")
    rows = torch.stack([torch.stack(kept[label][:count]) for label in range(classes)])
    rows = rows - rows.mean(1, keepdim=True)
    kernels = F.normalize((rows @ rows.mT).flatten(1).double())
    return 1 - kernels @ kernels.T
