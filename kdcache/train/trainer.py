"""Networks, a method and an optimiser: what one training does with a batch and its knowledge."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.errors import KdcacheError, UsageError
from kdcache.measures import answered
from kdcache.methods import Method, labelled
from kdcache.models.heads import TAP
from kdcache.models.network import Network, watch
from kdcache.models.recompute import recomputed
from kdcache.train.average import Average
from kdcache.train.dot import Dot
from kdcache.train.gradients import Gradients
from kdcache.train.optim import Settings, lr_at, make_optimizer
from kdcache.train.tuning import Backbone
from kdcache.types import Batch, Knowledge, Look


@dataclass
class Stage:
    """Some epochs under one loss: the initialisation, or the main training."""

    name: str
    first: int  # epoch, from 1
    epochs: int


def stages(method: Method, epochs: int) -> list[Stage]:
    """A method that begins with an initialisation gets at least one epoch of it, and one of what follows."""
    if not method.init_share:
        return [Stage("main", 1, epochs)]
    if epochs < 2:
        raise UsageError("`epochs`", "2 or more, for the method has an initialisation stage", f"{epochs}", "try 30")
    init = min(epochs - 1, max(1, round(method.init_share * epochs)))
    return [Stage("init", 1, init), Stage("main", init + 1, epochs - init)]


def require_two_losses(method: Method) -> None:
    """Refuses a method without cross-entropy, or with nothing beside it, where each has a momentum of its own."""
    if not (method.ce and method.weights()):
        remedy = "take sgd, or a method such as st" if method.ce else "give cross-entropy a weight, as with ce=0.1"
        expected = "a loss of cross-entropy and of other terms"
        raise UsageError("`optimizer` dot", expected, method.described(), remedy)


class Trainer:
    """Students, a method and an optimiser, a step at a time."""

    def __init__(self, students: Sequence[Network], method: Method, settings: Settings, device: torch.device):
        self.students, self.method, self.settings, self.device = list(students), method, settings, device
        self.stages, self.stage = stages(method, settings.epochs), None
        for student in self.students:
            student.to(device)
            if settings.channels_last:
                student.to(memory_format=torch.channels_last)
        method.to(device)
        self.backbone = Backbone(self.students, settings)
        self.trained = [p for _, p in self.parameters() if p.requires_grad and not self.backbone.holds(p)]
        self.gradients = Gradients(self.trained, two=settings.optimizer == "dot")
        if self.gradients.two:
            require_two_losses(method)
        self.average = Average(self.students[0], settings.ema) if settings.ema else None
        self.looks: list[Callable] = []
        self.draws = Draws(device)
        self.epoch, self.lr = 0, 0.0
        self.seen = torch.zeros(2, device=device)  # of this epoch: images that got their label, and all with one
        self.totals: dict[str, Tensor] = {}  # of this epoch: the terms of the loss, each times its images

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All that is trained, by name: the students and the method's own parts."""
        for number, student in enumerate(self.students):
            yield from ((f"student{number}.{name}", p) for name, p in student.named_parameters())
        yield from ((f"method.{name}", p) for name, p in self.method.named_parameters())

    def held(self) -> int:
        """Bytes that it holds from step to step: weights, and what the optimiser keeps of each."""
        settings = self.settings
        kept = 2 if settings.optimizer != "sgd" else 1 if settings.momentum else 0
        return sum(value.nbytes for _, value in self.tensors()) + kept * sum(value.nbytes for value in self.trained)

    @contextlib.contextmanager
    def watching(self):
        """Installs the hooks on the students that the method needs, and takes them away again."""
        second = (TAP,) if self.method.two_heads else ()
        taps = tuple(dict.fromkeys(("logits", *self.method.taps, *self.method.student_taps, *second)))
        with contextlib.ExitStack() as stack:
            looks = [stack.enter_context(watch(student, taps)) for student in self.students]
            self.looks = [torch.compile(look) for look in looks] if self.settings.compile else looks
            for student in self.students if self.settings.grad_checkpoint else ():
                stack.enter_context(recomputed(student))
            self.backbone.hold()
            try:
                yield
            finally:
                self.backbone.release()

    def enter(self, stage: Stage) -> None:
        """Every stage has an optimiser and a schedule of its own."""
        if self.stage is None or self.stage.name != stage.name:
            self.stage = stage
            self.optimizer = make_optimizer(self.trained, self.settings, self.backbone.parameters)

    def begin(self, epoch: int) -> None:
        """Makes ready for an epoch, from 1."""
        self.epoch = epoch
        self.enter(next(stage for stage in reversed(self.stages) if stage.first <= epoch))
        for network in (*self.students, self.method):
            network.train()
        self.backbone.rest()
        self.draws.begin(self.settings.seed * 1_000_003 + epoch)
        self.seen.zero_()
        self.totals = {}

    def learn(self, batch: Batch, knowledge: Knowledge, done: float) -> dict[str, Tensor]:
        """A step, when such a share of the epoch is done, on a batch that others may have, too; what `step` gives."""
        begun = self.epoch - self.stage.first
        batch = replace(batch, epoch=begun + 1, epochs=self.stage.epochs)  # warm-ups begin anew in every stage
        self.lr = lr_at(self.settings, begun + done, self.stage.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group.get("factor", 1.0)
        with self.draws.own():
            terms = self.step(batch, knowledge)
        for name, value in terms.items():
            self.totals.setdefault(name, torch.zeros_like(value)).add_(value, alpha=len(batch))
        return terms

    def ended(self, images: int) -> dict:
        """The record of an epoch of so many images."""
        losses = {name: float(value) / images for name, value in self.totals.items()}
        right, labelled = self.seen.tolist()
        total = sum(losses.values())
        self.require_finite(total)
        record = {"epoch": self.epoch, "stage": self.stage.name, "lr": self.lr, "loss": losses, "total": total}
        return record | ({"train_top1": right / labelled} if labelled else {})

    def step(self, batch: Batch, knowledge: Knowledge) -> dict[str, Tensor]:
        """One step of the optimiser; the terms of the loss, free of their graph."""
        found: list[tuple[float, dict[str, Tensor]]] = []
        for part, known in parts(batch, knowledge, self.settings.accumulate, self.method.views):
            terms, clipped = self.terms(part, known)
            weight = len(part) / len(batch)
            self.gradients.add(terms, clipped, weight, self.stage.name)
            self.method.stepped()
            found.append((weight, {name: value.detach() for name, value in terms.items()}))
        self.gradients.finish(batch.epoch)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
        if isinstance(self.optimizer, Dot):
            self.optimizer.taught = self.gradients.taught
        self.optimizer.step()
        self.gradients.clear()
        if self.average:
            self.average.follow()
        return mean(found)

    def terms(self, batch: Batch, knowledge: Knowledge) -> tuple[dict[str, Tensor], set[str]]:
        """The terms of the loss, and which of them are clipped to the others."""
        images = batch.images
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.dtype == "bf16"):
            looks = [by_views(look, images, self.method.views) for look in self.looks]
        self.seen += answered(looks[0]["logits"].detach(), batch)
        terms: dict[str, Tensor] = {}
        clipped: set[str] = set()
        for number, look in enumerate(looks):
            peers = {"peers": others(looks, number)} if len(looks) > 1 else {}
            suffix = f".{number}" if number else ""
            found = self.method.loss(look, {**knowledge, **peers}, batch, self.stage.name)
            terms |= {name + suffix: value for name, value in found.items()}
            clipped |= {name + suffix for name in self.method.clipped}
        return terms, clipped

    def require_finite(self, total: float) -> None:
        """Refuses to go on, and so to save, once a loss or a weight is lost."""
        weights = [value for _, value in self.tensors() if value.is_floating_point()]
        if not math.isfinite(total):
            expected, found = "a finite loss", f"{total} in epoch {self.epoch}"
        elif not torch.stack([value.isfinite().all() for value in weights]).all():
            expected, found = "finite weights", f"NaN or infinity after epoch {self.epoch}"
        else:
            return
        raise KdcacheError("training", expected, found, "try a smaller `lr`, a longer `warmup` or `clip` 1")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the students and the method, by name; and of the mean of a student's weights."""
        for number, student in enumerate(self.students):
            yield from ((f"student{number}/{name}", value) for name, value in student.state_dict().items())
        yield from ((f"method/{name}", value) for name, value in self.method.state_dict().items())
        if self.average:
            yield from self.average.tensors()


def parts(batch: Batch, knowledge: Knowledge, count: int, views: int) -> Iterator[tuple[Batch, Knowledge]]:
    """A batch in so many parts, or in fewer: of less than two rows, batch norm has no statistics.

    Each has its rows in every one of the views that follow each other in the batch.
    """
    n = len(batch) // views
    count = max(1, min(count, n // 2))
    if count == 1:
        yield batch, knowledge
        return
    batch = replace(batch, whole=(labelled(batch).sum(), len(batch)))
    ends = [n * number // count for number in range(count + 1)]
    for start, end in pairwise(ends):
        each = [np.arange(start, end) + view * n for view in range(views)]
        rows = slice(start, end) if views == 1 else np.concatenate(each)
        yield batch.part(rows), {name: value[rows] for name, value in knowledge.items()}


def mean(found: list[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Of the terms of parts, by their weights."""
    if len(found) == 1:
        return found[0][1]
    names = dict.fromkeys(name for _, terms in found for name in terms)  # a part without answers has not all of them
    return {name: sum(weight * terms[name] for weight, terms in found if name in terms) for name in names}


def by_views(look: Callable[[Tensor], Look], images: Tensor, views: int) -> Look:
    """What a network shows of images, one view after the other: the statistics of BatchNorm are of one at a time."""
    if views == 1:
        return look(images)
    parts = [look(part) for part in images.tensor_split(views)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def others(looks: list[dict], number: int) -> Tensor:
    """The peers' logits, as constants: [n, K-1, C]."""
    return torch.stack([look["logits"].detach() for i, look in enumerate(looks) if i != number], 1)


class Draws:
    """torch's generators for one training, which only networks with dropout use: no other's draws move them."""

    def __init__(self, device: torch.device):
        self.generators = [torch.default_generator]
        if device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
            self.generators.append(torch.cuda.default_generators[number])
        self.states: list[Tensor] = []

    def begin(self, seed: int) -> None:
        self.states = [torch.Generator(one.device).manual_seed(seed % 2**63).get_state() for one in self.generators]

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        """Goes on where this training left them; afterwards they are as they were before."""
        before = [one.get_state() for one in self.generators]
        self._set(self.states)
        try:
            yield
        finally:
            self.states = [one.get_state() for one in self.generators]
            self._set(before)

    def _set(self, states: list[Tensor]) -> None:
        for one, state in zip(self.generators, states, strict=True):
            one.set_state(state)
