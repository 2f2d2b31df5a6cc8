"""A network as everything else sees it: uint8 images in, logits out, and taps to look at on the way.

    images u8 --> normalize --> body --> logits
                                 |
                                taps: f0..f3 in .raw/.pre/.post, emb

A body is any module for normalised float images. What it shows is its attribute `taps`, a dict from the name of a
tap to (path of a submodule, "in" or "out"); `margins` names the BatchNorm before each `f1.pre`, `f2.pre`, `f3.pre`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kdcache.errors import TeacherError, UsageError
from kdcache.types import Look
from kdcache.user_code import blamed


class Normalize(nn.Module):
    """uint8 [n, c, h, w] to floats, with a mean and a std per channel in units of 0..1; keeps the memory format."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        assert len(mean) == len(std)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("shift", None, persistent=False)
        _rescale(self, None)
        self.register_load_state_dict_post_hook(_rescale)

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8, images.dtype
        if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
            scale, shift = self.scale.view(-1, 1, 1), self.shift.view(-1, 1, 1)
            return images.to(scale.dtype).mul_(scale).add_(shift)
        width = images.shape[3]  # whole rows of pixels at once: three channels inside is 8 times as slow
        rows = images.permute(0, 2, 3, 1).flatten(2).to(self.scale.dtype)
        rows.mul_(self.scale.repeat(width)).add_(self.shift.repeat(width))
        return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)


def _rescale(normalize: Normalize, _) -> None:
    normalize.scale = 1 / (255 * normalize.std)
    normalize.shift = -normalize.mean / normalize.std


class Network(nn.Module):
    """A body with its normalisation. `arch` says how to build it again: model, classes, options."""

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float], arch: dict):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.body = body
        self.arch = arch
        self.facts: dict = {}  # what was saved with the weights
        self.assumed_normalisation = False  # True: the weights came without mean and std, and somebody guessed

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self.normalize(images))

    @property
    def taps(self) -> tuple[str, ...]:
        return (*sorted(getattr(self.body, "taps", {})), "logits")

    def bn_before_relu(self, tap: str) -> nn.BatchNorm2d:
        """The BatchNorm whose output reaches the ReLU after `f1.pre`, `f2.pre` or `f3.pre`."""
        margins = getattr(self.body, "margins", {})
        advice = "the body's attribute `margins` maps such a tap to the path of a BatchNorm2d"
        if tap not in margins:
            expected = f"a tap with a BatchNorm before its ReLU ({', '.join(margins) or 'this network names none'})"
            raise UsageError(self.arch["model"], expected, tap, advice)
        module = _submodule(self, margins[tap], advice)
        if not isinstance(module, nn.BatchNorm2d):
            raise UsageError(self.arch["model"], f"a BatchNorm2d at {margins[tap]}", type(module).__name__, advice)
        return module


def wrapped(module: nn.Module, classes: int, mean: Sequence[float], std: Sequence[float]) -> Network:
    """A module for normalised float images as a Network; a Network stays as it is."""
    if isinstance(module, Network):
        return module
    return Network(module, mean, std, {"model": type(module).__name__, "classes": classes, "options": {}})


ADVICE = "the body's attribute `taps` maps a tap to (path of a submodule, 'in' or 'out')"


@contextmanager
def watch(network: Network, names: Iterable[str]) -> Iterator[Callable[[Tensor], Look]]:
    """Runs the network and shows the named taps, with their gradients.

    >>> with watch(network, ["f2.pre", "logits"]) as look:
    ...     seen = look(images)  # {"f2.pre": ..., "logits": ...}
    """
    places = {name: _place(network, name) for name in names}
    seen: dict[Place, Tensor] = {}
    hooks = []

    def look(images: Tensor) -> Look:
        seen.update(dict.fromkeys(places.values()))
        try:
            seen[OUTPUT] = network(images)
            shown = {name: seen[place] for name, place in places.items()}
        finally:
            seen.clear()  # or the graph of this batch would live until the next; hooks fill in only what is asked for
        for name, tensor in shown.items():
            if not isinstance(tensor, Tensor):
                expected, found = f"a tensor at tap {name} {places[name]}", type(tensor).__name__
                raise UsageError(network.arch["model"], expected, found, f"see that it is passed there; {ADVICE}")
        return shown

    try:
        for place in set(places.values()) - {OUTPUT}:
            hooks.append(_listen(network, place, seen))
        yield look
    finally:
        for hook in hooks:
            hook.remove()


Place: TypeAlias = tuple[str, str]
OUTPUT = ("", "out")


def _place(network: Network, name: str) -> Place:
    if name not in network.taps:
        expected = f"one of its taps {', '.join(network.taps)}"
        raise UsageError(network.arch["model"], expected, name, "choose another network or another method")
    place = OUTPUT if name == "logits" else network.body.taps[name]
    match place:
        case (str(), "in" | "out"):
            return tuple(place)
    raise UsageError(network.arch["model"], f"a path and a side for tap {name}", repr(place), ADVICE)


def _listen(network: Network, place: Place, seen: dict[Place, Tensor]):
    path, side = place

    def keep_input(module, args):
        if args and place in seen:
            seen[place] = args[0]

    def keep_output(module, args, output):
        if place in seen:
            seen[place] = output

    module = _submodule(network, path, ADVICE)
    return module.register_forward_pre_hook(keep_input) if side == "in" else module.register_forward_hook(keep_output)


def _submodule(network: Network, path: str, advice: str) -> nn.Module:
    try:
        return network.body.get_submodule(path)
    except AttributeError:
        raise UsageError(network.arch["model"], f"a submodule {path}", "none of that name", advice) from None


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule is in the mode that it was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def shapes(network: Network, names: Iterable[str], images: Tensor | Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shape of one row of each tap, for images like these (a batch, or the shape of one image)."""
    with evaluating(network), watch(network, names) as look:
        return {name: tuple(tensor.shape[1:]) for name, tensor in look(_blank(network, images)).items()}


def check_output(network: Network, images: Tensor | Sequence[int]) -> None:
    """Refuses a network that cannot answer such images with one logit per class."""
    model, classes, blank = network.arch["model"], network.arch["classes"], _blank(network, images)
    try:
        with evaluating(network):
            logits = network(blank)
    except Exception as error:  # the body may be anybody's code
        expected = f"a network for images of {list(blank.shape[1:])}"
        found, _ = blamed(error)
        raise TeacherError(model, expected, found, "change the network or the size of the images") from error
    found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != [2, classes]:
        remedy = f"let it return one float tensor of {classes} logits per image"
        raise TeacherError(model, f"logits of shape [2, {classes}] for two images", str(found), remedy)


def _blank(network: Network, images: Tensor | Sequence[int]) -> Tensor:
    """Two images, all zeros."""
    size = getattr(images, "shape", images)[-3:]
    return torch.zeros((2, *size), dtype=torch.uint8, device=network.normalize.mean.device)
