"""Networks, a method and an optimiser: what one training does with a batch, and with an epoch of them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcache.batches import Loader, training_plan
from kdcache.errors import KdcacheError, UsageError
from kdcache.measures import answered
from kdcache.methods import Method, clipped_gradients
from kdcache.models.network import watch
from kdcache.train.optim import Settings, lr_at, make_optimizer
from kdcache.train.records import peak_bytes
from kdcache.types import Batch


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


class Trainer:
    """Students, a method and an optimiser, an epoch at a time."""

    def __init__(self, students, method, teacher, loader, views, settings: Settings):
        self.students, self.method, self.teacher = list(students), method, teacher
        self.loader, self.views, self.settings = loader, views, settings
        self.device = loader.device
        require_labels(method, loader)
        self.stages, self.stage = stages(method, settings.epochs), None
        for student in self.students:
            student.to(self.device)
            if settings.channels_last:
                student.to(memory_format=torch.channels_last)
        method.to(self.device)
        self.trained = [p for _, p in self.parameters() if p.requires_grad]
        self.looks: list[Callable] = []
        self.seen = torch.zeros(2, device=self.device)  # of this epoch: images that got their label, and all with one

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
            looks = [stack.enter_context(watch(student, taps)) for student in self.students]
            self.looks = [torch.compile(look) for look in looks] if self.settings.compile else looks
            yield

    def remaining(self, done: int) -> Iterator[tuple[Stage, int]]:
        for stage in self.stages:
            for epoch in range(max(stage.first, done + 1), stage.first + stage.epochs):
                yield stage, epoch

    def enter(self, stage: Stage) -> None:
        """Every stage has an optimiser and a schedule of its own."""
        if self.stage is None or self.stage.name != stage.name:
            self.stage = stage
            self.optimizer = make_optimizer(self.trained, self.settings)

    def epoch(self, stage: Stage, epoch: int, progress: Callable) -> dict:
        """One pass over the data; its record."""
        self.enter(stage)
        for network in (*self.students, self.method):
            network.train()
        plan = training_plan(len(self.loader.source), self.views, epoch, self.settings.batch, self.settings.seed)
        label = f"epoch {epoch}/{self.settings.epochs}" + (" (init)" if stage.name == "init" else "")
        batches = progress(self.loader.run(plan, epoch - stage.first + 1), total=len(plan), desc=label)
        started, images = time.perf_counter(), sum(len(items) for items in plan)
        self.seen.zero_()
        totals: dict[str, Tensor] = {}
        with drawing(self.device, self.settings.seed * 1_000_003 + epoch):
            for step, batch in enumerate(batches):
                lr = lr_at(self.settings, epoch - stage.first + step / len(plan), stage.epochs)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                for name, value in self.step(batch).items():
                    totals.setdefault(name, torch.zeros_like(value)).add_(value, alpha=len(batch))
        losses = {name: float(value) / images for name, value in totals.items()}
        right, labelled = self.seen.tolist()
        seconds, total = time.perf_counter() - started, sum(losses.values())
        self.require_finite(total, epoch)
        measures = {"train_top1": right / labelled} if labelled else {}
        measures |= {"images_per_second": round(images / seconds, 1), "train_seconds": round(seconds, 3)}
        measures["peak_bytes"] = peak_bytes(self.device)
        return {"epoch": epoch, "stage": stage.name, "lr": lr, "loss": losses, "total": total} | measures

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimiser; the terms of the loss, free of their graph."""
        knowledge, images = self.teacher(batch), batch.images
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.dtype == "bf16"):
            looks = [look(images) for look in self.looks]
        self.seen += answered(looks[0]["logits"].detach(), batch)
        terms: dict[str, Tensor] = {}
        clipped: set[str] = set()
        for number, look in enumerate(looks):
            peers = {"peers": others(looks, number)} if len(looks) > 1 else {}
            suffix = f".{number}" if number else ""
            found = self.method.loss(look, {**knowledge, **peers}, batch, self.stage.name)
            terms |= {name + suffix: value for name, value in found.items()}
            clipped |= {name + suffix for name in self.method.clipped}
        self.backward(terms, clipped, batch)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
        self.optimizer.step()
        for parameter in self.trained:
            parameter.grad = None
        return {name: value.detach() for name, value in terms.items()}

    def backward(self, terms: dict[str, Tensor], clipped: set[str], batch: Batch) -> None:
        """Gradients of the sum; those of the clipped terms are held to the size of all others'."""
        held = [value for name, value in terms.items() if name in clipped]
        rest = [value for name, value in terms.items() if name not in clipped]
        if not rest:
            found = "nothing" if not held else f"only {', '.join(terms)}, clipped against it"
            place, remedy = f"stage {self.stage.name}", "give cross-entropy a weight, as with ce=1"
            raise UsageError(place, "a loss to minimise", found, remedy)
        if not held:
            sum(rest).backward()
            return
        first = torch.autograd.grad(sum(rest), self.trained, retain_graph=True, allow_unused=True)
        second = torch.autograd.grad(sum(held), self.trained, allow_unused=True)
        for parameter, gradient in zip(self.trained, clipped_gradients(first, second, batch.epoch), strict=True):
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)  # fused optimisers do not look at strides
            parameter.grad = gradient

    def require_finite(self, total: float, epoch: int) -> None:
        """Refuses to go on, and so to save, once a loss or a weight is lost."""
        weights = [value for _, value in self.tensors() if value.is_floating_point()]
        if not math.isfinite(total):
            expected, found = "a finite loss", f"{total} in epoch {epoch}"
        elif not torch.stack([value.isfinite().all() for value in weights]).all():
            expected, found = "finite weights", f"NaN or infinity after epoch {epoch}"
        else:
            return
        raise KdcacheError("training", expected, found, "try a smaller `lr`, a longer `warmup` or `clip` 1")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the students and the method, by name."""
        for number, student in enumerate(self.students):
            yield from ((f"student{number}/{name}", value) for name, value in student.state_dict().items())
        yield from ((f"method/{name}", value) for name, value in self.method.state_dict().items())


def require_labels(method: Method, loader: Loader) -> None:
    """Refuses images of two classes where a method's formula knows one."""
    if method.one_label and (mixing := loader.mixing):
        remedy = "take a method such as st, or do not mix"
        raise UsageError("method", "images of one class each, as its formula has them", f"{mixing.name}", remedy)


def others(looks: list[dict], number: int) -> Tensor:
    """The peers' logits, as constants: [n, K-1, C]."""
    return torch.stack([look["logits"].detach() for i, look in enumerate(looks) if i != number], 1)


@contextlib.contextmanager
def drawing(device: torch.device, seed: int) -> Iterator[None]:
    """torch's generators, which only networks with dropout use, begin at a seed and are left as they were."""
    own = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(own):
        torch.default_generator.manual_seed(seed % 2**63)  # torch.manual_seed would reseed every GPU
        if own:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed % 2**63)
        yield
