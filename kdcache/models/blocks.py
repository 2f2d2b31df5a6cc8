"""What the bodies of several families are made of.

No ReLU of any body works in place: a watcher keeps what goes in, and autograd keeps what comes out, so it would not
save memory either.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the number of pixels, up to its stride; a bias would do nothing before a BatchNorm."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=bias)


def conv_bn_relu(inputs: int, outputs: int, size: int = 3, bias: bool = True) -> list[nn.Module]:
    return [conv(inputs, outputs, size, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU()]


class Shuffle(nn.Module):
    """Channels of `groups` groups, dealt out in turn, so that the next groups see all of them."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


def init_convolutions(body: nn.Module) -> None:
    """He's init for convolutions, as in all references; BatchNorm and linear layers start as torch makes them."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            # as `kaiming_normal_` does, which `NoInit` does not see
            nn.init.normal_(module.weight, 0, math.sqrt(2) / math.sqrt(fan_out))


def activations(relus: dict[str, str]) -> dict[str, tuple[str, str]]:
    """The taps of a body whose stages end in these ReLUs: `raw` is what comes out, as `post` is.

    It ends in a pooling `avgpool` and a linear layer `fc`.
    """
    taps: dict[str, tuple[str, str]] = {}
    for tap, relu in relus.items():
        taps |= {f"{tap}.raw": (relu, "out"), f"{tap}.pre": (relu, "in"), f"{tap}.post": (relu, "out")}
    return taps | {"emb": ("fc", "in"), "cam": ("avgpool", "in")}


def last_four(ends: list[str]) -> dict[str, str]:
    """Names for the ends of stages, of which the stem is the first: f3 is the last one, f0 the fourth from the end.

    >>> last_four(["relu", "layer1", "layer2", "layer3", "layer4"])
    {'f0': 'layer1', 'f1': 'layer2', 'f2': 'layer3', 'f3': 'layer4'}
    """
    return {f"f{number}": end for number, end in enumerate(ends[-4:])}
