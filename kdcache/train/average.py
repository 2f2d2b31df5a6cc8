"""A running mean of a network's weights, which is often a better network than the last of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from kdcache.models.network import Network


class Average:
    """A network that follows another: after each step it keeps `decay` of itself; early on less, or it would stay new.

    After n steps that is at most (1+n)/(10+n). BatchNorm's statistics are averaged as weights are.
    """

    def __init__(self, network: Network, decay: float):
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.steps = torch.zeros((), dtype=torch.int64)
        both = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        pairs = list({mine.data_ptr(): (mine, theirs) for mine, theirs in both}.values())  # shared weights once
        self.means = [pair for pair in pairs if pair[0].is_floating_point()]
        self.counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def follow(self) -> None:
        """After a step."""
        self.steps += 1
        done = int(self.steps)
        new = 1 - min(self.decay, (1 + done) / (10 + done))
        mine, theirs = (list(side) for side in zip(*self.means, strict=True))
        torch._foreach_lerp_(mine, theirs, new)
        for own, other in self.counts:
            own.copy_(other)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All that it holds, by name."""
        yield from ((f"ema/{name}", value) for name, value in self.network.state_dict().items())
        yield "ema.steps", self.steps
