"""Taps by the paths of modules, for networks that name none: `f1=layer1,f2=layer2,f3=layer3,emb=avgpool`.

text = part { "," part }
part = tap "=" path [ ":in" ]        tap: f0, f1, f2, f3, one of them with .raw, .pre, .post or .bn, emb or cam

f1=layer1            f1.raw is what comes out of layer1. If an activation made it, it is f1.post, too, and what went
                     into that activation is f1.pre: a ResNet's stages have all three
f1.pre=norm          that version alone: what comes out of norm
emb=fc:in            what goes into fc
f1.bn=layer1.1.bn2   the BatchNorm in front of the activation, of which the method co alone makes its margins
cam=layer4           the map whose mean the last layer reads; it is found where it comes out of a module

Of a module that is called several times in a forward, the last call counts. A map of 1x1 pixels is a vector for emb.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models.heads import head_of
from kdcache.models.maps import CAM, as_map
from kdcache.models.network import Network, Place, evaluating, shapes, times_changed

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish,
)  # fmt: skip
TAP = re.compile(r"f[0-3](\.raw|\.pre|\.post|\.bn)?|emb|cam")
EXAMPLE = "f1=layer1,f2=layer2,f3=layer3,emb=avgpool"


def parse(text: str) -> dict[str, Place]:
    """The parts of a text, as they stand there.

    >>> parse("f1=layer1,emb=fc:in")
    {'f1': ('layer1', 'out'), 'emb': ('fc', 'in')}
    """
    places: dict[str, Place] = {}
    for part in text.split(","):
        tap, equals, path = (word.strip() for word in part.partition("="))
        path, colon, side = path.partition(":")
        if not (TAP.fullmatch(tap) and equals and path and side in ("", "in") and bool(colon) == bool(side)):
            expected = "TAP=PATH with a tap out of f0, f1, f2, f3 (or f1.raw, f1.pre, f1.post, f1.bn), emb and cam"
            raise UsageError("taps", expected, repr(part), f"write them like {EXAMPLE}")
        if tap in places:
            raise UsageError("taps", f"{tap} once", "twice", "leave one out")
        places[tap] = (path, side or "out")
    return places


def together(given: str, otherwise: str) -> str:
    """The taps of a text, and those of another for the stages that it does not name.

    >>> together("f2=layer2.0", "f1=layer1,f2=layer2,emb=fc:in")
    'f1=layer1,emb=fc:in,f2=layer2.0'
    """
    named = {tap.partition(".")[0] for tap in parse(given)}
    kept = [part for part in otherwise.split(",") if part and part.partition("=")[0].partition(".")[0] not in named]
    return ",".join([*kept, given])


def name_taps(network: Network, text: str, image: Sequence[int]) -> Network:
    """The same network, whose taps are those of the text; what its body names for other stages stays."""
    parts = parse(text)
    made = activations(network, [path for path, _ in parts.values()], image)
    stages = {tap.partition(".")[0] for tap in parts}
    network.places = {tap: place for tap, place in network.places.items() if tap.partition(".")[0] not in stages}
    for tap, place in parts.items():
        if tap.endswith(".bn"):
            network.margins = network.margins | {f"{tap.removesuffix('.bn')}.pre": place[0]}
        else:
            network.places |= versions(network, tap, place, made)
    if network.layout:  # of these, few stages end in an activation: what leaves the stage is what the next one reads
        raw = {tap: place for tap, place in network.places.items() if tap.endswith(".raw")}
        network.places = {tap.replace(".raw", ".post"): place for tap, place in raw.items()} | network.places
    network.arch = network.arch | {"taps": text}
    name_last_map(network, image)
    found = shapes(network, network.places, image)
    if len(found.get("emb", (1,))) != 1:
        shown = "x".join(map(str, found["emb"]))
        remedy = "name the pooling behind it, or what goes into the last layer, such as emb=fc:in"
        raise UsageError(f"tap emb={network.places['emb'][0]}", "a vector for each image", shown, remedy)
    return network


def name_last_map(network: Network, image: Sequence[int]) -> None:
    """Names the map `cam` where neither the text nor the body does: that whose mean a linear last layer reads."""
    named = network.places.get(CAM)
    if named and network.head:  # its body says so
        return
    paths = head_of(network)
    head = network.body.get_submodule(paths[0]) if len(paths) == 1 and paths[0] else None
    weight = getattr(head, "weight", None)
    linear = isinstance(weight, Tensor) and weight.ndim == 2 and len(weight) == network.arch["classes"]
    if named and not linear:
        remedy = "leave it out: the methods that read it need one linear layer behind the mean of a map"
        raise UsageError(f"tap cam={named[0]}", "a network that ends in one linear layer", "another", remedy)
    if linear and (place := named or averaged(network, paths[0], image)):
        network.head = paths[0]
        network.places[CAM] = place


def averaged(network: Network, head: str, image: Sequence[int]) -> Place | None:
    """Where the map comes out, the last one of the largest grid, whose mean goes into a layer."""
    passed, found = passing(network, dict(network.body.named_modules()), image), {}
    given = passed[head].inputs[0] if head in passed and passed[head].inputs else None
    if not isinstance(given, Tensor) or given.is_meta or not given.any():
        return None
    for path, (_, output, changed) in passed.items():
        if isinstance(output, Tensor) and times_changed(output) == changed:
            shown = as_map(network.layout, "", output, image[1:])
            if shown.ndim == 4 and shown[0, 0].numel() > 1 and means(shown, given):
                found[path] = shown[0, 0].numel()
    last = max(reversed(found), key=found.__getitem__, default=None)
    return (last, "out") if last else None


def means(maps: Tensor, vectors: Tensor) -> bool:
    """Whether vectors are the means of maps over their pixels."""
    return maps.shape[:2] == vectors.shape and torch.allclose(maps.mean((2, 3)), vectors, rtol=1e-3, atol=1e-6)


def versions(network: Network, tap: str, place: Place, made: Mapping[str, str]) -> dict[str, Place]:
    """The taps that one part of a text names."""
    path, side = place
    activation = made.get(path) if side == "out" else None
    if tap.endswith(".pre") and activation:
        remedy = f"write {tap}={activation}:in, or {tap.removesuffix('.pre')}={path} for all three versions"
        raise UsageError(f"tap {tap}={path}", "values before an activation", f"the result of {activation}", remedy)
    if tap in ("emb", CAM) or "." in tap:
        return {tap: place}
    found = {f"{tap}.raw": place}
    return found | {f"{tap}.post": place, f"{tap}.pre": (activation, "in")} if activation else found


def activations(network: Network, paths: Iterable[str], image: Sequence[int]) -> dict[str, str]:
    """Of those of these modules that return what an activation has made: its path."""
    asked = {path: submodule(network, path) for path in paths}
    makers = {path: module for path, module in network.body.named_modules() if isinstance(module, ACTIVATIONS)}
    passed = passing(network, makers | asked, image)
    made = {id(passed[path].output): path for path in makers if path in passed}
    results = {path: passed[path].output for path in asked if path in passed}
    return {
        path: made[id(result)] for path, result in results.items() if isinstance(result, Tensor) and id(result) in made
    }


class Passed(NamedTuple):
    """What a module was given in its last call, and what it returned."""

    inputs: tuple
    output: object
    changed: int
    """How often the output had been changed in place when it was returned."""


def passing(network: Network, modules: Mapping[str, nn.Module], image: Sequence[int]) -> dict[str, Passed]:
    """What passes through modules of the body, in the order in which they return: a stage after what is in it."""
    seen: dict[str, Passed] = {}

    def keep(path: str):
        def hook(module, inputs, output):
            seen.pop(path, None)
            seen[path] = Passed(inputs, output, times_changed(output))

        return hook

    hooks = [module.register_forward_hook(keep(path)) for path, module in modules.items()]
    try:
        with evaluating(network):
            network(network.blank(image))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def suggested(passed: Mapping[str, Passed], modules: Mapping[str, nn.Module]) -> str:
    """Taps that a network could have: the last map of its three smallest grids, and what goes into its last layer."""
    grids: dict[tuple[int, ...], str] = {}
    for path, (_, output, _) in passed.items():
        if path and isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            grids[tuple(output.shape[2:])] = path
    stages = [grids[size] for size in sorted(grids, key=math.prod, reverse=True)][-3:]
    parts = [f"f{number}={path}" for number, path in enumerate(stages, 4 - len(stages))]
    heads = [
        path for path, (inputs, _, _) in passed.items() if isinstance(modules[path], nn.Linear) and inputs[0].ndim == 2
    ]
    return ",".join(parts + [f"emb={path}:in" for path in heads[-1:]])


def submodule(network: Network, path: str) -> nn.Module:
    modules = dict(network.body.named_modules(remove_duplicate=False))
    if path not in modules:
        close = difflib.get_close_matches(path, modules, 1)
        advice = f"did you mean {close[0]}?" if close else ""
        remedy = f"{advice} `kdcache check-model {network.arch['model']}` lists its modules".strip()
        raise UsageError(f"taps of {network.arch['model']}", "the path of a module", repr(path), remedy)
    return modules[path]
