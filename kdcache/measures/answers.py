"""What a network answers to labelled images, beside what a teacher answers: all that measures are counted from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kdcache import lazy_torch as torch
from kdcache.types import Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Outcome:
    """The logits of some images, their labels (-1: none), and the logits of a teacher where there is one.

    Rows without a label count for what needs none. Sums are taken in f64.
    """

    logits: Tensor
    targets: Tensor
    teacher: Tensor | None = None

    def __post_init__(self):
        if self.logits.device.type == "mps":  # which has no f64
            self.logits = self.logits.cpu()
        here = self.logits.device
        self.targets = self.targets.to(here)
        self.teacher = None if self.teacher is None else self.teacher.to(here)

    @property
    def rows(self) -> int:
        return len(self.logits)

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @cached_property
    def labelled(self) -> Tensor:
        """Which rows have a label."""
        return self.targets >= 0

    @cached_property
    def labels(self) -> Tensor:
        """Of the rows that have one."""
        return self.targets[self.labelled]

    @cached_property
    def answers(self) -> Tensor:
        """The likeliest class of each row."""
        return self.logits.argmax(1)

    @cached_property
    def right(self) -> Tensor:
        """Which of the labelled rows are answered with their label."""
        return self.answers[self.labelled] == self.labels

    @cached_property
    def sound(self) -> bool:
        """Whether all logits are finite; else there are no probabilities."""
        return bool(self.logits.isfinite().all())

    @cached_property
    def log_p(self) -> Tensor:
        """f64 [rows, classes]."""
        return self.logits.double().log_softmax(1)

    @cached_property
    def confidence(self) -> Tensor:
        """f64: how likely the answer to each labelled row is said to be."""
        return self.log_p[self.labelled].max(1).values.exp()

    def per_class(self, classes: Tensor) -> Tensor:
        """int64 [C]: how many of these class numbers are each."""
        return torch.bincount(classes, minlength=self.classes)

    @cached_property
    def of_label(self) -> Tensor:
        """int64 [C]: how many rows have each label; `of_answer`: have a label and got that answer; `hits`: both."""
        return self.per_class(self.labels)

    @cached_property
    def of_answer(self) -> Tensor:
        return self.per_class(self.answers[self.labelled])

    @cached_property
    def hits(self) -> Tensor:
        return self.per_class(self.labels[self.right])

    def confusion(self) -> Tensor:
        """int64 [C, C]: how many rows of each label got each answer."""
        cells = self.labels * self.classes + self.answers[self.labelled]
        return torch.bincount(cells, minlength=self.classes**2).view(self.classes, self.classes)


def answered(logits: Tensor, batch: Batch) -> Tensor:
    """Of a batch, [how many got their label, how many have one]; a mixed image counts for both of its labels."""
    answers = logits.argmax(1)
    pairs: list[tuple[Tensor, Tensor | None]] = [(batch.targets, None)]
    if batch.shares is not None and batch.others is not None:
        pairs = [(batch.targets, batch.shares), (batch.others, 1 - batch.shares)]
    found = torch.zeros(2, device=logits.device)
    for targets, share in pairs:
        both = torch.stack([answers == targets, targets >= 0]).float()
        found += (both if share is None else both * share).sum(1)
    return found
