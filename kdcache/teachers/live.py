"""A network in the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from kdcache.batches import Loader, straight_plan
from kdcache.methods import Method
from kdcache.models.network import Network, watch
from kdcache.seeds import permutation
from kdcache.teachers.base import Forward
from kdcache.teachers.exact import LinearInBlocks, in_company
from kdcache.types import Batch, Knowledge, Look


class LiveTeacher:
    """A network in the loop, in evaluation mode and without gradients. Use it as a context, for its hooks."""

    def __init__(self, network: Network, method: Method, forward: Forward, device="cpu"):
        self.network, self.method, self.forward = network.to(device).eval().requires_grad_(False), method, forward
        self.device = torch.device(device)
        if forward.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.hooks = contextlib.ExitStack()
        self.look = self.watching(method.taps or ("logits",))
        self.answer = self.look if "logits" in method.taps else self.watching(("logits",))

    def watching(self, taps: Sequence[str]) -> Callable[[Tensor], Look]:
        look = self.hooks.enter_context(watch(self.network, taps))
        return torch.compile(look) if self.forward.compile else look

    def __enter__(self) -> LiveTeacher:
        return self

    def __exit__(self, *_) -> None:
        self.hooks.close()

    sees = True  # it needs the pixels of a batch

    def __call__(self, batch: Batch) -> Knowledge:
        """What the method keeps of it."""
        knowledge = self.method.project(self.looks(in_company(batch.images)))
        return {name: value[: len(batch)] for name, value in knowledge.items()}

    def logits(self, batch: Batch) -> Tensor:
        """The network's answers, whatever the method keeps."""
        return self.seen(self.answer, batch.images)["logits"]

    def looks(self, images: Tensor) -> Look:
        """What the network shows of the method's taps, in f32."""
        return self.seen(self.look, images)

    @torch.no_grad()
    def seen(self, look: Callable[[Tensor], Look], images: Tensor) -> Look:
        """What one forward shows, whatever the layout of the images."""
        layout = torch.channels_last if self.forward.channels_last else torch.contiguous_format
        shown = in_company(images).contiguous(memory_format=layout)
        with self.numerics():
            found = look(shown)
        return {name: value[: len(images)].float() for name, value in found.items()}

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
