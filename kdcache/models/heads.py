"""Which layers of a network are its head, and a second one beside it, which learns from the teacher alone."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable

import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models.network import Network

TAP = "logits.dist"
"""Where the second head's logits are seen."""


class TwoHeads(nn.Module):
    """A head that learns from labels beside one that learns from a teacher."""

    def __init__(self, own: nn.Linear, taught: nn.Linear):
        super().__init__()
        self.own, self.taught = own, taught

    def forward(self, x: Tensor) -> Tensor:
        """The first one's logits; in evaluation mode, the mean of both."""
        own, taught = self.own(x), self.taught(x)
        return own if self.training else (own + taught) / 2

    @property
    def weight(self) -> Tensor:
        """Of one linear layer that would do the same."""
        return self.own.weight if self.training else (self.own.weight + self.taught.weight) / 2


def with_second_head(network: Network, seed: int = 0) -> Network:
    """The same network with a second head, made anew from the seed, and the tap `logits.dist`. It is saved with it.

    >>> with_second_head(network).arch["heads"]
    2
    """
    paths = head_of(network)
    head = network.body.get_submodule(paths[0]) if len(paths) == 1 and paths[0] else None
    if not isinstance(head, nn.Linear | TwoHeads):
        remedy = "take hard/one, or name what goes into its last layer among the taps, as emb=fc:in"
        raise UsageError(network.arch["model"], "a network that ends in one linear layer", "another", remedy)
    if isinstance(head, nn.Linear):
        second = copy.deepcopy(head).cpu()  # drawn there, whatever the device
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            second.reset_parameters()
        put(network.body, paths[0], TwoHeads(head, second.to(head.weight.device)))
    network.places = network.places | {TAP: (f"{paths[0]}.taught", "out")}
    network.arch = network.arch | {"heads": 2}
    return network


def without_second_head(body: nn.Module, first: Container[str]) -> None:
    """Takes away a second head that was not there when the network had these tensors."""
    for path, module in list(body.named_modules()):
        if isinstance(module, TwoHeads) and f"{path}.own.weight" not in first:
            put(body, path, module.own)


def put(body: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(body.get_submodule(parent), name, module)


def head_of(network: Network) -> list[str]:
    """The paths of the layers that make the logits; none where that cannot be told."""
    body = network.body
    if doubled := [path for path, module in body.named_modules() if isinstance(module, TwoHeads)]:
        return doubled
    if callable(ask := getattr(body, "get_classifier", None)):
        found = ask()
        return paths_of(body, found if isinstance(found, tuple | list) else [found])
    path, side = network.places.get("emb", ("", "out"))
    named = dict(body.named_modules(remove_duplicate=False)).get(path)
    if side == "in" and named and any(network.arch["classes"] in one.shape for one in named.parameters()):
        return [path]  # not what lies before a hidden layer
    layers = [(path, module) for path, module in body.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return [path for path, module in layers[-1:] if len(module.weight) == network.arch["classes"]]


def paths_of(body: nn.Module, modules: Iterable[nn.Module]) -> list[str]:
    wanted = [id(module) for module in modules]
    return [path for path, module in body.named_modules() if id(module) in wanted]
