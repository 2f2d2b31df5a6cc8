"""Optimisers and learning-rate schedules, by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from kdcache.checks import Range, one_of
from kdcache.errors import UsageError

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "step", "onecycle")
CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "dtype": ("f32", "bf16")}


SHARE = Range(
    least=0, below=1, remedy="milestones are shares of the epochs, such as 0.5 0.75; betas are such as 0.9 0.999"
)
NUMBERS = {
    "epochs": Range(least=1, most=10**9, whole=True),
    "batch": Range(least=2, below=1 << 31, whole=True),
    "lr": Range(above=0, remedy="try 0.1 for sgd, 0.001 for adam"),
    "momentum": Range(least=0, below=1),
    "weight_decay": Range(least=0),
    "warmup": Range(least=0),
    "gamma": Range(above=0),
    "clip": Range(least=0),
    "eval_every": Range(least=1, most=10**9, whole=True),
    "seed": Range(least=0, below=2**63, whole=True),
}


def listed(name: str, values: object) -> Sequence:
    if isinstance(values, (tuple, list)):
        return values
    raise UsageError(f"`{name}`", "a list of numbers", repr(values), "write it like 0.5 0.75")


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
    compile: bool = False
    eval_every: int = 1  # epochs; the last one is always evaluated
    seed: int = 0

    def __post_init__(self):
        """Refuses what cannot be meant, by name; 3.0 epochs become 3, lists become tuples."""
        for name, known in CHOICES.items():
            one_of(f"`{name}`", getattr(self, name), known)
        for name, allowed in NUMBERS.items():
            value = getattr(self, name)
            if allowed.whole and isinstance(value, float) and value.is_integer():
                value = int(value)
            if name != "lr" or value is not None:
                object.__setattr__(self, name, allowed.checked(f"`{name}`", value, getattr(Settings, name)))
        for name in ("betas", "milestones"):
            values = tuple(SHARE.checked(f"`{name}`", value) for value in listed(name, getattr(self, name)))
            object.__setattr__(self, name, values)
        if self.warmup > self.epochs:
            raise UsageError("`warmup`", f"at most all {self.epochs} epochs", f"{self.warmup:g}", "try 1")
        if len(self.betas) != 2:
            raise UsageError("`betas`", "two numbers", f"{len(self.betas)}", "try 0.9 0.999")
        for name in ("nesterov", "channels_last", "compile"):
            if not isinstance(value := getattr(self, name), bool):
                raise UsageError(f"`{name}`", "true or false", repr(value), f"try {getattr(Settings, name)}")

    @property
    def top_lr(self) -> float:
        return self.lr if self.lr is not None else (0.1 if self.optimizer == "sgd" else 1e-3)

    def evaluates(self, epoch: int) -> bool:
        """Whether this epoch, from 1, is followed by an evaluation."""
        return epoch % self.eval_every == 0 or epoch == self.epochs

    def changed(self) -> dict:
        """What decides the weights and is not as usual."""
        usual = Settings().to_json()
        return {name: value for name, value in self.to_json().items() if value != usual[name]}

    def to_json(self) -> dict:
        """What decides the weights, so that a run that is continued may be evaluated more or less often."""
        return {name: value for name, value in asdict(self).items() if name != "eval_every"}


def light(base: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimiser without the wrappers for torch's compiler, whose import takes seconds in every process."""
    bare = {"step": torch.no_grad()(inspect.unwrap(base.step)), "add_param_group": inspect.unwrap(base.add_param_group)}
    return type(base.__name__, (base,), bare)


SGD, Adam, AdamW = map(light, (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW))


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Weight decay spares what has one dimension under adamw, and nothing under the others, as is usual."""
    parameters = [p for p in parameters if p.requires_grad]
    if not parameters:
        raise UsageError("training", "a network with weights to train", "none", "train a network with parameters")
    lr, decay = settings.top_lr, settings.weight_decay
    if settings.optimizer == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return SGD(parameters, lr, settings.momentum, weight_decay=decay, nesterov=nesterov, fused=True)
    if settings.optimizer == "adam":
        return Adam(parameters, lr, settings.betas, weight_decay=decay, fused=True)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([g for g in groups if g["params"]], lr, settings.betas, weight_decay=decay, fused=True)


def lr_at(settings: Settings, epoch: float, epochs: int) -> float:
    """The learning rate after `epoch` epochs, a fraction within an epoch."""
    top, warmup = settings.top_lr, min(settings.warmup, epochs / 2)
    if settings.schedule == "onecycle":  # from 1/25 up for three tenths, then down to 1/250 000: torch's own numbers
        rise = 0.3 * epochs
        if epoch < rise:
            return top * (1 / 25 + 24 / 25 * half_cosine(1 - epoch / rise))
        return top * (4e-6 + (1 - 4e-6) * half_cosine((epoch - rise) / (epochs - rise)))
    if epoch < warmup:
        return top * max(epoch / warmup, 0.01)
    if settings.schedule == "step":
        return top * settings.gamma ** sum(epoch >= share * epochs for share in settings.milestones)
    return top * half_cosine((epoch - warmup) / (epochs - warmup))


def half_cosine(share: float) -> float:
    """From 1 to 0 as the share goes from 0 to 1."""
    return (1 + math.cos(math.pi * min(1.0, share))) / 2
