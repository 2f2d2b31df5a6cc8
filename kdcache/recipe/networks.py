"""What the networks of a recipe show, how large they are and what methods read of them, before any is made."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from kdcache import jobs
from kdcache.errors import UsageError
from kdcache.methods import build as build_method
from kdcache.methods import parse
from kdcache.models.network import Network, check_output, shapes
from kdcache.models.outline import runnable
from kdcache.types import Shapes
from kdcache.wording import readable

BYTES = 16  # of one weight in a training: itself, its gradient, its momentum, and a copy on the way to a file


class Named(Protocol):
    """A stage with a network."""

    @property
    def model(self) -> str: ...

    @property
    def taps(self) -> str | None: ...


@dataclass
class Networks:
    """Shapes and weights of networks for images like these; each is built once."""

    data: jobs.Data
    shown: dict[tuple, Shapes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    read: dict[tuple, frozenset[str]] = field(default_factory=dict)

    def of(self, stage: Named) -> Shapes:
        key = stage.model, stage.taps
        if key not in self.shown:
            network = self.built(stage.model)
            self.sizes[stage.model] = sum(parameter.numel() for parameter in network.parameters())
            require_memory(stage.model, self.sizes[stage.model])
            network = self.data.tapped(network, stage.taps)
            check_output(network, self.data.image)
            self.shown[key] = shapes(network, network.taps, self.data.image)
        return self.shown[key]

    def built(self, model: str) -> Network:
        """A large one of ours has no values, so that one of any size costs neither memory nor arithmetic."""
        if ":" in model:
            return self.data.network(model, 0)
        return runnable(model, len(self.data.train.classes), self.data.image)

    def knowledge(self, part: str, teacher: Named) -> frozenset[str]:
        """What a part of a method reads of a teacher, and of what was made before; nothing where the two do not fit."""
        key = part, teacher.model, teacher.taps
        if key not in self.read:
            shown = self.of(teacher)
            method = build_method(part, shown, shown)
            fits = all(tap in shown for tap in method.taps)
            self.read[key] = frozenset([*method.stores(shown), *method.made_before()] if fits else ())
        return self.read[key]

    def needs(self, method: str, teacher: Named) -> frozenset[str]:
        return frozenset(name for part in jobs.asking(method) for name in self.knowledge(part, teacher))

    def together(self, methods: Iterable[str], teacher: Named) -> str:
        """One composition that stores what these methods need; logits always, for agreement."""
        found: dict[tuple, str] = {}
        for part in ["st", *(part for method in methods for part in jobs.asking(method))]:
            found.setdefault((parse(part)[0].name, self.knowledge(part, teacher)), part)
        return "+".join(found.values())


def require_memory(model: str, weights: int) -> None:
    """Refuses a network whose weights alone are more than this machine holds."""
    needed, there = weights * BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        expected = f"a network that can be trained in the {readable(there)} of memory here"
        found = f"{model} of {weights:,} weights, which takes {readable(needed)}"
        raise UsageError("model", expected, found, "take a smaller one")
