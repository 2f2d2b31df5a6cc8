"""Wide ResNets after Zagoruyko and Komodakis 2016: BatchNorm and ReLU come before each convolution.

Key names are those of RepDistiller and xternalz. A stage ends in a signed sum (`raw`); the BatchNorm and the ReLU
that follow it, and so `pre` and `post`, belong to the first block of the next stage.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdcache.models.resnet import activations, init_convolutions


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        out += x if self.convShortcut is None else self.convShortcut(active)
        return out


class Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int):
        super().__init__()
        rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(Block(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """`depth` = 6n + 4; stages of 16k, 32k and 64k channels. No dropout."""

    def __init__(self, depth: int, k: int, classes: int):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Stage(16, 16 * k, blocks, stride=1)
        self.block2 = Stage(16 * k, 32 * k, blocks, stride=2)
        self.block3 = Stage(32 * k, 64 * k, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * k)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * k, classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

        self.taps = activations({f"f{i}": f"block{i + 1}.layer.0.relu1" for i in range(3)} | {"f3": "relu"})
        self.taps |= {"f0.raw": ("conv1", "out")} | {f"f{i}.raw": (f"block{i}", "out") for i in (1, 2, 3)}
        self.margins = {"f1.pre": "block2.layer.0.bn1", "f2.pre": "block3.layer.0.bn1", "f3.pre": "bn1"}

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))
