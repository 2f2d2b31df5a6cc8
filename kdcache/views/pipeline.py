"""A pipeline of another library as a view, replayed by seeding every generator that it may draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from PIL import Image

from kdcache import lazy_torch as torch
from kdcache.checks import short
from kdcache.errors import KdcacheError, UsageError
from kdcache.limits import MOST_SIDE
from kdcache.seeds import LIBRARY, draw
from kdcache.views.base import Plain, host, pair_of, size_in
from kdcache.views.native import Centre, Untouched

if TYPE_CHECKING:
    from torch import Tensor

PROBED = (1024, 1024), (900, 1200)  # sizes to try a pipeline on where those of the images differ; crops fit into them
PROBES = 4
ANY = (0, 0)  # the size of a view whose own is not known yet
END = "end the pipeline with a crop or a resize"


@dataclass(frozen=True)
class Pipeline(Plain):
    """What is alike for all libraries; a subclass says how its pipeline is built, and how it is asked."""

    pipeline: dict | list[str]  # as it stands in the header
    source_size: tuple[int, int] | None = None  # decides on the evaluation view, never on the rendering
    notice: str = field(default="", compare=False)
    normalisation: tuple | None = field(default=None, compare=False)  # mean and std of a step that was taken off
    native: ClassVar[bool] = False

    def build(self):
        """The live pipeline."""
        raise NotImplementedError

    def apply(self, live, image: Tensor, words: np.ndarray):
        """What it makes of an image, as a tensor, array or PIL image; the global generators are seeded already."""
        raise NotImplementedError

    def live(self):
        """The live pipeline, built once in every process."""
        if "_live" not in self.__dict__:
            with untouched_generators():
                object.__setattr__(self, "_live", self.build())
        return self.__dict__["_live"]

    def but(self, **fields) -> Self:
        """The same with other fields, and with the pipeline that is live already."""
        view = replace(self, **fields)
        view.__dict__.update({k: v for k, v in self.__dict__.items() if k == "_live"})
        return view

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "_live"}

    def render(self, images, seeds):
        live, words = self.live(), words_of(host(seeds), LIBRARY)
        with untouched_generators(), one_thread(), torch.no_grad():
            return torch.stack([self.one(live, *pair) for pair in zip(images, words, strict=True)])

    def one(self, live, image: Tensor, words: np.ndarray) -> Tensor:
        """One rendering from eight random words."""
        seed_generators(words)
        try:
            result = self.apply(live, image, words)
        except Exception as error:
            expected = "a pipeline that takes images of {} x {}".format(*image.shape[1:])
            raise UsageError(f"view {self.name}", expected, named(error), "correct the pipeline") from error
        return self.checked(result)

    def checked(self, result) -> Tensor:
        """The result, if it is pixels of the right kind and size."""
        pixels = as_pixels(result)
        if pixels is None:
            found = f"{getattr(result, 'dtype', type(result).__name__)} {tuple(getattr(result, 'shape', ()))}"
            raise UsageError(f"view {self.name}", "uint8 RGB pixels", found, "leave normalisation to the network")
        if max(pixels.shape[1:]) > MOST_SIDE:
            found = "{} x {}".format(*pixels.shape[1:])
            raise UsageError(f"view {self.name}", f"images of at most {MOST_SIDE} x {MOST_SIDE}", found, END)
        if self.size not in (ANY, tuple(pixels.shape[1:])):
            found = f"uint8 {tuple(pixels.shape)}"
            raise UsageError(f"view {self.name}", "images of {} x {}".format(*self.size), found, END)
        return pixels

    def sized(self, place: str) -> Pipeline:
        """The same with the one size that comes out of it, found by trying."""
        view = self.but(size=ANY)
        try:
            found = {tuple(view.render([image], seed).shape[2:]) for image, seed in view.probes()}
        except KdcacheError as error:
            raise UsageError(place, error.expected, error.found, error.remedy) from None
        if len(found) > 1:
            several = " and ".join("{} x {}".format(*size) for size in sorted(found)[:2])
            raise UsageError(place, "images of one size", several, END)
        return view.but(size=found.pop())

    def probes(self) -> list[tuple[Tensor, Tensor]]:
        """Images and seeds to try it on."""
        sizes = [self.source_size] if self.source_size else PROBED
        images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes for _ in range(PROBES)]
        return [(image, torch.tensor([i])) for i, image in enumerate(images)]

    def evaluation(self):
        return Untouched(self.size) if self.source_size == self.size else Centre(self.size)

    def to_json(self):
        return super().to_json() | {
            "pipeline": self.pipeline,
            "source_size": self.source_size and list(self.source_size),
        }


def sizes_in(header: dict) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The size of a view, and that of the images it was opened for, which older files leave out."""
    source = header.get("source_size")
    return size_in(header), source and pair_of(source, least=1)


def usable(mean, std, unit: float = 1.0) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """A normalisation as the network takes it, of three channels in units of 0..1, if it is one."""
    try:
        first, second = (tuple(round(float(value) * unit, 6) for value in part) for part in (mean, std))
    except (TypeError, ValueError):
        return None
    right = all(len(part) == 3 and all(0 <= value <= 1 for value in part) for part in (first, second))
    return (first, second) if right and min(second) > 0 else None


def as_pixels(result) -> Tensor | None:
    """uint8 [3, h, w], if that is what it is."""
    if isinstance(result, Image.Image):
        result = np.asarray(result)
    if isinstance(result, np.ndarray) and result.dtype == np.uint8 and result.ndim == 3:
        result = torch.from_numpy(np.ascontiguousarray(result.transpose(2, 0, 1)))
    if not isinstance(result, torch.Tensor) or result.dtype != torch.uint8 or result.ndim != 3 or len(result) != 3:
        return None
    return result.as_subclass(torch.Tensor).contiguous()


def channels_last(image: Tensor) -> np.ndarray:
    """A copy, which a pipeline may write to."""
    return image.movedim(0, -1).clone(memory_format=torch.contiguous_format).numpy()


@contextlib.contextmanager
def untouched_generators() -> Iterator[None]:
    """Leaves the global generators as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch, as in a worker: with more, it adds numbers up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def as_number(words: np.ndarray) -> int:
    """Words as one number."""
    return int.from_bytes(words.tobytes(), "little")


def words_of(seeds: np.ndarray, stream: int, n: int = 0) -> np.ndarray:
    """Eight random words for each seed: those of two draws, from number `n` of a stream."""
    return np.concatenate([np.stack(draw(seeds, n + i, stream), 1) for i in (0, 1)], 1).astype("<u4")


def seed_generators(words: np.ndarray) -> None:
    """The global generators; the first six words are left for a library that takes generators of its own."""
    random.seed(as_number(words[6:8]))
    np.random.seed(int(words[7]))
    torch.default_generator.manual_seed(as_number(words[6:8]))


def named(error: Exception) -> str:
    return f"{type(error).__name__} {short(error, 200)}".rstrip()
