"""One bit a value: whether it is positive. Also how bits lie in bytes: the first one lowest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.codecs.base import Codec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Bits(Codec):
    """Signs, decoded to 1.0 where the value was above zero and 0.0 elsewhere."""

    name: ClassVar[str] = "bits"
    keeps_shift: ClassVar[bool] = False
    keeps_all: ClassVar[bool] = False

    @classmethod
    def candidates(cls, logits):
        return []

    @property
    def dtype(self):
        return np.dtype(("u1", (-(-self.count // 8),)))

    def pack(self, values):
        return pack_bits(values.reshape(len(values), self.count) > 0)

    def decode(self, records):
        eights = _eights(records.device).index_select(0, records.flatten().int())
        bits = eights.view(torch.uint8).view(len(records), self.size * 8)
        return bits[:, : self.count].float().view(len(records), *self.shape)

    def decode_numpy(self, records):
        bits = np.unpackbits(records, axis=1, bitorder="little", count=self.count)
        return bits.astype(np.float32).reshape(len(records), *self.shape)

    def ideal(self, values):
        return (values > 0).double()

    def bound(self, values):
        return torch.zeros_like(values, dtype=torch.float64)


def pack_bits(bits: Tensor) -> Tensor:
    """Bits [n, m] to bytes [n, ceil(m / 8)]."""
    n, m = bits.shape
    padded = torch.zeros(n, -(-m // 8) * 8, dtype=torch.uint8, device=bits.device)
    padded[:, :m] = bits
    # one product brings the lowest bits of a word's eight bytes together in its highest byte
    return ((padded.view(torch.int64) * 0x0102040810204080) >> 56).to(torch.uint8)


@lru_cache(maxsize=16)
def _eights(device: torch.device) -> Tensor:
    """For every byte the eight bytes 0 or 1 that it stands for, as one word: one look-up instead of eight shifts."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(bits.view("<i8").reshape(256)).to(device)
