"""A network that learns the embedded digits in seconds on one core; its width makes teachers and students of it."""

from __future__ import annotations

from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models.blocks import activations, init_convolutions


class Tiny(nn.Module):
    """Three convolutions of `width`, 2 and 2 times `width` channels.

    The first takes steps of four pixels, since the digits are 8x8 images that were enlarged to 32x32: that is
    twice as fast as any slower descent, and more accurate.
    """

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 5, stride=4, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.relu3 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)
        init_convolutions(self)
        self.taps = activations({f"f{i}": f"relu{i}" for i in (1, 2, 3)})
        self.margins = {f"f{i}.pre": f"bn{i}" for i in (1, 2, 3)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.bn3(self.conv3(x)))
        return self.fc(self.avgpool(x).flatten(1))


def tiny(classes: int, width: int = 8) -> Tiny:
    if not isinstance(width, int) or width < 1:
        raise UsageError("tiny", "a width of 1 or more", repr(width), "give a whole number")
    return Tiny(width, classes)
