"""The gradients of a step, which may come in parts: those of clipped terms wait until all of the others are there."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods import clipped_gradients
from kdcache.train.team import ONE_PROCESS, Team

Several = list[Tensor | None]
"""One for each parameter; None: the loss does not depend on it."""


class Gradients:
    """Of the parameters that are trained, of the sum of the terms of a loss.

    With `two`, those of cross-entropy are left with the parameters, and those of all other terms in `taught`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], two: bool = False):
        self.parameters, self.two = parameters, two
        self.apart: dict[str, Several] = {}  # of the terms of each kind
        self.taught: dict[nn.Parameter, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor], clipped: Container[str], weight: float, stage: str) -> None:
        """Adds those of a part of a batch, with its weight."""
        held = [value for name, value in terms.items() if name in clipped]
        rest = {name: value for name, value in terms.items() if name not in clipped}
        require_loss(list(rest.values()), list(terms) if held else [], stage)
        if not held and not self.two:
            weighed(rest.values(), weight).backward()
            return
        task = [value for name, value in rest.items() if self.two and name.partition(".")[0] == "ce"]
        others = [value for name, value in rest.items() if not self.two or name.partition(".")[0] != "ce"]
        kinds = {"task": task, "others": others, "clipped": held}
        asked = {kind: weighed(several, weight) for kind, several in kinds.items() if several}
        for number, (kind, value) in enumerate(asked.items(), 1):
            self.apart[kind] = added(self.of(value, again=number < len(asked)), self.apart.get(kind))

    def of(self, value: Tensor, again: bool) -> Several:
        """Of one number, which may have no gradient at all."""
        if not value.requires_grad:
            return [None] * len(self.parameters)
        return list(torch.autograd.grad(value, self.parameters, retain_graph=again, allow_unused=True))

    def finish(self, epoch: int | None, team: Team = ONE_PROCESS) -> None:
        """Leaves the whole gradient of each parameter with it; the clipped one is held to the size of the other."""
        if not self.apart:
            team.add_up(parameter.grad for parameter in self.parameters)
            return
        if "clipped" in self.apart:  # what parts without a clipped term have left
            left = [parameter.grad for parameter in self.parameters]
            self.apart["others"] = added(left, self.apart.get("others"))
        for several in self.apart.values():
            team.add_up(several)
        nothing: Several = [None] * len(self.parameters)
        task, others, held = (self.apart.get(kind, nothing) for kind in ("task", "others", "clipped"))
        whole = clipped_gradients(added(task, others), held, epoch) if "clipped" in self.apart else others
        if self.two:
            if "clipped" in self.apart:
                said = zip(whole, task, others, held, strict=True)
                whole = [None if b is c is None else w if a is None else w - a for w, a, b, c in said]
            self.taught = {p: value for p, value in zip(self.parameters, whole, strict=True) if value is not None}
            whole = task
        for parameter, gradient in zip(self.parameters, whole, strict=True):
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)  # fused optimisers do not look at strides
            parameter.grad = gradient
        self.apart = {}

    def clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def weighed(several, weight: float) -> Tensor:
    return sum(several) if weight == 1 else weight * sum(several)


def added(one: Several, other: Several | None) -> Several:
    if other is None:
        return one
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
