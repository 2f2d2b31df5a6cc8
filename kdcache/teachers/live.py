"""A network in the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache import wording
from kdcache.batches import Loader, straight_plan
from kdcache.errors import UsageError
from kdcache.methods import Method, build
from kdcache.models.network import Network, shapes, watch
from kdcache.models.weights import fingerprint
from kdcache.seeds import permutation
from kdcache.teachers.base import ALONE, Answers, Forward, Same, SampleViews, Teacher, no_teacher
from kdcache.teachers.exact import ROWS, AlignedProducts, exactness, in_chunks, in_company
from kdcache.types import Batch, Knowledge, Look, Shapes

TRIED = 64  # images, of a teacher in the loop: whether it answers alike in any company


@dataclass(frozen=True)
class Live:
    """A network in the loop; `beside` a cache of its answers it gets the sample-views and settings of that cache."""

    network: Network
    beside: Teacher = ALONE

    name = "live"
    stored = None

    @property
    def views(self) -> int | None:
        return self.beside.views

    @property
    def notes(self) -> Sequence[str]:
        return self.beside.notes

    def identity(self) -> dict:
        return self.beside.identity() or describe(self.network)

    def facts(self) -> dict:
        return self.beside.facts() | {"teacher": self.identity(), "live": True}

    def shapes(self, image: tuple[int, int, int]) -> Shapes:
        return shapes(self.network, self.network.taps, image)

    def constants(self) -> Mapping[str, Tensor] | None:
        return self.beside.constants()

    def forward(self) -> Forward:
        return self.beside.forward()

    def sample_views(self, drawn: SampleViews) -> SampleViews:
        return self.beside.sample_views(drawn)

    def eval_logits(self, held_out: Loader, same: Same) -> Tensor | None:
        stored = self.beside.eval_logits(held_out, same)
        return self.asked(held_out) if stored is None else stored

    def asked(self, held_out: Loader) -> Tensor:
        """What the network answers to all images of a loader."""
        plan = straight_plan(range(len(held_out.source)), self.forward().batch)
        with lent(self.network), LiveTeacher(self.network, build("st"), self.forward(), held_out.device) as teacher:
            return torch.cat([teacher.logits(batch) for batch in held_out.run(plan)])

    @contextlib.contextmanager
    def answering(self, method: Method, loader: Loader, text: str) -> Iterator[Answers]:
        if not method.taps:
            yield no_teacher
            return
        with lent(self.network), LiveTeacher(self.network, method, self.forward(), loader.device) as teacher:
            constants = self.constants()
            try:
                method.use(teacher.prepare(loader) if constants is None else constants)
            except UsageError:  # of a cache made for other methods: what it lacks is made as a dump would make it
                method.use(teacher.prepare(loader))
            yield teacher

    def rounding(self, answers: Answers, loader: Loader) -> Sequence[str]:
        if not isinstance(answers, LiveTeacher):  # of a method that reads nothing
            return ()
        images = loader.images(np.arange(min(TRIED, len(loader.source))))
        return [f"the live teacher's answers are {wording.exactness(answers.exactness(images))}"]


def describe(network: Network) -> dict:
    """A teacher's identity, as it stands in the cache."""
    normalize = network.normalize
    return {
        "kind": "network",
        "fingerprint": fingerprint(network),
        "mean": [round(float(v), 6) for v in normalize.mean],
        "std": [round(float(v), 6) for v in normalize.std],
        **network.arch,
    }


@contextlib.contextmanager
def lent(network: Network) -> Iterator[None]:
    """Restores the mode and `requires_grad` of the caller's network afterwards, both of which a teacher sets."""
    modes = {module: module.training for module in network.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in network.parameters()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, gradients in wanted.items():
            parameter.requires_grad_(gradients)


class LiveTeacher:
    """A network that answers, in evaluation mode and without gradients. Use it as a context, for its hooks."""

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
        return self.keeps(batch.images)

    def logits(self, batch: Batch) -> Tensor:
        """The network's answers, whatever the method keeps."""
        return self.seen(self.answer, batch.images)["logits"]

    def looks(self, images: Tensor) -> Look:
        """What the network shows of the method's taps, in f32."""
        return self.seen(self.look, images)

    def keeps(self, images: Tensor) -> Knowledge:
        """What the method keeps of images."""
        return self.seen(self.look, images, self.method.project)

    @torch.no_grad()
    def seen(self, look: Callable[[Tensor], Look], images: Tensor, keep: Callable[[Look], Knowledge] = dict) -> Look:
        """What is to be kept of what one forward shows, whatever the layout of the images; row by row on a CPU."""
        layout = torch.channels_last if self.forward.channels_last else torch.contiguous_format
        exact = self.device.type == "cpu" and not self.forward.compile
        parts = []
        with AlignedProducts() if exact else contextlib.nullcontext():
            for chunk in in_chunks(images, ROWS) if exact else [in_company(images)]:
                with self.numerics():
                    found = look(chunk.contiguous(memory_format=layout))
                with tf32(self.forward.tf32):
                    parts.append(keep({name: value.float() for name, value in found.items()}))
        return {name: torch.cat([part[name] for part in parts])[: len(images)] for name in parts[0]}

    def exactness(self, images: Tensor) -> dict | None:
        """Measures whether an answer depends on the other images asked about; not of what is compiled."""
        return None if self.forward.compile else exactness(self.keeps, images)

    def prepare(self, loader: Loader) -> Mapping[str, Tensor]:
        return self.method.prepare(self.network, lambda: self.over(loader))

    def over(self, loader: Loader) -> Iterator[Look]:
        """What the network shows in one shuffled pass over the first view, for methods that prepare something."""
        for batch in loader.run(straight_plan(permutation(len(loader.source), 0), self.forward.batch)):
            yield {**self.looks(batch.images), "targets": batch.targets}

    @contextlib.contextmanager
    def numerics(self):
        half = self.forward.dtype == "bf16"
        with tf32(self.forward.tf32), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            yield


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of a product of f32; what the program has set comes back."""
    backends: Any = torch.backends
    switches, name, values = (backends.cuda.matmul, backends.cudnn), "allow_tf32", (False, True)
    if hasattr(backends, "fp32_precision"):  # since torch 2.9, which refuses the older switches once these are used
        switches, name = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn), "fp32_precision"
        values = ("ieee", "tf32")
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, values[allowed])
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)
