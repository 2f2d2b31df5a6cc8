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
from kdcache.teachers.exact import LinearInBlocks, in_company
from kdcache.types import Batch, Knowledge, Look

Teacher = Callable[[Batch], Knowledge]
LARGEST_HELD = 1 << 30  # bytes of a view's knowledge that are kept on the device


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
        """What the method keeps of it."""
        knowledge = self.method.project(self.looks(in_company(batch.images)))
        return {name: value[: len(batch)] for name, value in knowledge.items()}

    def show(self, batch: Batch) -> Look:
        return self.looks(batch.images)

    @torch.no_grad()
    def looks(self, images: Tensor) -> dict[str, Tensor]:
        """What the network shows, in f32, whatever the layout of the images."""
        layout = torch.channels_last if self.forward.channels_last else torch.contiguous_format
        shown = in_company(images).contiguous(memory_format=layout)
        with self.numerics():
            look = self.look(shown)
        return {name: value[: len(images)].float() for name, value in look.items()}

    def over(self, loader: Loader) -> Iterator[Look]:
        """What the network shows in one shuffled pass over the first view, for methods that prepare something."""
        for batch in loader.run(straight_plan(permutation(len(loader.source), 0), self.forward.batch)):
            yield self.looks(batch.images)

    @contextlib.contextmanager
    def numerics(self):
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.forward.tf32
        blocks = self.device.type == "cpu" and not self.forward.compile
        try:
            with (
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.forward.dtype == "bf16"),
                LinearInBlocks() if blocks else contextlib.nullcontext(),
            ):
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
        self.cache, self.names, self.device = cache, list(names), torch.device(device)
        self.view: int | None = None
        self.held: dict[str, Tensor] = {}
        self.hold = self.device.type != "cpu" and isinstance(cache, Cache) and self.bytes_of_view() < LARGEST_HELD

    def __call__(self, batch: Batch) -> Knowledge:
        views = batch.views.numpy()
        if len(views) and views[0] != self.view:
            self.turn(int(views[0]))
        if self.hold and (views == self.view).all():
            rows = batch.rows.to(self.device, non_blocking=True)
            return {name: self.cache.decode(name, held[rows]) for name, held in self.held.items()}
        return self.cache.read(batch.views, batch.rows, self.names, self.device)

    def turn(self, view: int) -> None:
        """What an epoch asks for goes to the device at once, where it fits; the next epoch's into the page cache."""
        self.view = view
        self.cache.advise((view + 1) % self.cache.views, self.names)
        if self.hold:
            rows = range(len(self.cache))
            self.held = {n: torch.from_numpy(self.cache.records(n, view, rows)).to(self.device) for n in self.names}

    def bytes_of_view(self) -> int:
        return len(self.cache) * sum(self.cache.layout.codecs[name].size for name in self.names)


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
