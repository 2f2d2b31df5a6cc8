"""A network without values: its shapes, found in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.overrides import TorchFunctionMode

from kdcache.models import build
from kdcache.models.network import Network

SMALL = 1 << 37  # weights times the values of an image


class NoInit(TorchFunctionMode):
    """Leaves out the initialisation: quicker, and memory that nobody writes to is not taken from the system."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def outline(name: str, classes: int, **options) -> Network:
    """One of our own networks on the device `meta`, where tensors have shapes alone."""
    with torch.device("meta"):
        return bare(name, classes, **options)


def bare(name: str, classes: int, **options) -> Network:
    """A network with whatever was in its memory."""
    with NoInit():
        return build(name, classes, mean=(0, 0, 0), std=(1, 1, 1), **options)


def runnable(name: str, classes: int, image: Sequence[int]) -> Network:
    """One of our own networks that can be shown blank images: an outline, unless it is small.

    Running an outline imports torch's compiler, which takes longer than running a small network.
    """
    whole = outline(name, classes)
    weights = sum(parameter.numel() for parameter in whole.parameters())
    return whole if weights * math.prod(image) > SMALL else bare(name, classes)
