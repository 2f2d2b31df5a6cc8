"""WKD of features: the last map as a Gaussian for each channel and cell, and how far two of them are apart."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from kdcache.checks import one_of
from kdcache.errors import UsageError
from kdcache.methods.base import Method, upcast
from kdcache.methods.bridges import ConvNorm, map_shape, row_shape, stored
from kdcache.methods.transport import faded

PLACE = "method wkd/f"
EPS = 1e-5  # beside the variance, as the authors have it
NARROW = 256  # channels inside a bottleneck


class Gaussians(Method):
    """Squared Wasserstein distance of the means, `ratio` times, and of the deviations, in a grid of cells of the map.

    Cached are the teacher's means and deviations alone. The student's map goes through a projector that ends in a
    ReLU, which cannot reach negative means of a signed map, and keeps the size of the map, which the authors' changes
    where the teacher's is another. From the share `steady` of the epochs on, the weight
    falls to 0 along a cosine. Cells are adaptive windows, which overlap where the grid does not divide the map.
    """

    paper = "WKD-F, Lv et al. 2024, Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation"
    fades = True
    term = "wkdf"
    variants: ClassVar = {
        "wrn": {"weight": 0.3, "ratio": 3.0, "grid": 4, "tap": "f3.raw"},
        "imagenet": {"weight": 0.02, "ratio": 2.0, "grid": 4, "projector": "bottleneck", "steady": 0.0},
    }

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 0.08,
        ratio: float = 4.0,
        grid: int = 1,
        tap: str = "f3.post",
        projector: str = "conv1x1",
        steady: float = 0.625,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        one_of("method option projector", projector, ("conv1x1", "bottleneck"))
        if not grid:
            raise UsageError("method option grid", "one cell or more", "0", "try 1")
        self.weight, self.ratio, self.grid, self.taps, self.steady = weight, ratio, grid, (tap,), steady
        ending = f"@{tap}-{grid}"
        self.names = f"wkdf.mean{ending}", f"wkdf.std{ending}"
        mine = map_shape(PLACE, "student", student, tap)
        theirs = row_shape(PLACE, "teacher", teacher, self.names[0], tap)
        self.projector = projected_by(projector, mine[0], theirs[0])

    def project(self, look):
        return dict(zip(self.names, gaussians(upcast(look)[self.taps[0]], self.grid), strict=True))

    def projected(self, shapes):
        return dict.fromkeys(self.names, (shapes[self.taps[0]][0], self.grid, self.grid))

    def terms(self, look, knowledge, batch):
        mine = gaussians(self.projector(look[self.taps[0]]), self.grid)
        theirs = [stored(PLACE, knowledge, name).to(mine[0]) for name in self.names]
        means, deviations = ((a - b).square().sum() for a, b in zip(mine, theirs, strict=True))
        scale = self.weight * faded(batch, self.steady) / (len(mine[0]) * self.grid**2)
        return {"wkdf": scale * (self.ratio * means + deviations)}


def gaussians(maps: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation, of an unbiased variance, of each channel in each cell: [n, c, grid, grid] both.

    A single pixel deviates by nothing.
    """
    cells = [
        maps[:, :, rows, columns].flatten(2)
        for rows in windows(maps.shape[2], grid)
        for columns in windows(maps.shape[3], grid)
    ]
    means = torch.stack([cell.mean(2) for cell in cells], 2).unflatten(2, (grid, grid))
    variances = torch.stack([cell.var(2, correction=min(1, cell.shape[2] - 1)) for cell in cells], 2).unflatten(
        2, (grid, grid)
    )
    return means, (variances + EPS).sqrt()


def windows(side: int, grid: int) -> list[slice]:
    """Those of adaptive pooling: each begins at the pixel below its share, and ends at the one above."""
    return [slice(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)]


def projected_by(kind: str, mine: int, theirs: int) -> nn.Module:
    """From the student's channels to the teacher's, then BatchNorm and a ReLU; nothing stands inside a bottleneck.

    Its first bias alone has a part in the result, along the border; BatchNorm would take the others out again.
    """
    if kind == "conv1x1":
        return ConvNorm(nn.Conv2d(mine, theirs, 1), nn.ReLU())
    inside = nn.Conv2d(mine, NARROW, 1), nn.Conv2d(NARROW, NARROW, 3, padding=1, bias=False)
    return nn.Sequential(*inside, ConvNorm(nn.Conv2d(NARROW, theirs, 1, bias=False), nn.ReLU()))
