"""Optimisers and learning-rate schedules, by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
from torch import nn

from kdcache.checks import Range, one_of
from kdcache.errors import UsageError
from kdcache.train.dot import Dot

OPTIMIZERS = ("sgd", "adam", "adamw", "dot")
SCHEDULES = ("cosine", "step", "onecycle")
CHOICES = {
    "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "dtype": ("f32", "bf16"), "freeze": ("nothing", "backbone"),
}  # fmt: skip
# runs of before do not tell: as usual, they are left out
LATER = ("init_from", "freeze", "backbone_lr", "accumulate", "ema", "delta", "grad_checkpoint", "sync_bn")


WATCHING = ("eval_every", "tensorboard")  # settings that decide nothing of the weights

SHARE = Range(
    least=0, below=1, remedy="milestones are shares of the epochs, such as 0.5 0.75; betas are such as 0.9 0.999"
)
NUMBERS = {
    "epochs": Range(least=1, most=10**9, whole=True),
    "batch": Range(least=2, below=1 << 31, whole=True),
    "lr": Range(above=0, remedy="try 0.1 for sgd, 0.001 for adam"),
    "momentum": Range(least=0, below=1),
    "delta": Range(least=0, below=1),
    "weight_decay": Range(least=0),
    "warmup": Range(least=0),
    "gamma": Range(above=0),
    "clip": Range(least=0),
    "accumulate": Range(least=1, whole=True),
    "ema": Range(least=0, below=1, remedy="try 0.999; 0 keeps no mean"),
    "backbone_lr": Range(above=0, remedy="try 0.1; `freeze` backbone trains the head alone"),
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
    accumulate: int = 1  # parts that the gradient of a batch is computed in, one after the other
    optimizer: str = "sgd"
    lr: float | None = None  # None: 0.1 for sgd and dot, 0.001 for adam and adamw
    momentum: float = 0.9
    delta: float = 0.075  # of dot: the teacher's terms have so much more momentum, cross-entropy so much less
    nesterov: bool = True
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "cosine"
    warmup: float = 1.0  # epochs of linear rise
    milestones: tuple[float, ...] = (0.5, 0.75)  # of `step`, as shares of the epochs
    gamma: float = 0.1
    clip: float = 0.0  # largest gradient norm; 0: none
    ema: float = 0.0  # decay of a running mean of the weights, a network of its own; 0: none
    dtype: str = "f32"
    channels_last: bool = False
    compile: bool = False
    grad_checkpoint: bool = False  # feature maps are computed again for the gradient, instead of being kept
    sync_bn: bool = False  # batch norm over the images of all processes, where several train together
    eval_every: int = 1  # epochs; the last one is always evaluated
    tensorboard: bool = False  # an event file beside the records
    seed: int = 0
    init_from: str | None = None  # weights to begin with: a file, or pretrained, those of its library
    freeze: str = "nothing"  # backbone: only the head is trained
    backbone_lr: float = 1.0  # of all but the head, as a factor

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
        if self.accumulate > self.batch // 2:
            found = f"{self.accumulate} of a `batch` of {self.batch}"
            raise UsageError("`accumulate`", "parts of two images or more", found, "take fewer")
        if self.optimizer == "dot":
            self.require_two_momenta()
        for name in ("grad_checkpoint", "sync_bn"):
            if self.compile and getattr(self, name):
                raise UsageError(f"`{name}`", "a network as it is", "`compile` beside it", "leave one of them out")
        if len(self.betas) != 2:
            raise UsageError("`betas`", "two numbers", f"{len(self.betas)}", "try 0.9 0.999")
        if self.freeze != "nothing" and self.backbone_lr != 1:
            raise UsageError(
                "`backbone_lr`", "a backbone that is trained", "`freeze` backbone", "leave one of them out"
            )
        if not isinstance(self.init_from, str | None) or self.init_from == "":
            raise UsageError("`init_from`", "a file of weights, or pretrained", repr(self.init_from), "name a file")
        for name in ("nesterov", "channels_last", "compile", "grad_checkpoint", "sync_bn", "tensorboard"):
            if not isinstance(value := getattr(self, name), bool):
                raise UsageError(f"`{name}`", "true or false", repr(value), f"try {getattr(Settings, name)}")

    def require_two_momenta(self) -> None:
        """Refuses momenta of dot that are none, and what it has no rule for."""
        if self.delta > self.momentum or self.momentum + self.delta >= 1:
            expected = "`momentum` - delta from 0 on, and `momentum` + delta below 1"
            found = f"{self.delta:g} beside a momentum of {self.momentum:g}"
            raise UsageError("`delta`", expected, found, "try 0.075 beside 0.9")
        if self.clip:
            found = f"{self.clip:g} beside two gradients, each with a momentum"
            raise UsageError("`clip`", "0 with `optimizer` dot", found, "leave one of them out")

    @property
    def top_lr(self) -> float:
        return self.lr if self.lr is not None else (0.1 if self.optimizer in ("sgd", "dot") else 1e-3)

    def evaluates(self, epoch: int) -> bool:
        """Whether this epoch, from 1, is followed by an evaluation."""
        return epoch % self.eval_every == 0 or epoch == self.epochs

    def changed(self) -> dict:
        """What decides the weights and is not as usual."""
        usual = asdict(Settings())
        return {name: value for name, value in self.to_json().items() if value != usual[name]}

    def to_json(self) -> dict:
        """What decides the weights, so that a run that is continued may be evaluated more or less often."""
        usual = {name: getattr(Settings, name) for name in LATER}
        facts = {name: value for name, value in asdict(self).items() if name not in WATCHING}
        return {name: value for name, value in facts.items() if name not in usual or value != usual[name]}


Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def light(base: type[Kind]) -> type[Kind]:
    """The same optimiser without the wrappers for torch's compiler, whose import takes seconds in every process."""
    bare = {name: inspect.unwrap(getattr(base, name)) for name in ("step", "add_param_group", "zero_grad")}
    return type(base.__name__, (base,), bare | {"step": torch.no_grad()(bare["step"])})


class LateSGD(torch.optim.SGD):
    """A parameter may have its first gradient in a later step than others, which torch's fused SGD cannot take."""

    def _init_group(self, group, params, grads, momentum_buffer_list):
        sparse = super()._init_group(group, params, grads, momentum_buffer_list)
        late = [buffer is None for buffer in momentum_buffer_list]
        if any(late) and not all(late):
            both = zip(params, momentum_buffer_list, strict=True)
            momentum_buffer_list[:] = [torch.zeros_like(p) if buffer is None else buffer for p, buffer in both]
        return sparse


SGD, Adam, AdamW = light(LateSGD), light(torch.optim.Adam), light(torch.optim.AdamW)


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: Settings, backbone: Container[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Weight decay spares what has one dimension under adamw, and nothing under the others, as is usual.

    Groups with a `factor` learn at that share of the learning rate: those of a backbone.
    """
    parameters = [p for p in parameters if p.requires_grad]
    if not parameters:
        raise UsageError("training", "a network with weights to train", "none", "train a network with parameters")
    lr, decay = settings.top_lr, settings.weight_decay
    own, slower = ([p for p in parameters if (p in backbone) == inside] for inside in (False, True))
    groups: list[dict] = [{"params": own}, {"params": slower, "factor": settings.backbone_lr}]
    if settings.optimizer == "adamw":
        groups = [part for group in groups for part in sparing(group)]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return SGD(groups, lr, settings.momentum, weight_decay=decay, nesterov=nesterov, fused=True)
    if settings.optimizer == "dot":
        return Dot(groups, lr, settings.momentum, settings.delta, decay)
    kind = Adam if settings.optimizer == "adam" else AdamW
    return kind(groups, lr, settings.betas, weight_decay=decay, fused=True)


def sparing(group: dict) -> tuple[dict, dict]:
    """The group in two: what weight decay pulls at, and what has one dimension."""
    pulled, spared = ([p for p in group["params"] if (p.ndim > 1) == wide] for wide in (True, False))
    return group | {"params": pulled}, group | {"params": spared, "weight_decay": 0.0}


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
