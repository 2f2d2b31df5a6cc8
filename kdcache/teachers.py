"""Anything that answers a Batch with Knowledge. Training cannot tell which one it has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from kdcache.batches import Loader, straight_plan
from kdcache.cache import Cache
from kdcache.errors import CacheError, TeacherError
from kdcache.methods import Method
from kdcache.models.network import Network, watch
from kdcache.seeds import permutation
from kdcache.types import Batch, Knowledge, Look

Teacher = Callable[[Batch], Knowledge]


@dataclass(frozen=True)
class Forward:
    """The settings that move the last bits of an answer: fixed in the cache, obeyed on resume and by `--live`."""

    batch: int = 256
    dtype: str = "f32"
    channels_last: bool = False
    tf32: bool = False
    compile: bool = False

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, place: object, header: dict) -> Forward:
        try:
            forward = cls(**header)
        except TypeError as error:
            raise CacheError(place, "known forward settings", str(error), "read it with a newer kdcache") from None
        if forward.dtype not in ("f32", "bf16"):
            raise CacheError(place, "forward dtype f32 or bf16", repr(forward.dtype), "read it with a newer kdcache")
        return forward


class LiveTeacher:
    """A network in the loop, in evaluation mode and without gradients. Use it as a context, for its hooks."""

    def __init__(self, network: Network, method: Method, forward: Forward, device="cpu"):
        self.network, self.method, self.forward = network.to(device).eval().requires_grad_(False), method, forward
        self.device = torch.device(device)
        if forward.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.hooks = contextlib.ExitStack()
        self.look = self.hooks.enter_context(watch(network, tuple(method.taps) or ("logits",)))
        if forward.compile:
            self.look = torch.compile(self.look)

    def __enter__(self) -> LiveTeacher:
        return self

    def __exit__(self, *_) -> None:
        self.hooks.close()

    sees = True  # it needs the pixels of a batch

    def __call__(self, batch: Batch) -> Knowledge:
        """One row alone is shown and projected twice: alone it would round differently."""
        alone = len(batch) == 1
        images = torch.cat([batch.images, batch.images]) if alone else batch.images
        knowledge = self.method.project(self.looks(images))
        return {name: value[:1] for name, value in knowledge.items()} if alone else knowledge

    def show(self, batch: Batch) -> Look:
        return self.looks(batch.images)

    @torch.no_grad()
    def looks(self, images: Tensor) -> dict[str, Tensor]:
        """What the network shows, in f32, whatever the layout of the images."""
        alone = len(images) == 1
        if alone:
            images = torch.cat([images, images])
        layout = torch.channels_last if self.forward.channels_last else torch.contiguous_format
        images = images.contiguous(memory_format=layout)
        with self.numerics():
            look = self.look(images)
        return {name: (value[:1] if alone else value).float() for name, value in look.items()}

    def over(self, loader: Loader) -> Iterator[Look]:
        """What the network shows in one shuffled pass over the first view, for methods that prepare something."""
        for batch in loader.run(straight_plan(permutation(len(loader.source), 0), self.forward.batch)):
            yield self.looks(batch.images)

    @contextlib.contextmanager
    def numerics(self):
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.forward.tf32
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.forward.dtype == "bf16"):
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class CacheTeacher:
    """What a teacher said when the cache was made."""

    def __init__(self, cache: Cache, names: Sequence[str], device="cpu"):
        missing = [name for name in names if name not in cache.names]
        if missing:
            remedy = "dump again with that --method"
            raise CacheError(cache.path, f"knowledge {missing[0]!r}", f"only {', '.join(cache.names)}", remedy)
        self.cache, self.names, self.device = cache, list(names), device

    def __call__(self, batch: Batch) -> Knowledge:
        return self.cache.read(batch.views, batch.rows, self.names, self.device)


def no_teacher(batch: Batch) -> Knowledge:
    """For methods that need none."""
    return {}


def require_finite(place: object, knowledge: Knowledge, rows) -> None:
    """Refuses NaN and infinities before they are stored."""
    for name, value in knowledge.items():
        if not torch.isfinite(value).all():
            row = int(rows[int((~torch.isfinite(value)).flatten(1).any(1).nonzero()[0])])
            remedy = "check the teacher's weights and its forward dtype; nothing of this block was written"
            raise TeacherError(place, f"finite {name}", f"NaN or infinity for row {row}", remedy)
