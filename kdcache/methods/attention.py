"""Where a network looks: one normalised map per stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.methods.base import Method, upcast
from kdcache.methods.bridges import average, known_shape, refuse, stored, times, unit

PLACE = "method at"


class Attention(Method):
    """A = unit(mean over channels of f²); the mean squared difference of the maps, summed over three stages.

    On a larger student its features are pooled to the teacher's grid before squaring. For a smaller student state
    the `grid` when dumping, (h, w) for all stages or one pair for each: the map of pooled features is not the
    pooled map, so it cannot be had from a cache of another size.
    """

    paper = "AT, Zagoruyko & Komodakis 2017"
    term = "at"
    variants: ClassVar = {
        "zoo": {"mean": True},  # Zoo adds 1e-6 to the norm: 1e-3 of it, if features are of scale 0.01
        "paper": {"squared": False},  # β/2 with β = 1000 / (B H W), and the distance itself
        "post": {"version": "post"},  # as the author's on ImageNet, of three stages
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1000.0,
        version: str = "raw",
        grid: Sequence | None = None,
        mean: bool = False,
        squared: bool = True,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        self.taps = tuple(f"f{stage}.{version}" for stage in (1, 2, 3))
        self.weight, self.mean, self.squared = weight, mean, squared
        self.grids = dict(zip(self.taps, grid_per_tap(grid), strict=True))
        mine = {tap: known_shape(student, tap) for tap in self.taps}
        theirs = {tap: known_shape(teacher, *self.names(tap), tap) for tap in self.taps}
        if all(mine.values()) and all(theirs.values()):
            self.check(mine, {tap: self.grids[tap] or shape for tap, shape in theirs.items()})

    def names(self, tap: str) -> list[str]:
        """What the map of a tap may be called; the grid is part of it unless it is the teacher's own."""
        plain, grid = "at." + tap.removesuffix(".raw"), self.grids[tap]
        return [f"{plain}@{times(grid)}", plain] if grid else [plain]

    def check(self, mine, theirs):
        """Of the shapes by tap: no map of the student's may be smaller than the grid that it is compared on."""
        mine, theirs = ({tap: tuple(shape[-2:]) for tap, shape in shapes.items()} for shapes in (mine, theirs))
        smaller = {tap: tuple(map(min, mine[tap], theirs[tap])) for tap in self.taps}
        for tap in self.taps:
            if smaller[tap] != theirs[tap]:
                remedy = f"dump again, and train, with the option grid={','.join(times(smaller[t]) for t in self.taps)}"
                refuse(
                    f"{PLACE} at {tap}", "a map that is no smaller than the teacher's", mine[tap], theirs[tap], remedy
                )

    def project(self, look):
        maps = {}
        for tap in self.taps:
            features = upcast({tap: look[tap]})[tap]
            name, grid = self.kept(tap, features.shape)
            maps[name] = attention(average(features, grid))
        return maps

    def projected(self, shapes):
        return dict(self.kept(tap, shapes[tap]) for tap in self.taps)

    def kept(self, tap: str, shape: Sequence[int]) -> tuple[str, tuple[int, int]]:
        """What the map of a tap of this shape is called, and its grid."""
        own, grid = (shape[-2], shape[-1]), self.grids[tap]
        if grid and any(a > b for a, b in zip(grid, own, strict=True)):
            raise UsageError(f"{PLACE} at {tap}", f"a grid within {times(own)}", times(grid), "state a smaller one")
        return self.names(tap)[-1 if grid == own else 0], grid or own

    def terms(self, look, knowledge, batch):
        targets = {tap: self.target(knowledge, tap).to(look[tap]) for tap in self.taps}
        self.check(*({tap: x[tap].shape for tap in self.taps} for x in (look, targets)))
        total = sum(self.distance(look[tap], targets[tap]) for tap in self.taps)
        return {"at": self.weight * (total / len(self.taps) if self.mean else total)}

    def target(self, knowledge, tap: str) -> Tensor:
        map_ = stored(PLACE, knowledge, *self.names(tap))
        found = tuple(map_.shape[-2:])
        if self.grids[tap] not in (None, found):
            remedy = "dump again with the same options"
            raise UsageError(PLACE, self.names(tap)[0], f"{times(found)} under this name", remedy)
        return map_

    def distance(self, features: Tensor, target: Tensor) -> Tensor:
        apart = attention(average(features, target.shape[-2:])) - target
        if self.squared:
            return apart.square().mean()
        return torch.linalg.vector_norm(apart.flatten(1), dim=1).mean() / (2 * apart[0].numel())


def attention(features: Tensor) -> Tensor:
    """[B, C, h, w] to maps [B, h, w] of length 1. The mean over pixels later on weighs f1 least: so does the author."""
    last = features.permute(0, 2, 3, 1)  # the gradient of a sum over what lies inside is found in a third of the time
    with torch.autocast(features.device.type, enabled=False):  # which would take it in half precision
        energy = torch.linalg.vecdot(last, last) / features.shape[1]
        return unit(energy.flatten(1)).view_as(energy)


def grid_per_tap(grid) -> Sequence[tuple[int, int] | None]:
    """One (h, w), or none, for each of the three stages."""
    if grid is None:
        return [None] * 3
    try:
        pairs = [(int(h), int(w)) for h, w in (grid if len(grid) == 3 else [grid] * 3)]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or min(map(min, pairs)) < 1:
        raise UsageError(PLACE, "a grid (h, w), or one for each of three stages", repr(grid), "state it like grid=8x8")
    return pairs
