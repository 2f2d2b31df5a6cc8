"""Optimisers and learning-rate schedules, by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from kdcache.errors import UsageError

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "step", "onecycle")


@dataclass(frozen=True)
class Settings:
    """How a network is trained; the same for teachers and students."""

    epochs: int = 30
    batch: int = 128
    optimizer: str = "sgd"
    lr: float | None = None  # None: 0.1 for sgd, 0.001 for adam and adamw
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "cosine"
    warmup: float = 1.0  # epochs of linear rise
    milestones: tuple[float, ...] = (0.5, 0.75)  # of `step`, as shares of the epochs
    gamma: float = 0.1
    clip: float = 0.0  # largest gradient norm; 0: none
    dtype: str = "f32"
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self):
        for value, known, flag in (
            (self.optimizer, OPTIMIZERS, "--optimizer"),
            (self.schedule, SCHEDULES, "--schedule"),
            (self.dtype, ("f32", "bf16"), "--dtype"),
        ):
            if value not in known:
                raise UsageError(flag, f"one of {', '.join(known)}", repr(value), "choose one")
        for value, least, flag in (
            (self.epochs, 1, "--epochs"), (self.batch, 2, "--batch"), (self.weight_decay, 0, "--weight-decay"),
            (self.warmup, 0, "--warmup"), (self.clip, 0, "--clip"),
        ):  # fmt: skip
            if not value >= least:
                raise UsageError(flag, f"a number from {least}", str(value), "choose a larger one")
        if self.lr is not None and not self.lr > 0:
            raise UsageError("--lr", "a number above 0", str(self.lr), "try 0.1 for sgd, 0.001 for adam")

    @property
    def top_lr(self) -> float:
        return self.lr if self.lr is not None else (0.1 if self.optimizer == "sgd" else 1e-3)

    def to_json(self) -> dict:
        return asdict(self)


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Weight decay spares what has one dimension under adamw, and nothing under the others, as is usual."""
    parameters = [p for p in parameters if p.requires_grad]
    lr, decay = settings.top_lr, settings.weight_decay
    if settings.optimizer == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return torch.optim.SGD(parameters, lr, settings.momentum, weight_decay=decay, nesterov=nesterov, fused=True)
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr, settings.betas, weight_decay=decay, fused=True)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr, settings.betas, weight_decay=decay, fused=True)


def lr_at(settings: Settings, epoch: float, epochs: int) -> float:
    """The learning rate after `epoch` epochs, a fraction within an epoch."""
    top, warmup = settings.top_lr, min(settings.warmup, epochs / 2)
    if settings.schedule == "onecycle":  # up for three tenths, down for the rest, both as half a cosine
        rise = 0.3 * epochs
        if epoch < rise:
            return top * (0.04 + 0.96 * (1 - math.cos(math.pi * epoch / rise)) / 2)
        return top * (1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (epoch - rise) / (epochs - rise))) / 2)
    if epoch < warmup:
        return top * max(epoch / warmup, 0.01)
    if settings.schedule == "step":
        return top * settings.gamma ** sum(epoch >= share * epochs for share in settings.milestones)
    return top * (1 + math.cos(math.pi * min(1.0, (epoch - warmup) / (epochs - warmup)))) / 2
