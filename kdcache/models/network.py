"""A network as everything else sees it: uint8 images in, logits out, and taps to look at on the way.

    images u8 --> normalize --> body --> logits
                                 |
                                taps: f0..f3 in .raw/.pre/.post, emb, cam

A body is any module for normalised float images. What it shows is its attribute `taps`, a dict from the name of a
tap to (path of a submodule, "in" or "out"); `margins` names the BatchNorm before each `f1.pre`, `f2.pre`, `f3.pre`. At
`cam`, the last layer is applied to each pixel of what passes there: the map whose mean it reads.
A body without these attributes gets its taps by a text: `kdcache.models.taps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kdcache.errors import TeacherError, UsageError
from kdcache.models.elsewhere import Layout
from kdcache.models.maps import CAM, as_map, class_map
from kdcache.models.normalize import Normalize
from kdcache.types import Look
from kdcache.user_code import user_fault

Place: TypeAlias = tuple[str, str]
"""The path of a module, and which side of it: in or out."""
OUTPUT: Place = ("", "out")


class Network(nn.Module):
    """A body with its normalisation. `arch` says how to build it again: model, classes, options."""

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float], arch: dict):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.body = body
        self.arch = arch
        self.places: dict[str, Place] = own_names(body, "taps")
        self.margins: dict[str, str | Sequence[str | int]] = own_names(body, "margins")
        path, side = self.places.get("emb", OUTPUT)
        self.head = path if side == "in" else ""  # the path of the layer that makes the logits, where it is known
        layout = getattr(body, "layout", None)
        self.layout: Layout | None = layout if isinstance(layout, Layout) else None
        self.facts: dict = {}  # what was saved with the weights
        self.read_as = ""  # how the names of its weights were read, where they were others
        self.begun = ""  # which weights it began with, in words; nothing: fresh ones
        self.assumed_normalisation = False  # True: the weights came without mean and std, and somebody guessed

    def forward(self, images: Tensor) -> Tensor:
        return logits_in(self.body(self.normalize(images)))

    @property
    def taps(self) -> tuple[str, ...]:
        return (*sorted(self.places), "logits")

    @property
    def classifier(self) -> nn.Module | None:
        """The layer that makes the logits of the embedding, where it is known."""
        return self.body.get_submodule(self.head) if self.head else None

    def bn_before_relu(self, tap: str) -> nn.BatchNorm2d:
        """The BatchNorm whose output reaches the ReLU after `f1.pre`, `f2.pre` or `f3.pre`.

        Where several are put side by side, a new one of all their channels; a number stands for channels without one,
        which are never below zero.
        """
        if tap not in self.margins:
            known = ", ".join(self.margins) or "this network names none"
            expected = f"a tap with a BatchNorm before its ReLU ({known})"
            raise UsageError(self.arch["model"], expected, tap, _norm_advice(tap))
        named = self.margins[tap]
        if isinstance(named, str):
            return self._norm(named, tap)
        norms = [self._norm(part, tap) if isinstance(part, str) else _never_negative(part) for part in named]
        whole = nn.BatchNorm2d(sum(norm.num_features for norm in norms))
        for name in ("weight", "bias"):
            getattr(whole, name).data = torch.cat([getattr(norm, name).detach().cpu() for norm in norms])
        return whole

    def _norm(self, path: str, tap: str) -> nn.BatchNorm2d:
        module = _submodule(self, path, _norm_advice(tap))
        if not isinstance(module, nn.BatchNorm2d):
            expected = f"a BatchNorm2d at {path}"
            raise UsageError(self.arch["model"], expected, type(module).__name__, _norm_advice(tap))
        return module

    def blank(self, images: Tensor | Sequence[int]) -> Tensor:
        """Two images, all zeros, like these (a batch, or the shape of one image)."""
        size = getattr(images, "shape", images)[-3:]
        return torch.zeros((2, *size), dtype=torch.uint8, device=self.normalize.mean.device)


def _norm_advice(tap: str) -> str:
    return f"name it among the taps, as {tap.removesuffix('.pre')}.bn=PATH of a BatchNorm2d"


def _never_negative(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.zeros_(norm.weight)
    return norm


def logits_in(answer):
    """The logits that a body answers with: a tensor, or an object which has them as `logits`, as in transformers."""
    return getattr(answer, "logits", answer)


def own_names(body: nn.Module, attribute: str) -> dict:
    """What a body names itself; an attribute of another kind has nothing to do with us."""
    found = getattr(body, attribute, None)
    return dict(found) if isinstance(found, Mapping) else {}


def wrapped(module: nn.Module, classes: int, mean: Sequence[float], std: Sequence[float]) -> Network:
    """A module for normalised float images as a Network; a Network stays as it is."""
    if isinstance(module, Network):
        return module
    network = Network(module, mean, std, {"model": type(module).__name__, "classes": classes, "options": {}})
    for parameter in [one for one in module.parameters() if not one.is_meta][:1]:
        network.normalize.to(parameter.device)
    return network


ADVICE = "the body's attribute `taps` maps a tap to (path of a submodule, 'in' or 'out')"


@contextmanager
def watch(network: Network, names: Iterable[str]) -> Iterator[Callable[[Tensor], Look]]:
    """Runs the network and shows the named taps, with their gradients.

    >>> with watch(network, ["f2.pre", "logits"]) as look:
    ...     seen = look(images)  # {"f2.pre": ..., "logits": ...}
    """
    watched = Watched(network, names)

    def look(images: Tensor) -> Look:
        watched.begin()
        try:
            return watched.look(network(images), images.shape[2:])
        finally:
            watched.seen.clear()  # or the graph of this batch would live until the next

    try:
        yield look
    finally:
        for hook in watched.hooks:
            hook.remove()


class Watched:
    """The named taps of a network that anybody runs; between `begin` and `look`, whatever passes there is kept."""

    def __init__(self, network: Network, names: Iterable[str]):
        self.network = network
        self.places = {name: _place(network, name) for name in names}
        self.seen: dict[Place, Seen] = {}  # hooks fill in only what is asked for
        self.hooks = [_listen(network, place, self.seen) for place in set(self.places.values()) - {OUTPUT}]

    def begin(self) -> None:
        self.seen.update(dict.fromkeys(self.places.values(), NOTHING))

    def look(self, logits: Tensor, size: Sequence[int]) -> Look:
        """What passed, for images of this height and width, beside the logits that came of it."""
        self.seen[OUTPUT] = kept(logits)
        return {name: _as_shown(self.network, name, self.seen[place], size) for name, place in self.places.items()}


Seen: TypeAlias = tuple[Tensor | None, int]
"""A tensor, and how often it had been changed in place when it was seen."""
NOTHING: Seen = (None, 0)


def kept(tensor: Tensor) -> Seen:
    return tensor, times_changed(tensor)


def times_changed(tensor: Tensor) -> int:
    """Nobody counts in inference mode, and a compiler does not look."""
    if torch.compiler.is_compiling() or not isinstance(tensor, Tensor) or tensor.is_inference():
        return 0
    return tensor._version


def _as_seen(network: Network, name: str, seen: Seen) -> Tensor:
    """What passed at a tap; a map of one pixel is a vector where vectors are wanted."""
    tensor, changed = seen
    place = OUTPUT if name == "logits" else network.places[name]
    if not isinstance(tensor, Tensor):
        expected, found = f"a tensor at tap {name} {place}", type(tensor).__name__
        raise UsageError(network.arch["model"], expected, found, f"see that it is passed there; {ADVICE}")
    if times_changed(tensor) != changed:
        expected = f"values at tap {name} {place} that stay as they are"
        remedy = "name the module behind it, or write that operation without in-place (out = out + x, not out += x)"
        raise UsageError(network.arch["model"], expected, "some that are overwritten in the same forward", remedy)
    return tensor.flatten(1) if name == "emb" and tensor.shape[2:] == (1, 1) else tensor


def _as_shown(network: Network, name: str, seen: Seen, size: Sequence[int]) -> Tensor:
    tensor = as_map(network.layout, name, _as_seen(network, name, seen), size)
    if name != CAM:
        return tensor
    weight = getattr(network.classifier, "weight", None)
    if not isinstance(weight, Tensor):
        expected, remedy = "a known last layer for tap cam", "name what goes into it among the taps, as emb=fc:in"
        raise UsageError(network.arch["model"], expected, "none", remedy)
    return class_map(weight, tensor)


def _place(network: Network, name: str) -> Place:
    if name not in network.taps:
        expected = f"one of its taps {', '.join(network.taps)}"
        remedy = f"name the modules that show it, as taps: `kdcache check-model {network.arch['model']}` lists them"
        raise UsageError(network.arch["model"], expected, name, remedy)
    place = OUTPUT if name == "logits" else network.places[name]
    match place:
        case (str(path), "in" | "out" as side):
            _submodule(network, path, ADVICE)  # before the first hook, which nobody would take away
            return path, side
    raise UsageError(network.arch["model"], f"a path and a side for tap {name}", repr(place), ADVICE)


def _listen(network: Network, place: Place, seen: dict[Place, Seen]):
    path, side = place

    def keep_input(module, args):
        if args and place in seen:  # what works in place would overwrite it
            seen[place] = kept(args[0].clone() if getattr(module, "inplace", False) else args[0])

    def keep_output(module, args, output):
        if place in seen:
            seen[place] = kept(output)

    module = network.body.get_submodule(path)
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
        return {name: tuple(tensor.shape[1:]) for name, tensor in look(network.blank(images)).items()}


def check_output(network: Network, images: Tensor | Sequence[int]) -> None:
    """Refuses a network that cannot answer such images with one logit per class."""
    model, classes, blank = network.arch["model"], network.arch["classes"], network.blank(images)
    try:
        with evaluating(network):
            logits = network(blank)
    except Exception as error:  # the body may be anybody's code
        expected = f"a network for images of {list(blank.shape[1:])}"
        found, _ = user_fault(error)
        raise TeacherError(model, expected, found, size_remedy(network, blank.shape[2:])) from error
    found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != [2, classes]:
        remedy = f"let it return one float tensor of {classes} logits per image"
        raise TeacherError(model, f"logits of shape [2, {classes}] for two images", str(found), remedy)


def size_remedy(network: Network, size: Sequence[int]) -> str:
    """What to do about images of a size that a network does not take."""
    wanted = network.layout.size if network.layout else tuple(size)
    if wanted == tuple(size):
        return "change the network or the size of the images"
    text = wanted[0] if wanted[0] == wanted[1] else "x".join(map(str, wanted))
    return f"it was made for images of {wanted[0]}x{wanted[1]}: take a view of them, `augment` resized-crop:{text}"
