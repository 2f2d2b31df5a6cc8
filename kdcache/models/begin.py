"""Networks that begin with the weights of another training; a head for other classes is made anew, and that is said."""

from __future__ import annotations

import os
from pathlib import Path

from kdcache.models import checkpoints
from kdcache.models.elsewhere import PRETRAINED, weights_of
from kdcache.models.network import Network
from kdcache.models.stages import head_of
from kdcache.models.weights import filled, read
from kdcache.wording import by_colour


def begin(network: Network, origin: str | os.PathLike, own_normalisation: bool = False) -> str:
    """Puts weights into a fresh network, from a file or of its library; a line on what was taken.

    Mean and std come with the weights, unless the network is to keep its own.
    """
    state = weights_of(network.arch["model"]) if origin == PRETRAINED else read(Path(origin))[0]
    given, network.read_as = checkpoints.renamed(state, network)
    wanted, heads = network.state_dict(), tuple(f"body.{path}." for path in head_of(network))
    for head in heads:  # of a run with a second head, one that answers as both do
        for part in ("weight", "bias"):
            own, taught = f"{head}own.{part}", f"{head}taught.{part}"
            if own in given and taught in given and own not in wanted:
                given[head + part] = (given.pop(own) + given.pop(taught)) / 2
    if own_normalisation:
        given = {name: tensor for name, tensor in given.items() if not name.startswith("normalize.")}
    fits = {name for name in given if name in wanted and given[name].shape == wanted[name].shape}
    others = [name for name in sorted(given) if heads and name.startswith(heads) and name not in fits]
    replaced = [f"{name.removeprefix('body.')} {list(given.pop(name).shape)}" for name in others]
    fresh = [name for name in wanted if heads and name.startswith(heads) and name not in given]
    kept = {name: wanted[name] for name in wanted if name in fresh or name.startswith("normalize.")}
    filled(origin, network, kept | given).train()
    source = "that its library has for it" if origin == PRETRAINED else f"in {origin}"
    said = f"{network.arch['model']}: begins with the weights {source}"
    if network.read_as:
        said += f" ({network.read_as})"
    fed = ""
    if origin != PRETRAINED and not own_normalisation and "normalize.mean" not in given:
        mean, std = (by_colour(part) for part in (network.normalize.mean, network.normalize.std))
        fed = f"; there are no mean and std in it: it is fed with mean {mean}, std {std}"
    if not fresh:
        return f"{said}, its head too{fed}"
    found = f", in place of {', '.join(replaced)}" if replaced else ""
    return f"{said}; a new head of {network.arch['classes']} classes{found}{fed}"
