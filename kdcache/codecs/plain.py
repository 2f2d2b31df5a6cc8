"""Floats as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.codecs.base import Codec, as_bytes, float_error, from_bytes, half, half_error, numbers


@dataclass(frozen=True)
class F32(Codec):
    """The teacher's own numbers."""

    name: ClassVar[str] = "f32"

    @property
    def dtype(self):
        return np.dtype(("<f4", self.shape))

    def pack(self, values):
        return as_bytes(values)

    def decode(self, records):
        return from_bytes(records, torch.float32, self.shape)

    def decode_numpy(self, records):
        return numbers(records, "<f4").reshape(len(records), *self.shape)

    def bound(self, values):
        exact = values.dtype != torch.float64
        return torch.zeros_like(values, dtype=torch.float64) if exact else float_error(values)


@dataclass(frozen=True)
class F16(Codec):
    """Half precision: 11 bits, up to 65504."""

    name: ClassVar[str] = "f16"

    @property
    def dtype(self):
        return np.dtype(("<f2", self.shape))

    def pack(self, values):
        return as_bytes(half(values, self.name))

    def decode(self, records):
        return from_bytes(records, torch.float16, self.shape).float()

    def decode_numpy(self, records):
        return numbers(records, "<f2").astype(np.float32).reshape(len(records), *self.shape)

    def top1(self, records):
        return records.view("<f2").argmax(1)

    def bound(self, values):
        return half_error(values)
