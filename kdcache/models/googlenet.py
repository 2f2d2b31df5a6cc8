"""GoogLeNet after Szegedy et al. 2015, as kuangliu has it for 32x32: with BatchNorm, two 3x3 in place of a 5x5."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcache.models.blocks import activations, conv, conv_bn_relu, init_convolutions

STAGES = {  # of each block: 1x1, before the 3x3, 3x3, before the 5x5, 5x5, behind the pooling
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}
NORMS = ("b1.1", "b2.4", "b3.7", "b4.2")  # the last of each branch


class Inception(nn.Module):
    """Four branches side by side. Each ends in a BatchNorm; one ReLU behind all of them does what four would."""

    def __init__(self, inputs: int, one: int, before3: int, three: int, before5: int, five: int, pooled: int):
        super().__init__()
        self.b1 = nn.Sequential(*linear(inputs, one, 1))
        self.b2 = nn.Sequential(*conv_bn_relu(inputs, before3, 1), *linear(before3, three))
        self.b3 = nn.Sequential(*conv_bn_relu(inputs, before5, 1), *conv_bn_relu(before5, five), *linear(five, five))
        self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *linear(inputs, pooled, 1))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1))


def linear(inputs: int, outputs: int, size: int = 3) -> list[nn.Module]:
    return [conv(inputs, outputs, size, bias=True), nn.BatchNorm2d(outputs)]


class GoogLeNet(nn.Module):
    def __init__(self, classes: int, percent: int = 100):
        super().__init__()
        inputs = scaled(192, percent)
        self.pre_layers = nn.Sequential(*conv_bn_relu(3, inputs))
        for name, stage in STAGES.items():
            widths = [scaled(width, percent) for width in stage]
            self.add_module(name, Inception(inputs, *widths))
            inputs = sum(widths[i] for i in (0, 2, 4, 5))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        init_convolutions(self)

        ends = {"f1": "b3", "f2": "e4", "f3": "b5"}
        self.taps = activations({"f0": "pre_layers.2"} | {tap: f"{end}.relu" for tap, end in ends.items()})
        self.margins = {f"{tap}.pre": tuple(f"{end}.{norm}" for norm in NORMS) for tap, end in ends.items()}

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_layers(x)
        for name in STAGES:
            x = self.get_submodule(name)(self.maxpool(x) if name in ("a4", "a5") else x)
        return self.fc(self.avgpool(x).flatten(1))


def scaled(width: int, percent: int) -> int:
    return max(1, round(width * percent / 100))


def narrow(percent: int, classes: int) -> GoogLeNet:
    return GoogLeNet(classes, percent)
