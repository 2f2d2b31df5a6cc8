"""Feature maps that are computed again in the backward pass instead of being kept: a block at a time.

A step takes about a third more time, and memory for the input of each block and the insides of one. Losses and
gradients stay what they are; hooks on modules inside a block see what they saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from kdcache.errors import UsageError
from kdcache.models.network import Network

SEQUENCES = (nn.Sequential, nn.ModuleList)


@contextmanager
def recomputed(network: Network) -> Iterator[None]:
    """Keeps only the inputs of the network's blocks, while it is trained."""
    found = list(dict.fromkeys(blocks(network.body)))  # some stand in two places
    if not found:
        remedy = "leave `grad_checkpoint` out: such a network is small"
        raise UsageError(network.arch["model"], "a network of blocks", "single layers", remedy)
    for block in found:
        block.forward = partial(again, block, block.forward)
    try:
        yield
    finally:
        for block in found:
            vars(block).pop("forward", None)  # of timm's norms, the one that sees all processes may have gone first


def again(block: nn.Module, forward: Callable, *args, **kwargs):
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    both = partial(contexts, block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=both, **kwargs)


def contexts(block: nn.Module):
    """Around the first computation, and around the second."""
    return nullcontext(), CountedOnce(block)


class CountedOnce:
    """BatchNorm's running statistics have seen the batch already: copies of them see it again, as often as is asked."""

    def __init__(self, block: nn.Module):
        self.norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    def __enter__(self) -> None:
        self.own = [(norm, name, value) for norm in self.norms for name, value in norm.named_buffers(recurse=False)]
        for norm, name, value in self.own:
            setattr(norm, name, value.clone())

    def __exit__(self, *_) -> None:
        for norm, name, value in self.own:
            setattr(norm, name, value)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """What follows each other in stages: the parts of its sequences that have parts themselves."""
    for part in module.children():
        sequence = isinstance(part, SEQUENCES) and any(map(composed, part))
        stage = any(isinstance(inner, SEQUENCES) and sum(map(composed, inner)) > 1 for inner in part.children())
        if sequence or stage:
            yield from blocks(part)
        elif composed(part):
            yield part


def composed(module: nn.Module) -> bool:
    return next(module.children(), None) is not None
