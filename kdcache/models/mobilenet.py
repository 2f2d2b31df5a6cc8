"""MobileNets for 32x32: V1 after Howard et al. 2017, V2 after Sandler et al. 2018; key names are kuangliu's.

Of V2 repositories have three forms, which differ in arithmetic: kuangliu's, RepDistiller's of half the width, and
chenyaofo's, which are torchvision's with smaller strides. A stage of V2 ends in a signed sum (`raw`); `pre` and `post`
are around the BatchNorm and the ReLU that follow it: those of the next block's first convolution, which has more
channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdcache.models.blocks import activations, conv, init_convolutions


class Separable(nn.Module):
    """A convolution of each channel by itself, then one over all channels of a pixel."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = conv(inputs, inputs, 3, stride, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(inputs, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))


V1 = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
"""Width and stride of each block."""


class MobileNet(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = conv(3, 32)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU()
        widths = (32, *(width for width, _ in V1))
        blocks = (Separable(inputs, width, stride) for inputs, (width, stride) in zip(widths, V1, strict=False))
        self.layers = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1024, classes)
        init_convolutions(self)

        ends = {"f0": 2, "f1": 4, "f2": 10, "f3": 12}
        self.taps = activations({tap: f"layers.{end}.relu2" for tap, end in ends.items()})
        self.margins = {f"{tap}.pre": f"layers.{ends[tap]}.bn2" for tap in ("f1", "f2", "f3")}

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class Inverted(nn.Module):
    """More channels, a convolution of each by itself, fewer channels; the input is added where it has the same shape.

    `project`: it is added behind a 1x1 convolution, too, where the widths differ and the pixels are as many.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, growth: int, relu: type, widen: bool, project: bool):
        super().__init__()
        inner = growth * inputs
        if widen:
            self.conv1 = conv(inputs, inner, 1)
            self.bn1 = nn.BatchNorm2d(inner)
            self.relu1 = relu()
        self.widen = widen
        self.conv2 = conv(inner, inner, 3, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = relu()
        self.conv3 = conv(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.add = stride == 1 and (project or inputs == outputs)
        self.downsample = None
        if self.add and inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x))) if self.widen else x
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        if not self.add:
            return out
        return out + (x if self.downsample is None else self.downsample(x))


V2 = ((1, 1, 1), (6, 2, 1), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))
"""Growth inside a block, number of blocks, and stride of the first, of each stage."""
WIDTHS = (16, 24, 32, 64, 96, 160, 320)


class MobileNetV2(nn.Module):
    """`stem`, `widths` of the stages and `head`: channels. `stride` is that of the first convolution."""

    def __init__(
        self, classes: int, stem: int = 32, widths: Sequence[int] = WIDTHS, head: int = 1280, *,
        stride: int = 1, relu: type = nn.ReLU, widen_first: bool = True, project: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.conv1 = conv(3, stem, 3, stride)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu1 = relu()
        stages, inputs = [], stem
        for (growth, count, first), width in zip(V2, widths, strict=True):
            stage = []
            for number in range(count):
                widen = growth > 1 or widen_first
                stage.append(Inverted(inputs, width, 1 if number else first, growth, relu, widen, project))
                inputs = width
            stages.append(nn.Sequential(*stage))
        self.layers = nn.Sequential(*stages)
        self.conv2 = conv(inputs, head, 1)
        self.bn2 = nn.BatchNorm2d(head)
        self.relu2 = relu()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(head, classes)
        init_convolutions(self)

        ends = {"f0": 1, "f1": 2, "f2": 4, "f3": 6}  # the last stage of each grid of pixels
        follow = {tap: "{}2" if stage == 6 else f"layers.{stage + 1}.0.{{}}1" for tap, stage in ends.items()}
        self.taps = activations({tap: place.format("relu") for tap, place in follow.items()})
        self.taps |= {f"{tap}.raw": (f"layers.{stage}", "out") for tap, stage in ends.items()}
        self.margins = {f"{tap}.pre": follow[tap].format("bn") for tap in ("f1", "f2", "f3")}

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.fc(self.avgpool(x).flatten(1))


def half(classes: int) -> MobileNetV2:
    """RepDistiller's, of the tables of most papers on distillation: half as wide, and the first convolution halves."""
    return MobileNetV2(classes, 16, [width // 2 for width in WIDTHS], stride=2, project=False)


def scaled(percent: int, classes: int) -> MobileNetV2:
    """chenyaofo's, `percent` as wide."""
    stem, *widths = (eighths(width * percent / 100) for width in (32, *WIDTHS))
    head = eighths(1280 * max(1, percent / 100))
    return MobileNetV2(classes, stem, widths, head, relu=nn.ReLU6, widen_first=False, project=False)


def eighths(width: float) -> int:
    """The nearest multiple of 8, but no less than 90 % of the width."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * width else nearest + 8
