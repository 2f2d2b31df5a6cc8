"""How one row of Knowledge becomes one fixed-size record, and back.

A codec is a frozen dataclass that writes itself into the file's header. It works on whole batches: `encode`
turns float tensors [n, *shape] into bytes, a uint8 tensor [n, record size]; `decode` does the reverse on any
device. Logits keep raw-logit semantics, so that any temperature stays free.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import CacheError, UsageError


@dataclass(frozen=True)
class Codec:
    """The part that all codecs share; `shape` is the shape of one row."""

    shape: tuple[int, ...]
    name: ClassVar[str] = ""
    keeps_shift: ClassVar[bool] = True
    """False where only the softmax of a row survives, not the level of its logits."""

    @classmethod
    def fit(cls, values: Tensor) -> Codec:
        """The codec for rows like these; codecs with parameters of their own measure them here."""
        return cls(tuple(values.shape[1:]))

    @property
    def dtype(self) -> np.dtype:
        """The record as HDF5 shows it."""
        raise NotImplementedError

    def encode(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, records: Tensor) -> Tensor:
        """Bytes [n, record size] to f32 [n, *shape]."""
        raise NotImplementedError

    def to_json(self) -> dict:
        return {"codec": self.name} | asdict(self) | {"shape": list(self.shape)}


@dataclass(frozen=True)
class F32(Codec):
    """The teacher's own numbers."""

    name: ClassVar[str] = "f32"

    @property
    def dtype(self):
        return np.dtype(("<f4", self.shape))

    def encode(self, values):
        return as_bytes(values.float())

    def decode(self, records):
        return from_bytes(records, torch.float32, self.shape)


@dataclass(frozen=True)
class F16(Codec):
    """Half precision: 11 bits, up to 65504."""

    name: ClassVar[str] = "f16"

    @property
    def dtype(self):
        return np.dtype(("<f2", self.shape))

    def encode(self, values):
        half = values.to(torch.float16)
        if torch.isinf(half).any():
            raise UsageError("codec f16", "values up to 65504", f"{values.abs().max():.6g}", "take --codec f32")
        return as_bytes(half)

    def decode(self, records):
        return from_bytes(records, torch.float16, self.shape).float()


CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (F32, F16)}


def from_json(place: object, header: dict) -> Codec:
    """The codec that a header describes."""
    header = dict(header)
    name = header.pop("codec", None)
    if name not in CODECS:
        raise CacheError(place, f"a codec among {', '.join(CODECS)}", repr(name), "read it with a newer kdcache")
    try:
        return CODECS[name](**header | {"shape": tuple(int(n) for n in header["shape"])})
    except (TypeError, KeyError, ValueError) as error:
        raise CacheError(place, f"the parameters of codec {name}", f"{header} ({error})", "dump it again") from None


def as_bytes(values: Tensor) -> Tensor:
    return values.contiguous().flatten(1).view(torch.uint8)


def from_bytes(records: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return records.contiguous().view(dtype).reshape(len(records), *shape)
