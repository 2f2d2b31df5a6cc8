"""The catalogue of networks: to add one, write its body in a file of this folder and name it here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module


@dataclass(frozen=True)
class Family:
    """A network, or several of one body: capital letters in a name stand for numbers, the first that the body takes."""

    name: str
    body: str
    """MODULE:CLASS, imported when one is built; called with the numbers, then with the number of classes."""
    help: str
    sizes: tuple[tuple[int, ...], ...] = ((),)
    """The numbers of those that are listed."""
    rule: str = ""
    """Which numbers will do, in words."""
    fits: Callable[..., bool] = lambda: True

    @property
    def listed(self) -> list[str]:
        return [re.sub("[A-Z]", "{}", self.name).format(*numbers) for numbers in self.sizes]

    def builder(self, name: str) -> Callable | None:
        """What builds the network of this name, for a number of classes; None of another family's name."""
        found = re.fullmatch(re.sub("[A-Z]", r"(\\d{1,4})", self.name), name)
        numbers = tuple(map(int, found.groups())) if found else ()
        if not found or not self.fits(*numbers):
            return None
        module, _, body = self.body.partition(":")
        return partial(getattr(import_module(f"kdcache.models.{module}"), body), *numbers)


MODELS = [
    Family(
        "resnetD", "resnet:ResNet", "He et al. 2016: three stages of 16, 32 and 64 channels",
        ((8,), (14,), (20,), (32,), (44,), (56,), (110,)),
        "D = 8, 14, 20, ... 1202 without 50", lambda depth: depth % 6 == 2 and 8 <= depth <= 1202 and depth != 50,
    ),
    Family(
        "resnetDx4", "resnet:WiderResNet", "the same, four times as wide, as RepDistiller has it", ((8,), (32,)),
        "D = 8, 14, 20, ... 1202", lambda depth: depth % 6 == 2 and 8 <= depth <= 1202,
    ),
    Family("resnet18", "resnet:resnet18", "that of ImageNet with a stem for 32x32: four stages of 64 to 512 channels"),
    Family("resnet34", "resnet:resnet34", "the same, deeper"),
    Family("resnet50", "resnet:resnet50", "the same with bottlenecks: 256 to 2048 channels"),
    Family("preact-resnet18", "wrn:PreActResNet18", "He et al. 2016b, as kuangliu has it"),
    Family(
        "wrn-D-K", "wrn:WideResNet", "Zagoruyko and Komodakis 2016: resnetD, K times as wide, activation first",
        ((16, 1), (16, 2), (16, 4), (28, 2), (28, 4), (28, 10), (40, 1), (40, 2), (40, 4)),
        "D = 10, 16, 22, ... 994 and K = 1, 2, ... 999",
        lambda depth, k: depth % 6 == 4 and 10 <= depth < 1000 and 1 <= k < 1000,
    ),
    Family(
        "vggD", "vgg:VGG", "Simonyan and Zisserman 2015 with BatchNorm: three poolings, as RepDistiller has it",
        ((8,), (11,), (13,), (16,), (19,)), "D = 8, 11, 13, 16, 19", lambda depth: depth in (8, 11, 13, 16, 19),
    ),
    Family(
        "vggD-kuangliu", "vgg:PooledVGG", "the same with five poolings", ((11,), (13,), (16,), (19,)),
        "D = 8, 11, 13, 16, 19", lambda depth: depth in (8, 11, 13, 16, 19),
    ),
    Family(
        "vggD-chenyaofo", "vgg:three_layers", "five poolings, and three linear layers", ((11,), (13,), (16,), (19,)),
        "D = 8, 11, 13, 16, 19", lambda depth: depth in (8, 11, 13, 16, 19),
    ),
    Family("googlenet", "googlenet:GoogLeNet", "Szegedy et al. 2015 with BatchNorm, as kuangliu has it"),
    Family(
        "googlenet-xP", "googlenet:narrow", "the same, P percent as wide", ((10,),), "P = 1, 2, ... 100",
        lambda percent: 1 <= percent <= 100,
    ),
    Family("densenet121", "densenet:densenet121", "Huang et al. 2017, as kuangliu has it"),
    Family(
        "densenetbc-D-K", "densenet:densenetbc", "the same, three blocks of (D - 4) / 6 layers of K channels",
        ((100, 12),), "D = 10, 16, 22, ... 994 and K = 1, 2, ... 999",
        lambda depth, growth: depth % 6 == 4 and 10 <= depth < 1000 and 1 <= growth < 1000,
    ),
    Family("mobilenetv1", "mobilenet:MobileNet", "Howard et al. 2017, as kuangliu has it"),
    Family("mobilenetv2", "mobilenet:MobileNetV2", "Sandler et al. 2018, as kuangliu has it"),
    Family("mobilenetv2-half", "mobilenet:half", "half as wide, 16x16 from the first convolution on: RepDistiller's"),
    Family(
        "mobilenetv2-xP", "mobilenet:scaled", "P percent as wide, as chenyaofo has it", ((50,), (75,), (100,), (140,)),
        "P = 50, 75, 100, 140", lambda percent: percent in (50, 75, 100, 140),
    ),
    Family("shufflenetv1", "shufflenet:v1", "Zhang et al. 2018 with three groups: RepDistiller's"),
    Family("shufflenetv2", "shufflenet:v2", "Ma et al. 2018, first convolution 1x1: RepDistiller's"),
    Family(
        "shufflenetv2-xP", "shufflenet:scaled", "first convolution 3x3, P percent as wide: kuangliu's and chenyaofo's",
        ((50,), (100,), (150,), (200,)), "P = 50, 100, 150, 200", lambda percent: percent in (50, 100, 150, 200),
    ),
    Family("tiny", "tiny:tiny", "three convolutions that learn the digits in seconds"),
    Family("tiny-W", "tiny:Tiny", "the same, W channels wide", ((3,), (32,)), "W = 1, 2, ...", lambda width: width > 0),
]  # fmt: skip


def family_of(name: str) -> Family | None:
    """The family that has a network of that name."""
    return next((family for family in MODELS if family.builder(name)), None)


def listed() -> list[str]:
    """The names that are shown; a family takes other numbers, too."""
    return [name for family in MODELS for name in family.listed]
