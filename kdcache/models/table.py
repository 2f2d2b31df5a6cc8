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
        "D = 8, 14, 20, ... 1202", lambda depth: depth % 6 == 2 and 8 <= depth <= 1202,
    ),
    Family(
        "wrn-D-K", "wrn:WideResNet", "Zagoruyko and Komodakis 2016: the same, K times as wide",
        ((16, 1), (16, 2), (16, 4), (28, 2), (28, 4), (28, 10), (40, 1), (40, 2), (40, 4)),
        "D = 10, 16, 22, ... 994 and K = 1, 2, ... 999",
        lambda depth, k: depth % 6 == 4 and 10 <= depth < 1000 and 1 <= k < 1000,
    ),
    Family("tiny", "tiny:tiny", "three convolutions that learn the digits in seconds"),
    Family("tiny-W", "tiny:Tiny", "the same, W channels wide", ((3,), (32,)), "W = 1, 2, ...", lambda width: width > 0),
]  # fmt: skip


def listed() -> list[str]:
    """The names that are shown; a family takes other numbers, too."""
    return [name for family in MODELS for name in family.listed]
