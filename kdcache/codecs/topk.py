"""The k greatest logits of a row, and the mass of all the others.

    head   f16              the greatest logit
    tail   f16              log of the summed exp of the classes that are not kept, relative to the head (not if k = C)
    wide   u16 [wide]       how far each of the next ranks lies below the one before it, in units
    gaps   u8 [k-1-wide]    the same for the ranks after those, as one of 256 steps
    ids    bits             class ids from the greatest logit down, ceil(log2 C) bits each, lowest bit first

Ids in order of their logits make every gap a small positive number, so that eight bits go far: the steps grow with
the cube of the code, and each is chosen to make up for the rounding of those before it. Gaps are whole units and
sum to less than 2**24, hence exactly in f32. Classes that are not kept share their mass evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.codecs.base import (
    HEADROOM,
    Codec,
    class_logits,
    field,
    float_error,
    half,
    half_below,
    half_error,
    power_of_two,
    sample,
)
from kdcache.codecs.bits import pack_bits
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

REACH = 65535  # the deepest gap in units
LOWEST = -65504.0  # of f16
STEPS = np.array([c + (c**3 * (REACH - 255) + 255**3 // 2) // 255**3 for c in range(256)], dtype=np.float64)
FLOAT_STEPS = STEPS.astype(np.float32)
SIZES = (5, 10, 16, 32, 64, 100, 128, 256)
"""The k that `auto` tries."""


@dataclass(frozen=True)
class TopK(Codec):
    """topk:K, the K likeliest classes, and the mass of all others as one number.

    Any softmax of what is decoded is one of positive numbers that sum to 1.
    """

    k: int = 1
    wide: int = 0
    unit: float = 2.0**-11
    name: ClassVar[str] = "topk"
    argument: ClassVar[str] = "K"
    keeps_all: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        class_logits(self)
        power_of_two(self, self.unit)
        if not (isinstance(self.k, int) and 1 <= self.k <= self.shape[0] <= 2**32):
            found = f"{self.k} of {self.shape[0]}"
            raise UsageError("codec topk", "1 to all classes, 2**32 at most", found, "try topk:16")
        if not (isinstance(self.wide, int) and 0 <= self.wide <= max(self.k - 1, 0)):
            raise UsageError("codec topk", f"0 to {self.k - 1} wide gaps", f"{self.wide}", "fit the codec again")

    @classmethod
    def fit(cls, values, k: int | None = None):
        values = sample(cls.name, values)
        shape = tuple(values.shape[1:])
        k = min(16, *shape) if k is None else k
        cls(shape, k)  # refuses a k or a shape that cannot be, before they are used
        best = values.topk(k, 1).values.double()
        reach = float((best[:, 0] - best[:, -1]).max()) * HEADROOM or 1.0
        # where many classes are kept, a second byte for the first gaps costs little, and they carry the most mass
        return cls(shape, k, min(4, k // 25), 2.0 ** max(math.ceil(math.log2(reach / REACH)), -126))

    @classmethod
    def parse(cls, argument, values):
        if argument and not (argument.isdecimal() and len(argument) < 11 and int(argument)):
            raise UsageError("`codec`", "topk:K with a K from 1", repr(f"topk:{argument}"), "topk:16 keeps 16 classes")
        return cls.fit(values, int(argument)) if argument else cls.fit(values)

    @classmethod
    def candidates(cls, logits):
        return [cls.fit(logits, k) for k in SIZES if k < logits.shape[1]] if logits.ndim == 2 else []

    @property
    def label(self):
        return f"{self.name}:{self.k}"

    @cached_property
    def id_bits(self) -> int:
        return max(1, (self.shape[0] - 1).bit_length())

    @property
    def dtype(self):
        whole = self.k == self.shape[0]
        fields = [("head", "<f2")] + [("tail", "<f2")] * (not whole)
        fields += [("wide", "<u2", (self.wide,))] * (self.wide > 0)
        fields += [("gaps", "u1", (self.k - 1 - self.wide,))] * (self.k - 1 > self.wide)
        return np.dtype([*fields, ("ids", "u1", (-(-self.k * self.id_bits // 8),))])

    @cached_property
    def starts(self) -> tuple[int, int, int]:
        """Where the wide gaps, the others and the ids begin."""
        wide = 4 if self.k < self.shape[0] else 2
        gaps = wide + 2 * self.wide
        return wide, gaps, gaps + self.k - 1 - self.wide

    def pack(self, values):
        return self.pack_pairs(*self.split(values))

    def split(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and f64 logits [n, k] from the greatest down, and the log of the others' mass [n, 1]."""
        bits = (values.float() + 0.0).view(torch.int32)  # adding 0 makes -0 and 0 tie
        order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
        # of equal logits the lower id comes first, on every device and in every batch
        keys = order | (0xFFFFFFFF - torch.arange(self.shape[0], device=values.device))
        ids = 0xFFFFFFFF - (keys.topk(self.k, 1).values & 0xFFFFFFFF)
        exact = values.double()
        others = exact.scatter(1, ids, -math.inf).logsumexp(1, keepdim=True)
        return ids, exact.gather(1, ids), others

    def pack_pairs(self, ids: Tensor, logits: Tensor, others: Tensor) -> Tensor:
        """Records of ids and f64 logits [n, k], greatest first, and the log of the summed exp of all others [n, 1]."""
        head = half(logits[:, :1], self.name)
        codes, depths = self._quantise((logits[:, :1] - logits) / self.unit)
        parts = [head.view(torch.uint8)]
        if self.k < self.shape[0]:
            parts.append(self._tail(logits, others, depths).view(torch.uint8))
        wide = codes[:, : self.wide]
        parts += [torch.stack([wide & 255, wide >> 8], 2).flatten(1), codes[:, self.wide :]]
        bits = (ids[:, :, None] >> torch.arange(self.id_bits, device=ids.device)) & 1
        parts.append(pack_bits(bits.flatten(1)))
        return torch.cat([part.to(torch.uint8) for part in parts], 1)

    def _tail(self, logits: Tensor, others: Tensor, depths: Tensor) -> Tensor:
        """Log of the others' mass relative to the head, such that its share is right beside the gaps as decoded.

        Rounded down: spread evenly, a mass that is right at T = 1 is a little too much at any higher T.
        """
        share = others - logits.logsumexp(1, keepdim=True)
        return half_below((share + (-depths * self.unit).logsumexp(1, keepdim=True)).clamp(min=LOWEST), self.name)

    def _quantise(self, depths: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [n, k-1] for depths below the head in units, and the depths [n, k] that they decode to."""
        steps = torch.from_numpy(STEPS).to(depths.device)
        middles = (steps[1:] + steps[:-1]) / 2
        reached, codes = [torch.zeros_like(depths[:, 0])], []
        for rank in range(1, self.k):
            wanted = (depths[:, rank].clamp(max=REACH) - reached[-1]).clamp(min=0)
            is_wide = rank <= self.wide
            code = wanted.round().long() if is_wide else torch.bucketize(wanted, middles)
            if rank == 1:  # the teacher's answer stays the only greatest one
                code = code.clamp(min=1) * (depths[:, 1] > 0)
            codes.append(code)
            reached.append(reached[-1] + (code if is_wide else steps[code]))
        return torch.stack(codes, 1) if codes else depths[:, 1:].long(), torch.stack(reached, 1)

    def decode(self, records):
        # first of all: between small tensors, malloc gives a large one another place each time, and the cache is cold
        dense = records.new_empty(len(records), self.count, dtype=torch.float32)
        ids, logits, level = self.decode_pairs(records)
        if level is not None:
            dense.copy_(level)
        return dense.scatter_(1, ids, logits)

    def decode_numpy(self, records):
        ids, logits, level = self.pairs_in_numpy(records)
        dense = np.zeros((len(records), self.count), np.float32)
        if level is not None:
            dense[:] = level
        np.put_along_axis(dense, ids, logits, 1)
        return dense

    def decode_pairs(self, records: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Ids and f32 logits [n, k] from the greatest down, and the level [n, 1] of each class that is not kept."""
        if records.device.type != "cpu":
            return self.pairs_in_torch(records)
        ids, logits, level = self.pairs_in_numpy(records.numpy())
        return torch.from_numpy(ids), torch.from_numpy(logits), None if level is None else torch.from_numpy(level)

    def pairs_in_numpy(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The same on a CPU, where NumPy needs less time for as many small operations."""
        wide, gaps, ids = self.starts
        words = self.ids(records)
        if self.spare_ids:
            np.minimum(words, self.shape[0] - 1, out=words)
        steps = np.zeros((len(records), self.k), np.float32)
        if self.wide:
            steps[:, 1 : self.wide + 1] = np.ascontiguousarray(records[:, wide:gaps]).view("<u2")
        if ids > gaps:
            steps[:, self.wide + 1 :] = FLOAT_STEPS.take(records[:, gaps:ids])
        floats = np.ascontiguousarray(records[:, :wide]).view("<f2").astype(np.float32)
        with np.errstate(invalid="ignore"):  # a stranger's records may hold infinities
            logits = floats[:, :1] - steps.cumsum(1, dtype=np.float32) * np.float32(self.unit)
            level = floats[:, :1] + floats[:, 1:] - np.float32(self.log_others) if wide == 4 else None
        return words, logits, level

    def ids(self, records: np.ndarray) -> np.ndarray:
        """int64 [n, k], as they are stored."""
        places, shifts, lane = _lanes(self)
        words = records.take(places, 1).view(lane).astype(np.int64)
        words >>= shifts
        words &= 2**self.id_bits - 1
        return words

    def top1(self, records):
        return np.minimum(self.ids(records)[:, 0], self.shape[0] - 1)

    def fault(self, records):
        worst = int(self.ids(records).max(initial=0)) if self.spare_ids else 0
        return f"class {worst} of {self.shape[0]}" if worst >= self.shape[0] else ""

    @cached_property
    def spare_ids(self) -> bool:
        """Whether the bits of an id can name a class that does not exist. Whoever decodes it gets the last one."""
        return 1 << self.id_bits > self.shape[0]

    def pairs_in_torch(self, records: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        wide, gaps, ids = self.starts
        places, shifts, lane = _places(self, records.device)
        words = records.gather(1, places.expand(len(records), -1)).view(lane).long()
        steps = records.new_zeros(len(records), self.k, dtype=torch.float32)
        if self.wide:
            steps[:, 1 : self.wide + 1] = field(records, wide, gaps, torch.int16).int().bitwise_and_(0xFFFF)
        if ids > gaps:
            codes = records[:, gaps:ids].int().flatten()
            steps[:, self.wide + 1 :] = _steps(records.device).index_select(0, codes).view(-1, ids - gaps)
        floats = field(records, 0, wide, torch.float16).float()
        head = floats[:, :1]
        # units are powers of two: their product is exact, and the difference rounds once, fused or not
        logits = torch.sub(head, steps.cumsum(1), alpha=self.unit)
        level = (head + floats[:, 1:]).sub_(self.log_others) if wide == 4 else None
        words = words.bitwise_right_shift_(shifts).bitwise_and_(2**self.id_bits - 1)
        return words.clamp_(max=self.shape[0] - 1) if self.spare_ids else words, logits, level

    @cached_property
    def log_others(self) -> float:
        return math.log(max(self.shape[0] - self.k, 1))

    def ideal(self, values):
        """The logits that are kept; for each of the others the level that carries their mass evenly."""
        ids, logits, others = self.split(values)
        return (others - self.log_others).expand(-1, self.count).scatter(1, ids, logits)

    def bound(self, values):
        ids, logits, others = self.split(values)
        head = logits[:, :1]
        depths = (head - logits) / self.unit
        # errors do not add up, as each step starts from what is reached: at most half the step after the widest gap's
        widest = depths.clamp(max=REACH).diff(dim=1).amax(1, keepdim=True) if self.k > 1 else depths
        steps = torch.from_numpy(STEPS).to(values.device)
        step = steps.diff()[torch.bucketize(widest, steps, right=True).clamp(max=254)]
        beyond = (depths - REACH).clamp(min=0)
        kept = ((step / 2).clamp(min=1) + beyond) * self.unit
        tail = others - head
        spread = kept.amax(1, keepdim=True) + 2 * half_error(tail.clamp(min=LOWEST)) + (LOWEST - tail).clamp(min=0)
        bound = spread.expand(-1, self.count).scatter(1, ids, kept)
        # the head as f16, and what f32 rounds on the way
        return bound + half_error(head) + 4 * float_error(head) + 4 * float_error(self.ideal(values) - head)

    def clipped(self, values):
        best = values.double().topk(self.k, 1).values
        return best[:, 0] - best[:, -1] > REACH * self.unit


@lru_cache(maxsize=64)
def _lanes(codec: TopK) -> tuple[np.ndarray, np.ndarray, np.dtype]:
    """Which bytes hold each id, by how much to shift them, and the integer that takes them."""
    first = np.arange(codec.k) * codec.id_bits
    least = int((first % 8 + codec.id_bits).max() + 7) // 8
    lane = next(size for size in (2, 4, 8) if size >= least)
    # past the record's end anything will do: the mask takes it off
    places = np.minimum(codec.starts[2] + first[:, None] // 8 + np.arange(lane), codec.size - 1)
    return places.ravel(), first % 8, np.dtype(f"<i{lane}")


@lru_cache(maxsize=64)
def _places(codec: TopK, device: torch.device) -> tuple[Tensor, Tensor, torch.dtype]:
    """The same on a device."""
    places, shifts, lane = _lanes(codec)
    dtype = {2: torch.int16, 4: torch.int32, 8: torch.int64}[lane.itemsize]
    return torch.from_numpy(places[None]).to(device), torch.from_numpy(shifts).to(device), dtype


@lru_cache(maxsize=16)
def _steps(device: torch.device) -> Tensor:
    return torch.from_numpy(FLOAT_STEPS).to(device)
