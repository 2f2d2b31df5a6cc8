"""ResNets whose BatchNorm and ReLU come before each convolution: wide ones, and the pre-activation ResNet-18.

Key names of the wide ones are those of RepDistiller and xternalz. A stage ends in a signed sum (`raw`); the BatchNorm
and the ReLU that follow it, and so `pre` and `post`, belong to the first block of the next stage.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdcache.models.blocks import activations, conv, init_convolutions


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


class PreActResNet18(nn.Module):
    """After He et al. 2016b, as kuangliu has it: no BatchNorm or ReLU between the last sum and the mean over pixels.

    So the last `pre` and `post` are those inside the last block, before its second convolution.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = conv(3, 64)
        widths = (64, 64, 128, 256, 512)
        for number in (1, 2, 3, 4):
            first = Block(widths[number - 1], widths[number], stride=1 if number == 1 else 2)
            self.add_module(f"layer{number}", nn.Sequential(first, Block(widths[number], widths[number], stride=1)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)
        init_convolutions(self)

        follow = [f"layer{stage}.0.{{}}1" for stage in (2, 3, 4)] + ["layer4.1.{}2"]
        self.taps = activations({f"f{i}": place.format("relu") for i, place in enumerate(follow)})
        self.taps |= {f"f{i}.raw": (f"layer{i + 1}", "out") for i in range(4)}
        self.margins = {f"f{i}.pre": follow[i].format("bn") for i in (1, 2, 3)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(self.avgpool(x).flatten(1))
