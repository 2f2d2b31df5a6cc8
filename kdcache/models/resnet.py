"""CIFAR ResNets after He et al. 2016: three stages of 16, 32 and 64 channels, activation after the sum.

Key names are RepDistiller's. The identity shortcut has no weights; it pads the channels on both sides, as
akamaster's checkpoints expect. No ReLU of any body works in place: a watcher keeps what goes in, and autograd
keeps what comes out, so it would not save memory either.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.checks import one_of

SHORTCUTS = ("identity", "projection")


def init_convolutions(body: nn.Module) -> None:
    """He's init for convolutions, as in all references; BatchNorm and linear layers start as torch makes them."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Subsample(nn.Module):
    """Shortcut A: every second pixel, with zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        before = (outputs - inputs) // 2
        self.padding = (0, 0, 0, 0, before, outputs - inputs - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], self.padding)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, shortcut: str):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        if inputs == outputs:
            self.downsample = None
        elif shortcut == "identity":
            self.downsample = Subsample(inputs, outputs)
        else:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu2(out)


class ResNet(nn.Module):
    """`depth` = 6n + 2. `shortcut`: identity (no weights) or projection (1x1 convolution and BatchNorm)."""

    def __init__(self, depth: int, classes: int, shortcut: str = "identity"):
        super().__init__()
        one_of(f"shortcut of resnet{depth}", shortcut, SHORTCUTS)
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = stage(16, 16, blocks, shortcut)
        self.layer2 = stage(16, 32, blocks, shortcut)
        self.layer3 = stage(32, 64, blocks, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        init_convolutions(self)

        ends = {f"f{i}": f"layer{i}.{blocks - 1}" for i in (1, 2, 3)}
        self.taps = activations({"f0": "relu"} | {tap: f"{end}.relu2" for tap, end in ends.items()})
        self.margins = {f"{tap}.pre": f"{end}.bn2" for tap, end in ends.items()}

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def stage(inputs: int, outputs: int, blocks: int, shortcut: str) -> nn.Sequential:
    widths = [inputs] + [outputs] * (blocks - 1)
    return nn.Sequential(*(Block(width, outputs, shortcut) for width in widths))


def activations(relus: dict[str, str]) -> dict[str, tuple[str, str]]:
    """The taps of a body whose stages end in these ReLUs: `raw` is what comes out, as `post` is."""
    taps = {}
    for tap, relu in relus.items():
        taps |= {f"{tap}.raw": (relu, "out"), f"{tap}.pre": (relu, "in"), f"{tap}.post": (relu, "out")}
    return taps | {"emb": ("fc", "in")}
