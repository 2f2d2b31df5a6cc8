"""Random erasing in integer arithmetic: a grey box in some of the images, the same on every machine and device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from kdcache.seeds import POLICY, below, draw
from kdcache.views.crop import erase
from kdcache.views.native import GREY

if TYPE_CHECKING:
    from torch import Tensor

ONE, TRIES = 1 << 16, 10
LOW, HIGH = math.log(0.3), math.log(3.3)
# ratios from 0.3 to 3.3, even in their logarithm, as fixed-point numbers: a table, since exp() differs between machines
RATIOS = np.array([round(ONE * math.exp(LOW + (HIGH - LOW) * i / 1024)) for i in range(1025)]) / ONE

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Top, left, height, width."""


def erased(images: Tensor, seeds: np.ndarray, n: int, *, p: float, least: float, most: float) -> Tensor:
    """The images, a share `p` of them with a grey box over `least` to `most` of the area; draws begin at number `n`."""
    top, left, height, width = boxes(seeds, n, (images.shape[2], images.shape[3]), p, least, most)
    return erase(images.clone(), top, left, (height, width), GREY)


def boxes(seeds: np.ndarray, n: int, size: tuple[int, int], p: float, least: float, most: float) -> Boxes:
    """The first of ten draws that fits; of no height where none does, or where nothing is to be erased."""
    words = np.stack(draw(seeds[:, None], n + np.arange(4), POLICY), 2)
    wanted, top, left, _ = words[:, 0].T
    tries = words[:, 1:].reshape(len(seeds), -1)[:, :TRIES]
    # IEEE demands exact rounding of +, *, / and sqrt in f64, so these are the same everywhere
    area = size[0] * size[1] * (least + (most - least) * (tries >> 16) / ONE)
    ratio = RATIOS[(tries & 0xFFFF) * len(RATIOS) >> 16]
    height, width = (np.floor(np.sqrt(side) + 0.5).astype(np.int64) for side in (area * ratio, area / ratio))
    fits = (height > 0) & (height < size[0]) & (width > 0) & (width < size[1])
    first, some = (np.arange(len(seeds)), fits.argmax(1)), fits.any(1) & (wanted < p * 2**32)
    height, width = np.where(some, height[first], 0), np.where(some, width[first], 0)
    return below(top, size[0] - height + 1), below(left, size[1] - width + 1), height, width
