"""The one training loop: teachers, plain students, students of a cache, of a live teacher, and of each other.

for epoch: for batch: looks, knowledge -> method.loss -> step;  then evaluate, log, save
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcache.batches import Loader, training_plan
from kdcache.errors import KdcacheError
from kdcache.methods import Method, clipped_gradients
from kdcache.models.network import Network, watch
from kdcache.models.weights import save
from kdcache.runs import Run
from kdcache.sources.arrays import quiet
from kdcache.teachers import Teacher
from kdcache.train.evaluate import Evaluation
from kdcache.train.optim import Settings, lr_at, make_optimizer
from kdcache.train.state import read_state, restore, save_state
from kdcache.types import Batch


@dataclass
class Stage:
    """Some epochs under one loss: the initialisation, or the main training."""

    name: str
    first: int  # epoch, from 1
    epochs: int


def stages(method: Method, epochs: int) -> list[Stage]:
    init = min(epochs - 1, round(method.init_share * epochs))
    main = Stage("main", init + 1, epochs - init)
    return [Stage("init", 1, init), main] if init else [main]


def fit(
    students: Sequence[Network],
    method: Method,
    teacher: Teacher,
    loader: Loader,
    views: int,
    settings: Settings,
    evaluation: Evaluation | None = None,
    run: Run | None = None,
    resume: bool = False,
    progress: Callable = quiet,
) -> list[dict]:
    """Trains the students together, and gives the records of all epochs."""
    trainer = Trainer(students, method, teacher, loader, views, settings)
    records, done, best = [], 0, -1.0
    if run and resume and run.path("state.safetensors").exists():
        done, best = trainer.load(run)
        run.forget_after(done)
        records = list(run.records())
    with trainer.watching():
        for stage, epoch in trainer.remaining(done):
            record = trainer.epoch(stage, epoch, progress)
            if evaluation:
                record |= evaluation(students[0])
            records.append(record)
            if run:
                run.log(record)
                best = keep(run, students[0], record, best)
                trainer.save(run, epoch, best)
    return records


def keep(run: Run, student: Network, record: dict, best: float) -> float:
    """Saves the last network, and the best by accuracy; the score of the best."""
    score = record.get("top1", -record["total"])
    facts = {"epoch": record["epoch"]} | {name: record[name] for name in ("top1", "agreement") if name in record}
    save(student, run.path("last.safetensors"), **facts)
    if score > best:
        save(student, run.path("best.safetensors"), **facts)
    return max(best, score)


class Trainer:
    """Students, a method and an optimiser, an epoch at a time."""

    def __init__(self, students, method, teacher, loader, views, settings: Settings):
        self.students, self.method, self.teacher = list(students), method, teacher
        self.loader, self.views, self.settings = loader, views, settings
        self.device = loader.device
        self.stage: Stage | None = None
        for student in self.students:
            student.to(self.device)
            if settings.channels_last:
                student.to(memory_format=torch.channels_last)
        method.to(self.device)
        self.looks: list[Callable] = []

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All that is trained, by name: the students and the method's own parts."""
        for number, student in enumerate(self.students):
            yield from ((f"student{number}.{name}", p) for name, p in student.named_parameters())
        yield from ((f"method.{name}", p) for name, p in self.method.named_parameters())

    @contextlib.contextmanager
    def watching(self):
        """Installs the hooks on the students that the method needs, and takes them away again."""
        taps = tuple(dict.fromkeys(("logits", *self.method.taps)))
        with contextlib.ExitStack() as stack:
            self.looks = [stack.enter_context(watch(student, taps)) for student in self.students]
            yield

    def remaining(self, done: int) -> Iterator[tuple[Stage, int]]:
        for stage in stages(self.method, self.settings.epochs):
            for epoch in range(max(stage.first, done + 1), stage.first + stage.epochs):
                yield stage, epoch

    def enter(self, stage: Stage) -> None:
        """Every stage has an optimiser and a schedule of its own."""
        if self.stage is None or self.stage.name != stage.name:
            self.stage = stage
            self.optimizer = make_optimizer((p for _, p in self.parameters()), self.settings)

    def epoch(self, stage: Stage, epoch: int, progress: Callable) -> dict:
        """One pass over the data; its record."""
        self.enter(stage)
        settings, n = self.settings, len(self.loader.source)
        torch.manual_seed(settings.seed * 1_000_003 + epoch)  # for networks with dropout: resuming must not shift it
        for network in (*self.students, self.method):
            network.train()
        plan = training_plan(n, self.views, epoch, settings.batch, settings.seed)
        label = f"epoch {epoch}/{settings.epochs}" + (" (init)" if stage.name == "init" else "")
        totals: dict[str, Tensor] = {}
        started, images = time.perf_counter(), sum(len(items) for items in plan)
        for step, batch in enumerate(
            progress(self.loader.run(plan, epoch - stage.first + 1), total=len(plan), desc=label)
        ):
            lr = lr_at(settings, epoch - stage.first + step / len(plan), stage.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            for name, value in self.step(batch).items():
                totals[name] = totals.get(name, 0) + value.detach() * len(batch)
        losses = {name: float(value) / images for name, value in totals.items()}
        seconds = time.perf_counter() - started
        total = sum(losses.values())
        if not math.isfinite(total):
            found = f"{total} in epoch {epoch}"
            raise KdcacheError("training", "a finite loss", found, "try a smaller --lr, a longer --warmup or --clip 1")
        speed = round(images / seconds, 1)
        return {"epoch": epoch, "stage": stage.name, "lr": lr, "loss": losses, "total": total} | {
            "images_per_second": speed,
            "seconds": round(seconds, 3),
        }

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimiser; the terms of the loss."""
        if self.settings.channels_last:
            batch.images = batch.images.contiguous(memory_format=torch.channels_last)
        knowledge = self.teacher(batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.dtype == "bf16"):
            looks = [look(batch.images) for look in self.looks]
        terms: dict[str, Tensor] = {}
        for number, look in enumerate(looks):
            peers = {"peers": others(looks, number)} if len(looks) > 1 else {}
            found = self.method.loss(look, {**knowledge, **peers}, batch, self.stage.name)
            terms |= {name if number == 0 else f"{name}.{number}": value for name, value in found.items()}
        self.backward(terms, batch)
        if self.settings.clip:
            nn.utils.clip_grad_norm_([p for _, p in self.parameters()], self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return terms

    def backward(self, terms: dict[str, Tensor], batch: Batch) -> None:
        """Gradients of the sum; those of a method's clipped terms are held to the size of all others'."""
        clipped = sum(value for name, value in terms.items() if name in self.method.clipped)
        rest = sum(value for name, value in terms.items() if name not in self.method.clipped)
        if isinstance(clipped, int):
            rest.backward()
            return
        parameters = [p for _, p in self.parameters() if p.requires_grad]
        first = torch.autograd.grad(rest, parameters, retain_graph=True, allow_unused=True)
        second = torch.autograd.grad(clipped, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, clipped_gradients(first, second, batch.epoch), strict=True):
            parameter.grad = gradient

    def save(self, run: Run, epoch: int, best: float) -> None:
        save_state(run.path("state.safetensors"), self, epoch, best)

    def load(self, run: Run) -> tuple[int, float]:
        """Continues where a run was left: the epochs that are done, and the best score."""
        facts, tensors = read_state(run.path("state.safetensors"))
        self.enter(next(s for s in stages(self.method, self.settings.epochs) if s.name == facts["stage"]))
        restore(self, tensors)
        return facts["epoch"], facts["best"]


def others(looks: list[dict], number: int) -> Tensor:
    """The peers' logits, as constants: [n, K-1, C]."""
    return torch.stack([look["logits"].detach() for i, look in enumerate(looks) if i != number], 1)
