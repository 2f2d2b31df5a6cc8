"""DenseNets after Huang et al. 2017, with bottlenecks and halved transitions (BC); key names are kuangliu's.

New channels are put before the old ones, as kuangliu does; torchvision puts them behind, so that its weights belong to
other channels. A stage ends in a signed concatenation (`raw`); `pre` and `post` are around the BatchNorm and the ReLU
that follow it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcache.models.blocks import activations, conv, init_convolutions, last_four


class Layer(nn.Module):
    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(inputs, 4 * growth, 1)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = conv(4 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x))))))
        return torch.cat([new, x], 1)


class Transition(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.conv = conv(inputs, outputs, 1)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.relu(self.bn(x))))


class DenseNet(nn.Module):
    """Blocks of so many layers, each of which adds `growth` channels."""

    def __init__(self, layers: tuple[int, ...], growth: int, classes: int):
        super().__init__()
        width = 2 * growth
        self.conv1 = conv(3, width)
        self.blocks = len(layers)
        for number, count in enumerate(layers, 1):
            self.add_module(f"dense{number}", nn.Sequential(*(Layer(width + i * growth, growth) for i in range(count))))
            width += count * growth
            if number < len(layers):
                self.add_module(f"trans{number}", Transition(width, width // 2))
                width //= 2
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)
        init_convolutions(self)

        ends = ["conv1", *(f"dense{number}" for number in range(1, self.blocks + 1))]
        follow = ["dense1.0.{}1", *(f"trans{number}.{{}}" for number in range(1, self.blocks)), "{}"]
        self.taps = activations(last_four([place.format("relu") for place in follow]))
        self.taps |= {f"{tap}.raw": (end, "out") for tap, end in last_four(ends).items()}
        norms = last_four([place.format("bn") for place in follow])
        self.margins = {f"f{i}.pre": norms[f"f{i}"] for i in (1, 2, 3)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in range(1, self.blocks):
            x = self.get_submodule(f"trans{number}")(self.get_submodule(f"dense{number}")(x))
        x = self.relu(self.bn(self.get_submodule(f"dense{self.blocks}")(x)))
        return self.fc(self.avgpool(x).flatten(1))


def densenet121(classes: int) -> DenseNet:
    return DenseNet((6, 12, 24, 16), 32, classes)


def densenetbc(depth: int, growth: int, classes: int) -> DenseNet:
    """Three blocks of (depth - 4) / 6 layers each."""
    return DenseNet(((depth - 4) // 6,) * 3, growth, classes)
