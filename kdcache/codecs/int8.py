"""Eight bits a value on a grid of its row's own: value = unit * (offset + scale * code).

Offset and scale are f16 and the row's own; the unit is a power of two and the file's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.codecs.base import Codec, field, float_error, half, half_below, numbers, power_of_two, sample

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Int8(Codec):
    """256 evenly spaced levels between the least and the greatest value of each row."""

    unit: float = 1.0
    name: ClassVar[str] = "int8"

    def __post_init__(self):
        super().__post_init__()
        power_of_two(self, self.unit)

    @classmethod
    def fit(cls, values):
        values = sample(cls.name, values)
        peak = float(values.abs().max())
        # ordinary values need no unit; others are brought to 4..8, where f16 has full precision and much room above
        exponent = 0 if 2**-4 <= peak < 2**10 or not peak else max(math.frexp(peak)[1] - 3, -126)
        return cls(tuple(values.shape[1:]), 2.0**exponent)

    @property
    def dtype(self):
        return np.dtype([("scale", "<f2"), ("offset", "<f2"), ("codes", "u1", self.shape)])

    def grid(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows in units, and the f16 scale and offset whose 256 levels come within half a step of every value."""
        rows = values.reshape(len(values), self.count) * (1 / self.unit)
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        # the greatest value carries the softmax, so the last level is put as close to it as f16 allows
        scale = half((high - low) / 255, self.name)
        offset = half(high - 255 * scale.float(), self.name)
        fits = (offset.float() - low <= scale.float() / 2) & (high - offset.float() <= 255.5 * scale.float())
        # where the offset's own rounding is coarser than that, levels from below the least value to the greatest
        below = half_below(low, self.name)
        covering = -half_below((below.float() - high) / 255, self.name)
        return rows, torch.where(fits, scale, covering), torch.where(fits, offset, below)

    def pack(self, values):
        rows, scale, offset = self.grid(values)
        # a row that is constant and exact in f16 has scale 0 and takes code 0
        codes = (rows - offset.float()) / scale.float().masked_fill(scale == 0, 1)
        codes = codes.round().clamp(0, 255).to(torch.uint8)
        return torch.cat([torch.cat([scale, offset], 1).view(torch.uint8), codes], 1)

    def decode(self, records):
        grid = field(records, 0, 4, torch.float16).float()
        # scale times code has 19 bits: exact, so this rounds once, fused or not
        values = torch.addcmul(grid[:, 1:], records[:, 4:].float(), grid[:, :1])
        if self.unit != 1:
            values *= self.unit
        return values.view(len(records), *self.shape)

    def decode_numpy(self, records):
        grid = numbers(records[:, :4], "<f2").astype(np.float32)
        with np.errstate(invalid="ignore"):  # a stranger's records may hold infinities
            values = grid[:, 1:] + grid[:, :1] * records[:, 4:]
            return (values * np.float32(self.unit)).reshape(len(records), *self.shape)

    def top1(self, records):
        return records[:, 4:].argmax(1)

    def bound(self, values):
        rows, scale, offset = self.grid(values.float())
        # half a step, what f32 adds when the code is chosen, the last rounding, and what is too small for f32 in units
        bound = scale.double() * (0.5 + 1e-4) + 2 * float_error(rows) + float_error(offset) + 2**-140
        return (bound * self.unit + 2**-149).reshape(values.shape)
