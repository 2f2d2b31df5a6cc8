"""Where networks of other libraries show their stages.

timm says it itself (`feature_info`). Elsewhere stages are looked for among the parts of the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdcache.models.heads import head_of
from kdcache.models.maps import as_map
from kdcache.models.network import Network, check_output, times_changed
from kdcache.models.taps import Passed, name_taps, passing, together

TRUNKS = ("features", "stages", "trunk_output", "encoder.layers", "blocks", "layers", "")
"""Whose parts follow each other: the first that a body has, else the parts of the body itself."""


def tapped(network: Network, taps: str | None, image: Sequence[int]) -> Network:
    """The network with taps by the paths of its modules: of the text, else as it was saved, else of its library."""
    text = network.arch.get("taps")
    if not (taps or text or network.layout):
        return network
    check_output(network, image)
    usual = (text or taps_of(network, image)) if network.layout else ""
    text = together(taps, usual) if taps else usual or text
    return name_taps(network, text, image) if text else network


def taps_of(network: Network, image: Sequence[int]) -> str:
    """The stages f0 to f3 as a text of taps: the last module on each of the smallest grids; else at even distances."""
    modules, heads = dict(network.body.named_modules()), head_of(network)
    asked = candidates(network.body)
    passed = passing(network, {path: modules[path] for path in [*asked, *heads[:1]] if path in modules}, image)
    grids = {path: grid for path in asked if path in passed and (grid := grid_of(network, passed[path], image))}
    last = {grid: path for path, grid in grids.items()}  # of each grid, the last
    paths = sorted(last.values(), key=list(grids).index)
    if len(paths) < 3 <= len(grids):
        every = list(grids)
        paths = every[:1] + [every[len(every) * third // 3 - 1] for third in (1, 2, 3)]
    paths = list(dict.fromkeys(paths))[-4:]
    parts = [f"f{number}={path}" for number, path in enumerate(paths, 4 - len(paths))]
    return ",".join(parts + [f"emb={path}:in" for path in heads[:1] if path in passed and is_vector(passed[path])])


def candidates(body: nn.Module) -> list[str]:
    """Paths of the modules that may end a stage, in the order in which they follow each other."""
    if info := getattr(body, "feature_info", None):
        return list(dict.fromkeys(str(stage["module"]) for stage in getattr(info, "info", info)))
    modules = dict(body.named_modules())
    trunk = next(path for path in TRUNKS if path in modules)
    return [f"{trunk}.{name}".lstrip(".") for name, _ in modules[trunk].named_children()]


def grid_of(network: Network, passed: Passed, image: Sequence[int]) -> tuple[int, ...] | None:
    """Rows and columns of what a module returned; None where that is no map, or is overwritten."""
    if not isinstance(passed.output, Tensor) or times_changed(passed.output) != passed.changed:
        return None
    found = as_map(network.layout, "", passed.output, image[1:])
    height, width = found.shape[2:] if found.ndim == 4 else (1, 1)
    alike = abs(height * image[2] - width * image[1]) < max(image[1:])  # as wide and high as the image, or it is no map
    return (height, width) if height * width > 1 and alike else None


def is_vector(passed: Passed) -> bool:
    given = passed.inputs[0] if passed.inputs else None
    return isinstance(given, Tensor) and given.flatten(1).shape[1] == given.shape[1]
