"""ResNets after He et al. 2016, activation after the sum, for images of 32x32: the first convolution has stride 1.

Key names are RepDistiller's. The identity shortcut has no weights; it pads the channels on both sides, as
akamaster's checkpoints expect.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.checks import one_of
from kdcache.models.blocks import activations, conv, init_convolutions, last_four

SHORTCUTS = ("identity", "projection")


class Subsample(nn.Module):
    """Shortcut A: every second pixel, with zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        before = (outputs - inputs) // 2
        self.padding = (0, 0, 0, 0, before, outputs - inputs - before)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_contiguous(memory_format=torch.channels_last):  # gradients keep this layout, which those of slices lose
            return F.pad(F.avg_pool2d(x, 1, 2), self.padding)
        return F.pad(x[:, :, ::2, ::2], self.padding)


def downsample(inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Module | None:
    """What the shortcut of a block is; None where the input is added as it is."""
    if inputs == outputs and stride == 1:
        return None
    if shortcut == "identity":
        return Subsample(inputs, outputs)
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    growth = 1  # channels that come out, for each of the block's width
    last = 2  # number of its last ReLU

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.downsample = downsample(inputs, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu2(out)


class Bottleneck(nn.Module):
    growth = 4
    last = 3

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu3 = nn.ReLU()
        self.downsample = downsample(inputs, 4 * width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu3(out)


class Residual(nn.Module):
    """A convolution to `stem` channels, stages of blocks, the mean over all pixels, a linear layer."""

    def __init__(
        self,
        block: type[Block | Bottleneck],
        stem: int,
        widths: list[int],
        blocks: list[int],
        classes: int,
        shortcut: str,
    ):
        super().__init__()
        self.conv1 = conv(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        ends, inputs = [], stem
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
            stride, outputs = 1 if number == 1 else 2, width * block.growth
            rest = (block(outputs, width, 1, shortcut) for _ in range(count - 1))
            self.add_module(f"layer{number}", nn.Sequential(block(inputs, width, stride, shortcut), *rest))
            ends.append(f"layer{number}.{count - 1}")
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        init_convolutions(self)

        self.stages = [f"layer{number}" for number in range(1, len(widths) + 1)]
        self.taps = activations(last_four(["relu", *(f"{end}.relu{block.last}" for end in ends)]))
        self.margins = {f"f{3 - i}.pre": f"{end}.bn{block.last}" for i, end in enumerate(reversed(ends[-3:]))}

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.fc(self.avgpool(x).flatten(1))


class ResNet(Residual):
    """`depth` = 6n + 2: stages of 16, 32 and 64 channels.

    `shortcut`: identity (no weights) or projection (1x1 convolution and BatchNorm).
    """

    def __init__(self, depth: int, classes: int, shortcut: str = "identity"):
        one_of(f"shortcut of resnet{depth}", shortcut, SHORTCUTS)
        super().__init__(Block, 16, [16, 32, 64], 3 * [(depth - 2) // 6], classes, shortcut)


class WiderResNet(Residual):
    """`depth` = 6n + 2: stages of 64, 128 and 256 channels, four times as wide, after a stem of 32, as RepDistiller."""

    def __init__(self, depth: int, classes: int):
        super().__init__(Block, 32, [64, 128, 256], 3 * [(depth - 2) // 6], classes, "projection")


LARGE = [64, 128, 256, 512]  # of the networks for ImageNet, here without their max pooling


def resnet18(classes: int) -> Residual:
    return Residual(Block, 64, LARGE, [2, 2, 2, 2], classes, "projection")


def resnet34(classes: int) -> Residual:
    return Residual(Block, 64, LARGE, [3, 4, 6, 3], classes, "projection")


def resnet50(classes: int) -> Residual:
    return Residual(Bottleneck, 64, LARGE, [3, 4, 6, 3], classes, "projection")
