"""A second head beside a network's own, which learns from the teacher alone; tests see the mean of both."""

from __future__ import annotations

import copy

import torch
from torch import nn

from kdcache.errors import UsageError
from kdcache.models.network import Network
from kdcache.models.stages import TwoHeads, head_of

TAP = "logits.dist"
"""Where the second head's logits are seen."""


def with_second_head(network: Network, seed: int = 0) -> Network:
    """The same network with a second head, made anew from the seed, and the tap `logits.dist`. It is saved with it.

    >>> with_second_head(network).arch["heads"]
    2
    """
    if network.arch.get("heads") == 2:
        return network
    paths = head_of(network)
    head = network.body.get_submodule(paths[0]) if len(paths) == 1 and paths[0] else None
    if not isinstance(head, nn.Linear):
        remedy = "take hard/one, or name what goes into its last layer among the taps, as emb=fc:in"
        raise UsageError(network.arch["model"], "a network that ends in one linear layer", "another", remedy)
    second = copy.deepcopy(head)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        second.reset_parameters()
    parent, _, name = paths[0].rpartition(".")
    setattr(network.body.get_submodule(parent), name, TwoHeads(head, second))
    network.places = network.places | {TAP: (f"{paths[0]}.taught", "out")}
    network.arch = network.arch | {"heads": 2}
    return network
