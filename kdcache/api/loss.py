"""The loss of any method for a training loop of one's own, which knows sample-views by their numbers."""

from __future__ import annotations

import dataclasses
import warnings
from functools import reduce

import numpy as np
import torch
from torch import Tensor, distributed, nn

from kdcache.api.dataset import NumberedImages
from kdcache.errors import KdcacheWarning, UsageError
from kdcache.jobs import SMOOTHING
from kdcache.methods import Method, build
from kdcache.models.heads import TAP, with_second_head
from kdcache.models.network import Network, Watched, check_output, logits_in, shapes
from kdcache.teachers import Answers, Cached, CacheTeacher, no_teacher
from kdcache.train.loop import require_labels
from kdcache.train.trainer import Stage, stages
from kdcache.types import Batch, Shapes


class KnowledgeLoss(nn.Module):
    """The loss of a method, whose answers are read here, in the main process, on the device of the student's logits.

    images    `CachedDataset(...).numbered()`: its targets are pairs of a label and an item number
    method    what `kdcache train-student` takes: "st", "st:0.9+at:1000", ... It has its own cross-entropy
    student   the network that is trained, before anything is wrapped around it; where the method looks into it, or
              trains parts beside it: those are `parameters()` of the loss, and belong into the optimiser
    taps      of the student, by the paths of what is in it: "f1=layer1,f2=layer2,f3=layer3,emb=avgpool"
    epochs    of the whole training, for methods that begin otherwise than they go on

    It is called with the student's answer, a tensor or an object with `logits`, and a batch of targets. The labels are
    those of the item numbers; the ones in the targets are compared with them.

    >>> import kdcache
    >>> images = kdcache.CachedDataset("logits.h5").numbered()
    >>> knowledge_loss = KnowledgeLoss(images, "st")
    >>> for batch, targets in DataLoader(images, 128, shuffle=True):
    ...     loss = knowledge_loss(torch.zeros(len(batch), 10, requires_grad=True), targets)
    """

    def __init__(
        self, images: NumberedImages, method: str = "st", student: nn.Module | None = None, *, taps: str | None = None,
        epochs: int | None = None, label_smoothing: float = 0.0, seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.images, self.text, self.epochs, data = images, method, epochs, images.data
        self.taught, self.size = Cached(data.cache), data.loader.view.size
        network = None if student is None else looked_into(images, student, taps, seed)
        self.method = chosen(images, method, network, self.taught.shapes(data.opened.image), seed)
        self.method.smooth(SMOOTHING.checked("`label_smoothing`", label_smoothing))
        self.names = self.taught.read_by(self.method, self.taught.shapes(data.opened.image), method)
        self.method.meet(torch.from_numpy(data.source.labels))
        self.watched = watched(self.method, network, method, seed)
        self.stages = stages_of(self.method, epochs, method)
        self.pending = False  # whether the last loss has had its step
        self.seen: tuple[int | None, int] = (None, 0)  # the epoch, and how many rows of it
        self._answers: Answers = no_teacher
        self._move(torch.device("cpu") if network is None else network.normalize.mean.device)

    def extra_repr(self) -> str:
        return f"{self.method.described()}, from {str(self.images.data.cache.path)!r}"

    def forward(self, outputs, targets: Tensor) -> Tensor:
        return reduce(torch.add, self.terms(outputs, targets).values())

    def terms(self, outputs, targets: Tensor) -> dict[str, Tensor]:
        """Named, weighted terms whose sum is the loss."""
        if self.method.remembers:
            require_one_process(self.text)
        logits = logits_in(outputs)
        if logits.device != self.device:
            self._move(logits.device)
        if self.pending:
            self.method.stepped()
        look = {"logits": logits}
        if self.watched:
            look = self.watched.look(logits, self.size)
            self.watched.begin()
        batch, stage = self.batch(targets)
        terms = self.method.loss(look, self._answers(batch), batch, stage)
        self.pending = torch.is_grad_enabled()
        return terms

    def batch(self, targets: Tensor) -> tuple[Batch, str]:
        """What a method is told of these rows, and the stage that the training is in."""
        loader, items = self.images.data.loader, self._items(targets)
        seeds = loader.seeds.seeds_of(items) if loader.view.mixes else np.empty(0, np.int64)
        batch = loader.batch(items, torch.empty(0, dtype=torch.uint8), seeds, None)
        for name in ("targets", "others", "shares"):
            if (value := getattr(batch, name)) is not None:
                setattr(batch, name, value.to(self.device, non_blocking=True))
        self._count(len(items))
        epoch = self.images.epoch
        if epoch is None and self.stages:
            remedy = "call set_epoch(epoch), from 0, on the data set before each epoch"
            raise UsageError(f"method {self.text}", f"an epoch out of {self.epochs}", "none", remedy)
        if epoch is None or not self.stages:
            return dataclasses.replace(batch, epoch=None if epoch is None else epoch + 1), "main"
        stage = next(stage for stage in reversed(self.stages) if stage.first <= epoch + 1)
        return dataclasses.replace(batch, epoch=epoch + 2 - stage.first, epochs=stage.epochs), stage.name

    def _items(self, targets: Tensor) -> np.ndarray:
        data, expected = self.images.data, "int64 [n, 2], a label and an item number for each row"
        remedy = "give the targets as CachedDataset.numbered() gives them"
        if targets.ndim != 2 or targets.shape[1] != 2 or targets.is_floating_point():
            raise UsageError("targets", expected, f"{targets.dtype} {list(targets.shape)}", remedy)
        labels, items = targets.detach().cpu().numpy().T
        if (outside := (items < 0) | (items >= len(data))).any():
            raise UsageError("targets", f"item numbers from 0 to {len(data) - 1}", f"{items[outside][0]}", remedy)
        if (wrong := data.source.labels[items % len(data.source)] != labels).any():
            item, label = int(items[wrong][0]), int(labels[wrong][0])
            found = f"item {item} with label {label}, where the data has {data.source.labels[item % len(data.source)]}"
            raise UsageError("targets", "the label of each item", found, remedy)
        return items.astype(np.int64)

    def _count(self, rows: int) -> None:
        """Warns where every epoch is shown in the same view, since nobody has told the data set."""
        epoch = self.images.epoch
        before = self.seen[1] if self.seen[0] == epoch else 0
        self.seen = (epoch, before + rows)
        limit, views = 2 * len(self.images), self.images.data.views
        if before <= limit < before + rows and views > 1:
            told = "call set_epoch(epoch) on the data set before each epoch"
            warnings.warn(f"a third pass shows the same one of {views} views: {told}", KdcacheWarning, stacklevel=2)

    def _move(self, device: torch.device) -> None:
        self.device = device
        self.method.to(device)
        if self.names:
            self._answers = CacheTeacher(self.images.data.cache, self.names, device)


def looked_into(images: NumberedImages, student: nn.Module, taps: str | None, seed: int) -> Network:
    """A student as a Network, which shows its taps; it is checked to answer such images."""
    opened = images.data.opened
    network = opened.network(student, seed)
    for parameter in list(student.parameters())[:1]:
        network.normalize.to(parameter.device, parameter.dtype)
    check_output(network, opened.image)
    return opened.tapped(network, taps)


def chosen(images: NumberedImages, text: str, network: Network | None, teacher: Shapes, seed: int) -> Method:
    """The method, where a loop of one's own can run it."""
    data = images.data
    student = shapes(network, network.taps, data.opened.image) if network else {"logits": (len(data.classes),)}
    method = build(text, student, teacher, seed=seed)
    place, remedy = f"method {text}", "train it with kdcache.Distiller"
    if method.students > 1:
        raise UsageError(place, "a method of one student", f"one of {method.students}", remedy)
    if method.views > 1:
        found = f"one that is shown {method.views} views of each row in a step"
        raise UsageError(place, "a method of one view", found, remedy)
    if method.clips_to_ce:
        found = "one that clips the gradients of some terms before they are added"
        raise UsageError(place, "a method that is a loss", found, remedy)
    require_labels(method, data.loader)
    if method.needs_labels:
        data.opened.require_labels("method", text)
    return method


def require_one_process(text: str) -> None:
    """For methods that keep what rows were mapped to; asked at each loss, as trainers make their processes late."""
    if distributed.is_initialized() and (world := distributed.get_world_size()) > 1:
        place, remedy = f"method {text}", "train it with torchrun -m kdcache train-student"
        raise UsageError(place, "one process, since it keeps what all rows say", f"{world}", remedy)


def watched(method: Method, network: Network | None, text: str, seed: int) -> Watched | None:
    """What the student shows beside its logits whenever it is run; None where the method asks for nothing else."""
    if network and method.two_heads:
        network = with_second_head(network, seed)
    wanted = dict.fromkeys(("logits", *method.taps, *method.student_taps, *((TAP,) if method.two_heads else ())))
    if list(wanted) == ["logits"]:
        return None
    if network is None:
        found = "nothing but its logits"
        raise UsageError(f"method {text}", f"a student that shows {', '.join(wanted)}", found, "give the `student`")
    found = Watched(network, wanted)
    found.begin()
    return found


def stages_of(method: Method, epochs: int | None, text: str) -> list[Stage]:
    """The stages of a training of so many epochs; none where nobody says how many."""
    if epochs is not None:
        return stages(method, epochs)
    if method.init_share or method.fades:
        found = f"nothing, where {'it begins with another loss' if method.init_share else 'a term fades away'}"
        raise UsageError(f"method {text}", "`epochs`, those of the training", found, "give them")
    return []
