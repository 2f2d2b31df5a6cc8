"""What every codec is, and the few byte operations that they share."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

HEADROOM = 1.25
"""How much wider than on the sample a range is fitted; a teacher's other rows go a little further."""


@dataclass(frozen=True)
class Codec:
    """The part that all codecs share; `shape` is the shape of one row."""

    shape: tuple[int, ...]
    name: ClassVar[str] = ""
    argument: ClassVar[str] = ""
    """What a user may write behind the name and a colon; codecs without one refuse whatever stands there."""
    keeps_shift: ClassVar[bool] = True
    """False where only the softmax of a row survives, not the level of its logits."""
    keeps_all: ClassVar[bool] = True
    """False where some values of a row are modelled instead of stored."""

    def __post_init__(self):
        if any(n < 1 for n in self.shape):
            raise UsageError(f"codec {self.name}", "rows of at least one value", f"shape {self.shape}", "leave it out")

    @classmethod
    def fit(cls, values: Tensor) -> Codec:
        """The codec for rows like these; codecs with parameters of their own measure them here."""
        return cls(tuple(values.shape[1:]))

    @classmethod
    def parse(cls, argument: str, values: Tensor) -> Codec:
        """The codec for rows like these that a user names, with what stands behind the colon or nothing."""
        return cls.fit(values)

    @classmethod
    def candidates(cls, logits: Tensor) -> list[Codec]:
        """The settings that are worth measuring on these logits."""
        return [cls.fit(logits)]

    @property
    def label(self) -> str:
        """As a user writes it, so that `parse` gives the same again."""
        return self.name

    @property
    def dtype(self) -> np.dtype:
        """The record as HDF5 shows it."""
        raise NotImplementedError

    @cached_property
    def size(self) -> int:
        """Bytes of one record."""
        return self.dtype.itemsize

    @cached_property
    def count(self) -> int:
        """Values of one row."""
        return math.prod(self.shape)

    def encode(self, values: Tensor) -> Tensor:
        """Floats [n, *shape] to bytes [n, record size]; a row that is not finite is refused."""
        if tuple(values.shape[1:]) != self.shape:
            found = f"{tuple(values.shape[1:])}"
            raise UsageError(f"codec {self.name}", f"rows of shape {self.shape}", found, "fit a codec to these rows")
        return self.pack(finite(self.name, values))

    def pack(self, values: Tensor) -> Tensor:
        """`encode` for finite f32 values of the right shape."""
        raise NotImplementedError

    def decode(self, records: Tensor) -> Tensor:
        """Bytes [n, record size] to f32 [n, *shape]; the same floats on every device."""
        raise NotImplementedError

    def decode_numpy(self, records: np.ndarray) -> np.ndarray:
        """`decode` without torch: uint8 [n, record size] to the same f32 [n, *shape]."""
        raise NotImplementedError

    def top1(self, records: np.ndarray) -> np.ndarray:
        """Where the greatest value of each row is, of bytes [n, record size]; read off them, without torch."""
        return self.decode_numpy(records).reshape(len(records), self.count).argmax(1)

    def fault(self, records: np.ndarray) -> str:
        """What no encoder has written in these bytes [n, record size]; empty where nothing speaks against them."""
        return ""

    def ideal(self, values: Tensor) -> Tensor:
        """What decoding aims at, in f64: the values themselves, unless the codec keeps something else of them."""
        return values.double()

    def bound(self, values: Tensor) -> Tensor:
        """How far a decoded value may be from `ideal`, in f64 and of its shape (or one that broadcasts to it)."""
        raise NotImplementedError

    def clipped(self, values: Tensor) -> Tensor:
        """Which rows go beyond the range that was fitted: bool [n]. Their error is still within `bound`."""
        return torch.zeros(len(values), dtype=torch.bool, device=values.device)

    def to_json(self) -> dict:
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"codec": self.name} | fields


def finite(name: str, values: Tensor) -> Tensor:
    """The values as f32, or an error that names the first row that is not finite."""
    values = values.float()
    if not torch.isfinite(values).all():
        bad = ~torch.isfinite(values.reshape(len(values), -1)).all(1)
        row = int(bad.nonzero()[0])
        worst = values[row][~torch.isfinite(values[row])].flatten()[0]
        found = f"{float(worst)} in row {row} of {len(values)} ({int(bad.sum())} such rows)"
        raise UsageError(f"codec {name}", "finite values", found, "check the teacher, and run it in f32")
    return values


def sample(name: str, values: Tensor) -> Tensor:
    """The rows that a codec with a range is fitted to, as finite f32."""
    if not len(values):
        raise UsageError(f"codec {name}", "rows to measure its range on", "none", "give it the teacher's answers")
    return finite(name, values)


def class_logits(codec: Codec) -> None:
    """Refuses rows that are no logits over classes."""
    if len(codec.shape) != 1:
        remedy = "take `codec` f16 or int8"
        raise UsageError(f"codec {codec.name}", "one logit per class", f"rows of shape {codec.shape}", remedy)


def power_of_two(codec: Codec, unit: float) -> None:
    """Products with such a unit are exact, so that a fused multiply-add cannot make two devices differ."""
    if not (0 < unit < math.inf and math.frexp(unit)[0] == 0.5):
        raise UsageError(f"codec {codec.name}", "a power of two as its unit", f"{unit}", "fit the codec again")


def as_bytes(values: Tensor) -> Tensor:
    return values.reshape(len(values), math.prod(values.shape[1:])).contiguous().view(torch.uint8)


def field(records: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Bytes start to stop of every record as numbers, copied only where they lie at an odd place."""
    part = records[:, start:stop]
    if part.stride(1) != 1 or part.stride(0) % dtype.itemsize or part.storage_offset() % dtype.itemsize:
        part = part.clone(memory_format=torch.contiguous_format)
    return part.view(dtype)


def from_bytes(records: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not records.is_contiguous() or records.storage_offset() % dtype.itemsize:
        records = records.clone(memory_format=torch.contiguous_format)
    return records.view(dtype).reshape(len(records), *shape)


def numbers(records: np.ndarray, dtype: str) -> np.ndarray:
    """The bytes of every record as numbers of one type, where NumPy is to read them."""
    return np.ascontiguousarray(records).view(dtype)


def half(values: Tensor, name: str) -> Tensor:
    """Rounded to f16, refused beyond its range."""
    return _within(values.to(torch.float16), values, name)


def half_below(values: Tensor, name: str) -> Tensor:
    """Rounded down to f16."""
    rounded = half(values, name)
    bits = rounded.view(torch.int16)  # one less for a positive number, one more in magnitude for a negative one
    return _within(torch.where(rounded > values, (bits - bits.sign()).view(torch.float16), rounded), values, name)


def _within(rounded: Tensor, values: Tensor, name: str) -> Tensor:
    if torch.isinf(rounded).any():
        raise UsageError(f"codec {name}", "values up to 65504", f"{float(values.abs().max()):.6g}", "take `codec` f32")
    return rounded


def half_error(values: Tensor) -> Tensor:
    """The most by which f16 rounds these: half a step of its 11 bits, or of its smallest number."""
    return values.abs().double() * 2**-11 + 2**-25


def float_error(values: Tensor) -> Tensor:
    """The most by which one f32 operation rounds these."""
    return values.abs().double() * 2**-24 + 2**-150
