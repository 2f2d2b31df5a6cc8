"""Networks, a method and an optimiser: what one training does with a batch and its knowledge."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.errors import KdcacheError, UsageError
from kdcache.measures import answered
from kdcache.methods import Method
from kdcache.models.heads import TAP
from kdcache.models.network import Network, watch
from kdcache.models.recompute import recomputed
from kdcache.train.average import Average
from kdcache.train.cut import Cut
from kdcache.train.dot import Dot
from kdcache.train.gradients import Gradients
from kdcache.train.optim import Settings, lr_at, make_optimizer
from kdcache.train.sync_norm import synchronised
from kdcache.train.team import ONE_PROCESS, Team, together
from kdcache.train.tuning import Backbone
from kdcache.types import Batch, Knowledge, Look


@dataclass
class Stage:
    """Some epochs under one loss: the initialisation, or the main training."""

    name: str
    first: int  # epoch, from 1
    epochs: int


BEFORE = Stage("", 0, 0)  # none has been entered


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

    def __init__(
        self,
        students: Sequence[Network],
        method: Method,
        settings: Settings,
        device: torch.device,
        team: Team = ONE_PROCESS,
    ):
        self.team, self.unlabelled = team, False
        self.students, self.method, self.settings, self.device = list(students), method, settings, device
        self.stages, self.stage = stages(method, settings.epochs), BEFORE
        for student in self.students:
            student.to(device)
            if settings.channels_last:
                student.to(memory_format=torch.channels_last)
        method.to(device)
        self.backbone = Backbone(self.students, settings)
        self.trained = [p for _, p in self.parameters() if p.requires_grad and not self.backbone.holds(p)]
        self.gradients = Gradients(self.trained, two=settings.optimizer == "dot")
        self.gradients.clear()  # a module of the user's may bring some along
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
            if self.settings.sync_bn:
                stack.enter_context(synchronised([*self.students, self.method], self.team))
            self.backbone.hold()
            try:
                yield
            finally:
                self.backbone.release()

    def enter(self, stage: Stage) -> None:
        """Every stage has an optimiser and a schedule of its own."""
        if self.stage.name != stage.name:
            self.stage = stage
            self.optimizer = make_optimizer(self.trained, self.settings, self.backbone.parameters)

    def begin(self, epoch: int) -> None:
        """Makes ready for an epoch, from 1."""
        self.epoch = epoch
        self.enter(next(stage for stage in reversed(self.stages) if stage.first <= epoch))
        for network in (*self.students, self.method):
            network.train()
        self.backbone.rest()
        self.draws.begin(self.settings.seed * 1_000_003 + epoch + self.team.rank * 1_000_000_007)
        self.seen.zero_()
        self.totals = {}

    def learn(
        self, batch: Batch, knowledge: Knowledge, done: float, items: np.ndarray | None = None
    ) -> dict[str, Tensor]:
        """A step, when such a share of the epoch is done, on a batch that others may have, too; what `step` gives.

        `items` are those of the whole batch, where other processes see the rest of it.
        """
        begun = self.epoch - self.stage.first
        batch = replace(batch, epoch=begun + 1, epochs=self.stage.epochs)  # warm-ups begin anew in every stage
        self.lr = lr_at(self.settings, begun + done, self.stage.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group.get("factor", 1.0)
        with self.draws.own():
            return self.step(batch, knowledge, items)

    def ended(self, images: int) -> dict:
        """The record of an epoch of so many images; all processes have the same, and the same buffers from here on."""
        losses = {name: float(self.team.total(value)) / images for name, value in self.totals.items()}
        right, labelled = self.team.total(self.seen).tolist()
        self.team.level([*self.students, self.method, *([self.average.network] if self.average else [])])
        total = sum(losses.values())
        self.require_finite(total)
        record = {"epoch": self.epoch, "stage": self.stage.name, "lr": self.lr, "loss": losses, "total": total}
        return record | ({"train_top1": right / labelled} if labelled else {})

    def step(self, batch: Batch, knowledge: Knowledge, items: np.ndarray | None = None) -> dict[str, Tensor]:
        """One step of the optimiser; the terms of the loss on the rows that are seen here, free of their graph."""
        cut = Cut(self.team, batch.items if items is None else items, self.method.views, self.settings.accumulate)
        batch = cut.counted(batch, self.unlabelled)
        found: list[tuple[float, dict[str, Tensor]]] = []
        for number in range(cut.count):
            part, known = cut.part(batch, knowledge, number)
            looks, share = self.looks_of(part, cut.spread / self.team.size), len(part) / len(batch)
            if compared := cut.spread > 1 and (self.method.batch_matters or self.method.remembers):
                looks, known, part = together(self.team, looks, known, part, cut.items, cut.everywhere(number))
            terms, clipped = self.terms(looks, known, part)
            self.gradients.add(terms, clipped, cut.weight(part, compared), self.stage.name)
            self.method.stepped()
            found.append((share, {name: value.detach() for name, value in terms.items()}))
            self.count(found[-1][1], cut.weight(part, compared) * len(cut.items))
        self.gradients.finish(batch.epoch, self.team)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
        if isinstance(self.optimizer, Dot):
            self.optimizer.taught = self.gradients.taught
        self.optimizer.step()
        self.gradients.clear()
        if self.average:
            self.average.follow()
        return mean(found)

    def looks_of(self, batch: Batch, share: float = 1.0) -> list[Look]:
        """What every student shows of a batch, whose right answers count so much."""
        images = batch.images
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.dtype == "bf16"):
            looks = [by_views(look, images, self.method.views) for look in self.looks]
        self.seen.add_(answered(looks[0]["logits"].detach(), batch), alpha=share)
        return looks

    def terms(self, looks: list[Look], knowledge: Knowledge, batch: Batch) -> tuple[dict[str, Tensor], set[str]]:
        """The terms of the loss, and which of them are clipped to the others."""
        terms: dict[str, Tensor] = {}
        clipped: set[str] = set()
        for number, look in enumerate(looks):
            peers = {"peers": others(looks, number)} if len(looks) > 1 else {}
            suffix = f".{number}" if number else ""
            found = self.method.loss(look, {**knowledge, **peers}, batch, self.stage.name)
            terms |= {name + suffix: value for name, value in found.items()}
            clipped |= {name + suffix for name in self.method.clipped}
        return terms, clipped

    def count(self, terms: dict[str, Tensor], images: float) -> None:
        """Adds terms of so many images to the totals of the epoch."""
        for name, value in terms.items():
            self.totals.setdefault(name, torch.zeros_like(value)).add_(value, alpha=images)

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


def mean(found: list[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Of the terms of parts, by their weights."""
    if len(found) == 1:
        return found[0][1]
    names = dict.fromkeys(name for _, terms in found for name in terms)  # a part without answers has not all of them
    return {name: reduce(torch.add, [part * terms[name] for part, terms in found if name in terms]) for name in names}


def by_views(look: Callable[[Tensor], Look], images: Tensor, views: int) -> Look:
    """What a network shows of images, one view after the other: the statistics of BatchNorm are of one at a time."""
    if views == 1:
        return look(images)
    parts = [look(part) for part in images.tensor_split(views)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def others(looks: Sequence[Look], number: int) -> Tensor:
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
