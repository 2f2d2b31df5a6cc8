"""The processes that train together: each sees a part of every batch, and all of them take the same step.

    batch --share--> own rows --forward--> looks --(together)--> loss --backward--> gradients --add_up--> step

Gradients are summed, and each process weighs its loss by its rows, so that a step is that of the whole batch. Where a
loss compares the rows of a batch, all of them are brought together first. A process alone is `ONE_PROCESS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdcache.types import Batch, Knowledge, Look


def places(n: int, views: int, count: int, number: int) -> np.ndarray:
    """Where the rows of one of so many parts stand in a batch of n, which shows one view of its rows after the other.

    >>> places(10, 2, 3, 1)
    array([1, 2, 6, 7])
    """
    rows = n // views
    some = np.arange(rows * number // count, rows * (number + 1) // count)
    return (np.arange(views)[:, None] * rows + some).ravel()


class Team:
    """One process, for which everything is as it is. `Several` are more."""

    size, rank = 1, 0

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    def spread(self, n: int, views: int = 1) -> int:
        """Among how many a batch of n is divided: among all, or every process sees all of it, where it is small."""
        return self.size if n // views >= 2 * self.size else 1

    def share(self, items: np.ndarray, views: int = 1) -> np.ndarray:
        """The part of a batch that this process sees."""
        spread = self.spread(len(items), views)
        return items if spread == 1 else items[places(len(items), views, spread, self.rank)]

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value over all processes."""
        return value

    def add_up(self, tensors: Iterable[Tensor | None]) -> None:
        """Sums tensors over all processes, in place."""

    def whole(self, own: Tensor, n: int) -> Tensor:
        """The rows of all processes, of n that were shared."""
        return own

    def joined(self, own: Tensor, sizes: Sequence[int]) -> Tensor:
        """The rows of all processes, one after the other."""
        return own

    def told(self, facts=None):
        """What the first process says."""
        return facts

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Gives every process the tensors of the first."""

    def level(self, modules: Iterable[nn.Module]) -> None:
        """Gives every process the same buffers: means of BatchNorm's statistics, of all others those of the first."""


ONE_PROCESS = Team()


class Several(Team):
    """Processes of one group of torch.distributed; `call` makes an error of ours of what goes wrong in it."""

    def __init__(self, rank: int, size: int, device: torch.device, call):
        self.rank, self.size, self.device, self.call = rank, size, device, call

    def total(self, value):
        value = value.clone()
        self.call("all_reduce", value)
        return value

    def add_up(self, tensors):
        for bucket in buckets([tensor for tensor in tensors if tensor is not None]):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self.call("all_reduce", flat)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def whole(self, own, n):
        spread = self.spread(n)
        return own if spread == 1 else self.joined(own, [len(places(n, 1, spread, rank)) for rank in range(spread)])

    def joined(self, own, sizes):
        most = max(sizes)
        padded = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])]).contiguous()
        found = [torch.empty_like(padded) for _ in sizes]
        self.call("all_gather", found, padded)
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])

    def told(self, facts=None):
        held = [facts]
        self.call("broadcast_object_list", held, 0)
        return held[0]

    def same(self, tensors):
        for tensor in tensors:
            sent = tensor.detach().to(self.device).contiguous()
            self.call("broadcast", sent, 0)
            with torch.no_grad():
                tensor.copy_(sent)

    def level(self, modules):
        parts = [part for module in modules for part in module.modules()]
        means, rest = [], []
        for part in parts:
            buffers = list(part.buffers(recurse=False))
            (means if isinstance(part, _BatchNorm) else rest).extend(buffers)
        rest += [buffer for buffer in means if not buffer.is_floating_point()]
        means = [buffer for buffer in means if buffer.is_floating_point()]
        self.add_up(means)
        for buffer in means:
            buffer.div_(self.size)
        self.same(rest)


BUCKET = 1 << 23  # numbers that are sent together


def buckets(tensors: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """Tensors of one type and device that are sent together, in order."""
    found: list[Tensor] = []
    for tensor in tensors:
        if found and (tensor.dtype != found[0].dtype or sum(map(torch.numel, found)) + tensor.numel() > BUCKET):
            yield found
            found = []
        found.append(tensor)
    if found:
        yield found


class Rows(torch.autograd.Function):
    """The rows of all processes. All of them go on with the same loss, of which each counts a share of 1/size."""

    @staticmethod
    def forward(ctx, own: Tensor, team: Team, sizes: list[int]) -> Tensor:
        ctx.scale, ctx.start, ctx.end = team.size, sum(sizes[: team.rank]), sum(sizes[: team.rank + 1])
        return team.joined(own.detach(), sizes)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return ctx.scale * gradient[ctx.start : ctx.end], None, None


def together(
    team: Team, looks: Sequence[Look], knowledge: Knowledge, batch: Batch, items: np.ndarray, each: Sequence[np.ndarray]
) -> tuple[list[Look], Knowledge, Batch]:
    """A part of a batch with the rows of all processes; `each` says where those of each stand among the items."""
    sizes, stand = [len(some) for some in each], np.concatenate(each)
    order = np.argsort(stand, kind="stable")
    moved = None if (order == np.arange(len(order))).all() else torch.from_numpy(order)

    def sorted_rows(rows: Tensor) -> Tensor:
        return rows if moved is None else rows[moved.to(rows.device)]

    def gathered(value: Tensor) -> Tensor:
        return sorted_rows(team.joined(value.contiguous(), sizes))

    def seen(look: Mapping[str, Tensor]) -> Look:
        wide = {name: value.float() if value.dtype in HALVES else value for name, value in look.items()}
        return {name: sorted_rows(Rows.apply(value, team, sizes)) for name, value in wide.items()}

    batch = replace(batch, items=items[stand[order]], targets=gathered(batch.targets))
    if batch.others is not None and batch.shares is not None:
        batch = replace(batch, others=gathered(batch.others), shares=gathered(batch.shares))
    known = {name: gathered(value.float() if value.dtype in HALVES else value) for name, value in knowledge.items()}
    return [seen(look) for look in looks], known, batch


HALVES = (torch.float16, torch.bfloat16)
