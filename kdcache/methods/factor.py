"""Factor transfer: the student's translated features against the teacher's paraphrased ones."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.attention import attention
from kdcache.methods.base import Method, upcast
from kdcache.methods.bridges import ConvNorm, average, map_shape, refuse, stored, unit

PLACE = "method ft"
FITS = {"l1": (F.l1_loss, 6, 0.1), "mse": (F.mse_loss, 30, 0.01)}  # how the paraphraser learns: loss, passes, lr
BATCH = 128  # the author's, however many rows a look has


class FactorTransfer(Method):
    """The mean absolute difference of two factors of length 1.

    The teacher's factor comes from a paraphraser, an autoencoder of its last stage that `prepare` trains once and
    `project` applies; only its encoder is kept. The student's comes from a translator, which learns beside it.
    `ft/rep` compares attention maps of the factors instead.
    """

    paper = "FT, Kim, Park & Kwak 2018"
    term = "ft"
    variants: ClassVar = {
        "zoo": {"weight": 200.0, "fit": "mse"},
        "rep": {"weight": 200.0, "fit": "mse", "form": "map", "norm": True, "tap": "f3.raw"},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 500.0,
        k: float = 0.5,
        tap: str = "f3.post",
        form: str = "factor",
        norm: bool = False,
        fit: str = "l1",
        passes: int | None = None,
        seed: int = 0,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        if fit not in FITS or form not in ("factor", "map"):
            raise UsageError(PLACE, "fit l1 or mse, form factor or map", f"fit {fit}, form {form}", "try fit=l1")
        self.weight, self.k, self.taps, self.form, self.fit, self.seed = weight, k, (tap,), form, fit, seed
        self.passes = FITS[fit][1] if passes is None else passes
        options = {f"k{k:g}": k != 0.5, tap: tap != "f3.post", fit: fit != "l1", f"seed{seed}": seed != 0}
        options[f"passes{self.passes}"] = self.passes != FITS[fit][1]
        unusual = [option for option, is_so in options.items() if is_so]
        self.name = f"ft.{form}" + ("@" + "-".join(unusual) if unusual else "")
        if form == "factor" and teacher and self.name in teacher:  # all that a cache may know of its teacher
            planes = teacher[self.name][0]
        else:
            planes = self.planes(map_shape(PLACE, "teacher", teacher, tap)[0])
        self.translator = translator(map_shape(PLACE, "student", student, tap)[0], planes, norm)

    def planes(self, channels: int) -> int:
        return max(1, round(channels * self.k))

    def prepare(self, teacher, looks):
        weights, optimiser, loss = [], None, None
        for _ in range(self.passes):
            for look in looks():
                with torch.inference_mode(False), torch.enable_grad():
                    maps = look[self.taps[0]].detach().clone().float()
                    if optimiser is None:
                        weights = paraphraser(maps.shape[1], self.planes(maps.shape[1]), self.seed, maps.device)
                        optimiser = torch.optim.SGD(weights, lr=FITS[self.fit][2], momentum=0.9, weight_decay=5e-4)
                    for x in maps.split(BATCH):
                        loss = self.step(x, weights, optimiser)
        if loss is None or not torch.isfinite(loss):
            found = "no images" if loss is None else "NaN"
            raise UsageError(PLACE, "a paraphraser that learns", found, "check the teacher's last stage")
        return {f"{self.name}.{i}": weight.detach().cpu() for i, weight in enumerate(weights[:6])}

    def step(self, x: Tensor, weights: list[Tensor], optimiser) -> Tensor:
        """The paraphraser reconstructs its input a little better."""
        with torch.autocast(x.device.type, enabled=False):
            loss = FITS[self.fit][0](decode(encode(x, weights[:6]), weights[6:]), x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    def use(self, constants):
        for i in range(6):  # buffers: they follow the method to its device, and no optimiser sees them
            weight = stored(PLACE, constants, f"{self.name}.{i}")
            weight = weight.to(next(self.parameters()).device)
            self.register_buffer(f"paraphraser{i}", weight, persistent=False)

    def project(self, look):
        x = upcast({"tap": look[self.taps[0]]})["tap"]
        if not hasattr(self, "paraphraser0"):
            raise UsageError(PLACE, "a trained paraphraser", "none", "call use(prepare(teacher, looks)) first")
        with torch.autocast(x.device.type, enabled=False):
            factor = encode(x, [getattr(self, f"paraphraser{i}").to(x) for i in range(6)])
        return {self.name: attention(factor) if self.form == "map" else normalised(factor)}

    def projected(self, shapes):
        channels, *grid = shapes[self.taps[0]]
        return {self.name: tuple(grid) if self.form == "map" else (self.planes(channels), *grid)}

    def terms(self, look, knowledge, batch):
        factor = self.translator(look[self.taps[0]])
        theirs = stored(PLACE, knowledge, self.name).to(factor)
        mine, grid = factor.shape[-2:], theirs.shape[-2:]
        if self.form == "map" and mine[0] >= grid[0] and mine[1] >= grid[1]:
            factor = attention(average(factor, grid))
        elif self.form == "factor" and factor.shape == theirs.shape:
            factor = normalised(factor)
        else:
            refuse(PLACE, "equal grids of the factors", factor.shape[1:], theirs.shape[1:], "take other networks")
        return {"ft": self.weight * F.l1_loss(factor, theirs)}


def normalised(factor: Tensor) -> Tensor:
    return unit(factor.flatten(1)).view_as(factor)


def translator(channels: int, planes: int, norm: bool) -> nn.Sequential:
    """The student's half: the shape of the encoder, from the student's width."""
    steps: list[nn.Module] = []
    for a, b in ((channels, channels), (channels, planes), (planes, planes)):
        conv, act = nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1)
        steps += [ConvNorm(conv, act)] if norm else [conv, act]
    return nn.Sequential(*steps)


def paraphraser(channels: int, planes: int, seed: int, device) -> list[Tensor]:
    """Weight and bias of three convolutions and three transposed ones, drawn as torch draws them, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    narrowing = [(channels, channels), (planes, channels), (planes, planes)]  # (out, in)
    widening = narrowing[::-1]  # transposed convolutions keep their weights as (in, out)
    weights = []
    biases = (channels, planes, planes, planes, channels, channels)
    for (rows, columns), outputs in zip(narrowing + widening, biases, strict=True):
        bound = 1 / math.sqrt(9 * columns)
        for shape in ((rows, columns, 3, 3), (outputs,)):
            drawn = torch.rand(shape, generator=generator)
            weights.append((bound * (2 * drawn - 1)).to(device).requires_grad_())
    return weights


def encode(x: Tensor, weights: list[Tensor]) -> Tensor:
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        x = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), 0.1)
    return x


def decode(x: Tensor, weights: list[Tensor]) -> Tensor:
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        x = F.leaky_relu(F.conv_transpose2d(x, weight, bias, padding=1), 0.1)
    return x
