"""BatchNorm over the images of all processes: the mean and the variance are those of the whole batch.

torch's own does so on CUDA alone. This one works wherever the processes can add up numbers, and with parts of any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdcache.train.team import Team


@contextmanager
def synchronised(modules: Iterable[nn.Module], team: Team) -> Iterator[None]:
    """The norms of some networks see what all processes see, as long as they are trained."""
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats] if team.size > 1 else []
    for norm in norms:
        norm.forward = partial(over_all, norm, norm.forward, team)  # type: ignore[method-assign]  # taken back below
    try:
        yield
    finally:
        for norm in norms:
            vars(norm).pop("forward", None)


def over_all(norm: _BatchNorm, forward, team: Team, x: Tensor) -> Tensor:
    if not norm.training:
        return forward(x)
    values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    others = [0, *range(2, x.ndim)]
    own = torch.cat(
        [values.new_full((1,), x.numel() / x.shape[1]), values.mean(others), values.var(others, correction=0)]
    )
    every = Stacked.apply(own, team)
    count, (means, variances) = every[:, :1], every[:, 1:].chunk(2, 1)
    mean = (count * means).sum(0) / count.sum()
    variance = (count * (variances + (means - mean).square())).sum(0) / count.sum()
    follow(norm, mean.detach(), variance.detach(), count.sum().detach())
    shape = (1, -1, *(1 for _ in others[1:]))
    scale = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    shift = (0 if norm.bias is None else norm.bias) - mean * scale
    out = (values * scale.view(shape) + shift.view(shape)).to(x.dtype)
    for behind in (getattr(norm, "drop", None), getattr(norm, "act", None)):  # timm's norms go on with an activation
        out = out if behind is None else behind(out)
    return out


@torch.no_grad()
def follow(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """The running statistics, as torch keeps them."""
    seen, running_mean, running_var = norm.num_batches_tracked, norm.running_mean, norm.running_var
    assert seen is not None
    assert running_mean is not None
    assert running_var is not None
    seen.add_(1)
    new = 1 / float(seen) if norm.momentum is None else norm.momentum
    running_mean.lerp_(mean.to(running_mean.dtype), new)
    running_var.lerp_((variance * (count / (count - 1).clamp(min=1))).to(running_var.dtype), new)


class Stacked(torch.autograd.Function):
    """One row of each process. What any of them makes of a row counts in its gradient."""

    @staticmethod
    def forward(ctx, own: Tensor, team) -> Tensor:
        ctx.team = team
        return team.joined(own.detach()[None], [1] * team.size)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return ctx.team.total(gradient.contiguous())[ctx.team.rank], None
