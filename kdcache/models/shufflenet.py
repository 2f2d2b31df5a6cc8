"""ShuffleNets for 32x32, V1 after Zhang et al. 2018, V2 after Ma et al. 2018; key names are those of RepDistiller."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kdcache.models.blocks import Shuffle, activations, conv, init_convolutions


class Grouped(nn.Module):
    """V1: 1x1 convolutions of three groups around one of each channel by itself; a stride puts the input beside it."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        pooled = inputs if stride == 2 else 0
        width, groups = (outputs - pooled) // 4, 1 if inputs == 24 else 3
        self.conv1 = conv(inputs, width, 1, groups=groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.shuffle = Shuffle(groups)
        self.conv2 = conv(width, width, 3, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = conv(width, outputs - pooled, 1, groups=3)
        self.bn3 = nn.BatchNorm2d(outputs - pooled)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if pooled else None
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        return self.relu3(out + x if self.pool is None else torch.cat([out, self.pool(x)], 1))


class Split(nn.Module):
    """V2: one half of the channels stays; the other passes 1x1, 3x3 of each by itself, and 1x1.

    The half that stays is the result of a ReLU, so that one more, over both halves, leaves it as it is.
    """

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu3 = nn.ReLU()
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        stays, out = x.chunk(2, 1)
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(out)))))
        return self.shuffle(self.relu3(torch.cat([stays, self.bn3(self.conv3(out))], 1)))


class Down(nn.Module):
    """V2: a quarter of the pixels, in two branches over all channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        half = outputs // 2
        self.conv1 = conv(inputs, inputs, 3, 2, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = conv(inputs, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(inputs, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu3 = nn.ReLU()
        self.conv4 = conv(half, half, 3, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU()
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(self.relu3(self.bn3(self.conv3(x)))))
        return self.shuffle(self.relu(torch.cat([left, self.bn5(self.conv5(right))], 1)))


Part: TypeAlias = Grouped | Split | Down
BLOCKS = (4, 8, 4)
V2_WIDTHS = {
    50: (48, 96, 192, 1024),
    100: (116, 232, 464, 1024),
    150: (176, 352, 704, 1024),
    200: (244, 488, 976, 2048),
}


class ShuffleNet(nn.Module):
    """A convolution to 24 channels, three stages, whose first block halves both sides, and what V2 has behind them."""

    def __init__(self, classes: int, stem: int, stages: list[list[Part]], width: int, head: int = 0):
        super().__init__()
        self.conv1 = conv(3, 24, stem)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu = nn.ReLU()
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*stage) for stage in stages)
        self.head = bool(head)
        if head:
            self.conv2 = conv(width, head, 1)
            self.bn2 = nn.BatchNorm2d(head)
            self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(head or width, classes)
        init_convolutions(self)

        ends = {f"f{i}": f"layer{i}.{count - 1}" for i, count in enumerate(BLOCKS, 1)}
        self.taps = activations({"f0": "relu"} | {tap: f"{end}.relu3" for tap, end in ends.items()})
        norms = {f"{tap}.pre": f"{end}.bn3" for tap, end in ends.items()}
        if head:  # of V2, the half that stays has been above zero since an earlier ReLU
            halves = (stage[-1].bn3.num_features for stage in stages)
            norms = {tap: (half, norm) for half, (tap, norm) in zip(halves, norms.items(), strict=True)}
        self.margins = norms

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        x = self.relu2(self.bn2(self.conv2(x))) if self.head else x
        return self.fc(self.avgpool(x).flatten(1))


def stages(widths: tuple[int, ...], first: Callable[..., Part], rest: Callable[..., Part]) -> list[list[Part]]:
    widths = (24, *widths)
    return [
        [first(widths[i], widths[i + 1]), *(rest(widths[i + 1]) for _ in range(count - 1))]
        for i, count in enumerate(BLOCKS)
    ]


def v1(classes: int) -> ShuffleNet:
    """RepDistiller's: three groups; the first convolution is 1x1."""
    made = stages((240, 480, 960), lambda a, b: Grouped(a, b, 2), lambda width: Grouped(width, width, 1))
    return ShuffleNet(classes, 1, made, 960)


def v2(classes: int, percent: int = 100, stem: int = 1) -> ShuffleNet:
    """RepDistiller's: the first convolution is 1x1."""
    *widths, head = V2_WIDTHS[percent]
    return ShuffleNet(classes, stem, stages(tuple(widths), Down, Split), widths[-1], head)


def scaled(percent: int, classes: int) -> ShuffleNet:
    """kuangliu's and chenyaofo's, `percent` as wide: the first convolution is 3x3."""
    return v2(classes, percent, stem=3)
