"""Fine-tuning: what lies before a network's head stays as it is, or learns at a rate of its own."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from kdcache.errors import UsageError
from kdcache.models.network import Network
from kdcache.models.stages import head_of
from kdcache.train.optim import Settings


class Backbone:
    """All of some networks but their heads."""

    def __init__(self, networks: Iterable[Network], settings: Settings):
        self.frozen = settings.freeze == "backbone"
        networks = networks if self.frozen or settings.backbone_lr != 1 else ()
        self.modules = [module for network in networks for module in before_head(network)]
        self.parameters = {p for module in self.modules for p in module.parameters(recurse=False)}
        self.wanted = {p: p.requires_grad for p in self.parameters}

    def holds(self, parameter: nn.Parameter) -> bool:
        """Whether it stays as it is."""
        return self.frozen and parameter in self.parameters

    def hold(self) -> None:
        """Takes the gradients from what is frozen."""
        if self.frozen:
            for parameter in self.parameters:
                parameter.requires_grad_(False)

    def release(self) -> None:
        """Leaves it as it was found."""
        for parameter, gradients in self.wanted.items():
            parameter.requires_grad_(gradients)

    def rest(self) -> None:
        """Evaluation mode for what is frozen: BatchNorm keeps its statistics, and nothing is dropped."""
        if self.frozen:
            for module in self.modules:
                module.training = False


def before_head(network: Network) -> list[nn.Module]:
    """Every module that is neither the head nor in it."""
    if not (paths := head_of(network)):
        remedy = "name what goes into it among its taps: emb=PATH:in"
        raise UsageError("`freeze` and `backbone_lr`", "a network whose head is known", network.arch["model"], remedy)
    head = {id(module) for path in paths for module in network.body.get_submodule(path).modules()}
    return [module for module in network.modules() if id(module) not in head]
