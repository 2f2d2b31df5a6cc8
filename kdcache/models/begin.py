"""Networks that begin with the weights of another training; a head for other classes is made anew, and that is said."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from kdcache.errors import TeacherError, UsageError
from kdcache.models import checkpoints, foreign
from kdcache.models.network import Network
from kdcache.models.stages import head_of
from kdcache.models.weights import COUNTER, read
from kdcache.wording import count

PRETRAINED = "pretrained"  # in place of a file of weights: those of its library


def begin(network: Network, origin: str | os.PathLike, own_normalisation: bool = False) -> str:
    """Puts weights into a fresh network, from a file or of its library; a line on what was taken.

    Mean and std come with the weights, unless the network is to keep its own.
    """
    state = checkpoints.renamed(weights_of(network, origin), network)
    if own_normalisation:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("normalize.")}
    wanted, replaced = network.state_dict(), []
    heads = tuple(f"body.{path}." for path in head_of(network))
    for name in [name for name in state if name.startswith(heads)] if heads else ():
        if name not in wanted or state[name].shape != wanted[name].shape:
            replaced.append(f"{name.removeprefix('body.')} {list(state.pop(name).shape)}")
    optional = (*heads, "normalize.")
    missing = [name for name in wanted if name not in state and not name.startswith(optional) and COUNTER not in name]
    require_fit(network, origin, state, wanted, missing)
    network.load_state_dict(state, strict=False)
    taken = f"{network.arch['model']}: begins with {count(len(state), 'tensor')} of {origin}"
    if all(name in state for name in wanted if name.startswith(heads)) or not heads:
        return f"{taken}, its head too"
    found = f", in place of {', '.join(replaced)}" if replaced else ""
    return f"{taken}; a new head of {network.arch['classes']} classes{found}"


def weights_of(network: Network, origin: str | os.PathLike) -> dict[str, Tensor]:
    if origin != PRETRAINED:
        return dict(read(Path(origin))[0])
    if (other := foreign(network.arch["model"])) is None:
        expected = "a network of torchvision, timm or the Hugging Face hub"
        raise UsageError(f"`init_from` {PRETRAINED}", expected, network.arch["model"], "name a file of weights")
    return dict(other.weights())


def require_fit(network: Network, origin, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], missing) -> None:
    """Refuses weights of another network."""
    surplus = [name for name in state if name not in wanted]
    reshaped = [name for name in state if name in wanted and state[name].shape != wanted[name].shape]
    shapes = [f"{name} {list(state[name].shape)} instead of {list(wanted[name].shape)}" for name in reshaped]
    lists = {"missing": missing, "unexpected": surplus, "of another shape": shapes}
    if any(lists.values()):
        found = ", ".join(f"{len(names)} {what} (first: {names[0]})" for what, names in lists.items() if names)
        expected = f"weights of {network.arch['model']}, but for its head"
        raise TeacherError(origin, expected, found.replace("body.", ""), "name the model that these weights belong to")
