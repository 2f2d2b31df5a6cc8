"""Mixup and CutMix as part of a view: the teacher answers on the mixed image.

    seed of a sample-view   partner's row << 32 | 32 random bits; so it alone still decides every pixel
    stream MIXING           0: the seed under which the partner is rendered   1: share, box, which of the two

The partner of a row is given by a keyed bijection of all rows, another one in every view.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.errors import UsageError
from kdcache.seeds import MASK, MIXING, below, draw
from kdcache.views.base import Images, Plain, View, host, size_in

if TYPE_CHECKING:
    from torch import Tensor

ONE = 1 << 16  # shares are counted in 1/65536
MOST_ROWS = 1 << 32
SUFFIX = re.compile(r"\+(mixup|cutmix)(?::([^+]*))?$")
SUBSTEPS, TERMS = 1 << 24, 60

MIXES: dict[str, str] = {
    "+mixup": "behind any of them, as crop-flip+mixup:A: blended with another row, shares from Beta(A, A) or alike",
    "+cutmix": "behind any of them, as crop-flip+cutmix:A: a box of another row; +mixup+cutmix: half of each",
}


@dataclass(frozen=True)
class Mixing:
    """How two images become one. The share of the first is drawn from Beta(a, a); of both kinds, each half of the time.

    `mixup` and `cutmix` are the a of each, None where that kind is not wanted.
    """

    mixup: float | None = None
    cutmix: float | None = None

    @property
    def name(self) -> str:
        kinds = (("mixup", self.mixup), ("cutmix", self.cutmix))
        return "+".join(kind if a == 1 else f"{kind}:{a:g}" for kind, a in kinds if a is not None)

    def parameters(self, seeds: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the first image in 1/65536; and boxes (top, bottom, left, right), empty where nothing is cut."""
        word, y, x, which = draw(seeds, 1, MIXING)
        both = self.mixup is not None and self.cutmix is not None
        cut = which >> 31 == 1 if both else np.full(len(seeds), self.mixup is None)
        share = np.where(cut, shares(self.cutmix, word), shares(self.mixup, word))
        box = []
        for side, place in zip(size, (y, x), strict=True):
            # exact: IEEE demands that a square root is rounded correctly
            half = np.sqrt(side * side * (ONE - share) / ONE).astype(np.int64) // 2
            centre = below(place, side)
            start, stop = np.maximum(centre - half, 0), np.minimum(centre + half, side)
            box += [np.where(cut, start, 0), np.where(cut, stop, 0)]
        return np.where(cut, ONE, share), np.stack(box)

    def kept(self, seeds: np.ndarray, size: tuple[int, int]) -> Tensor:
        """How much of each image is its own: f32 from 0 to 1; where a box is cut, the rest of its area."""
        share, (top, bottom, left, right) = self.parameters(seeds, size)
        area = (bottom - top) * (right - left) / (size[0] * size[1])
        return torch.from_numpy((share / ONE - area).astype(np.float32))

    def mix(self, own: Tensor, other: Tensor, seeds: np.ndarray) -> Tensor:
        """The images, mixed pair by pair: integer arithmetic, the same on every device."""
        share, (top, bottom, left, right) = self.parameters(seeds, (own.shape[2], own.shape[3]))
        if (blended := np.flatnonzero(share < ONE)).size:
            place = torch.from_numpy(blended).to(own.device)
            weight = torch.from_numpy(share[blended].astype(np.int32)).to(own.device)[:, None, None, None]
            rest = other[place]
            step = own[place].int().sub_(rest).mul_(weight).add_(ONE // 2).bitwise_right_shift_(16)
            own = own.index_copy(0, place, step.add_(rest).to(torch.uint8))
        if (bottom > top).any():
            rows, columns = within(top, bottom, own.shape[2]), within(left, right, own.shape[3])
            box = (rows[:, None, :, None] & columns[:, None, None, :]).to(own.device)
            own = torch.where(box, other, own)
        return own


@dataclass(frozen=True)
class Mixed(View):
    """Another view, each of its images mixed with one of another row."""

    of: Plain
    rows: int
    mixing: Mixing
    mixes: ClassVar[bool] = True

    @property
    def name(self):
        return f"{self.of.name}+{self.mixing.name}"

    @classmethod
    def from_json(cls, header: dict, of: Plain) -> Mixed:
        """The view of a header, whose inner view is there already."""
        kinds = {kind: header[kind] for kind in ("mixup", "cutmix") if header[kind] is not None}
        try:
            right = all(type(a) in (int, float) and concentration(kind, str(a)) == a for kind, a in kinds.items())
        except UsageError:  # it is made for what users write
            right = False
        if not right:
            raise ValueError(f"mixing of {kinds}")
        rows = header["rows"]
        view = cls(size_in(header), of, rows, Mixing(**kinds))
        fits = type(rows) is int and 0 < rows < MOST_ROWS and not (of.mixes or of.alternates) and of.size == view.size
        if not fits or view.to_json() != header:
            raise ValueError("parameters of another view")
        return view

    @property
    def plain(self):
        return self.of

    @property
    def native(self):
        return self.of.native

    def seeds(self, plain: np.ndarray, partners: np.ndarray) -> np.ndarray:
        """The seeds of sample-views, out of the random ones of another view and the partners' rows."""
        return partners << 32 | plain & MASK

    def partners(self, seeds: np.ndarray) -> np.ndarray:
        return (seeds >> 32 & MASK) % self.rows

    def kept(self, seeds):
        return self.mixing.kept(seeds, self.size)

    def show(self, read: Callable[[np.ndarray], Images], rows, seeds):
        own = host(seeds)
        low, high, _, _ = draw(own, 0, MIXING)
        both = np.concatenate([rows, self.partners(own)]), np.concatenate([own, high << 32 | low])
        images = self.of.show(read, both[0], torch.from_numpy(both[1]))
        return self.mixing.mix(images[: len(own)], images[len(own) :], own)

    def evaluation(self):
        return self.of.evaluation()

    def to_json(self):
        of, mixing = self.of.to_json(), {"mixup": self.mixing.mixup, "cutmix": self.mixing.cutmix}
        return super().to_json() | {"of": of, "rows": self.rows} | mixing


def split(spec: str) -> tuple[str, Mixing | None]:
    """`crop-flip+mixup:0.2+cutmix` as the view before it and the mixing."""
    view, found = spec, {}
    while match := SUFFIX.search(view):
        view, (kind, a) = view[: match.start()], match.groups()
        if kind in found:
            raise UsageError("mixing", f"one {kind}", f"two in {spec!r}", "leave one out")
        found[kind] = concentration(spec, a)
    return view, Mixing(**found) if found else None


def parse_mixing(text: str) -> Mixing:
    """`mixup:0.2+cutmix`, as it stands after `labels:`"""
    view, mixing = split(f"+{text}")
    if view or mixing is None:
        expected = "mixup, cutmix, or both with a plus, each perhaps with :A"
        raise UsageError("`mix`", expected, repr(text), "write it like mixup:0.2+cutmix")
    return mixing


def concentration(spec: str, text: str | None) -> float:
    """The a of Beta(a, a); 1, every share alike, unless stated."""
    try:
        a = 1.0 if text is None else float(text)
    except ValueError:
        a = 0.0
    if not 0.01 <= a <= 10:
        expected = "the A of Beta(A, A), from 0.01 to 10"
        raise UsageError("mixing", expected, f"{text!r} in {spec!r}", "1 draws every share alike")
    return a


@functools.lru_cache
def steps(a: float) -> np.ndarray:
    """The distribution function of Beta(a, a) at every share, in 1/2**24.

    From its power series, of whose operations all but one are exactly rounded everywhere; what another machine
    may differ in is rounded away.
    """
    x = np.arange(ONE // 2 + 1) / ONE  # the other half is its mirror image, and here the series converges fast
    total, term = np.zeros_like(x), np.ones_like(x)
    for k in range(TERMS):
        total += term / (a + k)
        term = term * (1 - a + k) / (k + 1) * x
    lower = np.power(x, a) * total
    lower = lower / (2 * lower[-1])
    whole = np.concatenate([lower, 1 - lower[-2::-1]])
    return np.floor(whole * SUBSTEPS + 0.5).astype(np.int64)


def shares(a: float | None, words: np.ndarray) -> np.ndarray:
    """Words as shares in 1/65536, distributed as Beta(a, a)."""
    return np.full(len(words), ONE) if a is None else np.searchsorted(steps(a), words >> 8, side="right") - 1


def within(start: np.ndarray, stop: np.ndarray, length: int) -> Tensor:
    place = np.arange(length)
    return torch.from_numpy((place >= start[:, None]) & (place < stop[:, None]))
