"""The gradients of a step, which may come in parts: those of clipped terms wait until all of the others are there."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods import clipped_gradients

Several = list[Tensor | None]
"""One for each parameter; None: the loss does not depend on it."""


class Gradients:
    """Of the parameters that are trained, of the sum of the terms of a loss."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = parameters
        self.apart: tuple[Several, Several] | None = None  # of all terms but the clipped ones, and of those

    def add(self, terms: Mapping[str, Tensor], clipped: Container[str], weight: float, stage: str) -> None:
        """Adds those of a part of a batch, with its weight."""
        held = [value for name, value in terms.items() if name in clipped]
        rest = [value for name, value in terms.items() if name not in clipped]
        require_loss(rest, list(terms) if held else [], stage)
        main, extra = (sum(several) if weight == 1 else weight * sum(several) for several in (rest, held))
        if not held:
            main.backward()
            return
        found = (
            list(torch.autograd.grad(main, self.parameters, retain_graph=True, allow_unused=True)),
            list(torch.autograd.grad(extra, self.parameters, allow_unused=True)),
        )
        self.apart = found if self.apart is None else tuple(map(added, self.apart, found))

    def finish(self, epoch: int | None) -> None:
        """Leaves the whole gradient of each parameter with it; the clipped one is held to the size of the other."""
        if self.apart is None:
            return
        for parameter, gradient in zip(self.parameters, clipped_gradients(*self.apart, epoch), strict=True):
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)  # fused optimisers do not look at strides
            parameter.grad = gradient
        self.apart = None

    def clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def added(one: Several, other: Several) -> Several:
    return [b if a is None else a if b is None else a + b for a, b in zip(one, other, strict=True)]


def require_loss(rest: Sequence[Tensor], clipped: Sequence[str], stage: str) -> None:
    """Refuses a loss that nothing can be learnt from."""
    if not rest:
        found = f"only {', '.join(clipped)}, clipped against it" if clipped else "nothing"
        remedy = "give cross-entropy a weight, as with ce=1"
        raise UsageError(f"stage {stage}", "a loss to minimise", found, remedy)
    if not any(value.requires_grad for value in rest):
        remedy = "train the whole network, or take a method whose loss reads the logits"
        raise UsageError(f"stage {stage}", "a loss that trained weights have a part in", "none", remedy)
