"""The table of measures: what `evaluate`, the log, tables and reports show of a network, of its time and of its size.

A new one is a function of `formulas.py` and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kdcache.measures import formulas
from kdcache.measures.answers import Outcome, answered
from kdcache.wording import duration, readable

__all__ = ["MEASURES", "NUMBERS", "Measure", "Outcome", "answered", "every", "numbers", "shown"]

Need: TypeAlias = Literal["labels", "teacher", "finite"]


@dataclass(frozen=True)
class Measure:
    """What is measured, how, and how it is shown."""

    title: str
    help: str
    unit: Literal["share", "nats", "seconds", "images/s", "bytes", "images", "parameters"]
    compute: Callable[[Outcome], object] | None = None  # None: the clock, the system or the file says it
    needs: frozenset[Need] = frozenset()
    larger: bool | None = None  # whether that is better; None: neither is
    shape: Literal["number", "classes", "table"] = "number"

    def of(self, found: Outcome):
        """Its value; None where there is nothing that it could be measured of."""
        there = {
            "labels": len(found.labels),
            "teacher": found.teacher is not None and found.rows,
            "finite": found.sound,
        }
        return self.compute(found) if self.compute and all(there[need] for need in self.needs) else None

    def text(self, value: float | None) -> str:
        """A number as people read it.

        >>> MEASURES["top1"].text(0.98765), MEASURES["nll"].text(0.12345), MEASURES["peak_bytes"].text(3 << 30)
        ('98.77 %', '0.1235', '3.22 GB')
        """
        return "-" if value is None else UNITS[self.unit](value)


UNITS: dict[str, Callable[[float], str]] = {
    "share": lambda value: f"{100 * value:.2f} %",
    "nats": lambda value: f"{value:.4f}",
    "seconds": duration,
    "images/s": lambda value: f"{value:,.0f}",
    "bytes": readable,
    "images": lambda value: f"{value:,.0f}",
    "parameters": lambda value: f"{value:,.0f}",
}

LABELS: frozenset[Need] = frozenset({"labels"})
TEACHER: frozenset[Need] = frozenset({"teacher"})
SURE: frozenset[Need] = LABELS | {"finite"}  # what needs probabilities, too
COMPARED: frozenset[Need] = TEACHER | {"finite"}

MEASURES: dict[str, Measure] = {
    "top1": Measure("accuracy", "images that are answered with their label", "share", formulas.top1, LABELS, True),
    "top5": Measure("top-5", "label among the five likeliest of more than five", "share", formulas.top5, LABELS, True),
    "precision": Measure(
        "precision", "of the answers of a class, those that are right; mean over classes", "share",
        formulas.precision, LABELS, True,
    ),
    "recall": Measure(
        "recall", "of the images of a class, those that are answered with it; mean over classes", "share",
        formulas.recall, LABELS, True,
    ),
    "f1": Measure(
        "F1", "harmonic mean of precision and recall; mean over classes", "share", formulas.f1, LABELS, True
    ),
    "agreement": Measure(
        "agreement", "images that get the teacher's likeliest class: top-1 match", "share",
        formulas.agreement, TEACHER, True,
    ),
    "nll": Measure("NLL", "negative log-likelihood of the label", "nats", formulas.nll, SURE, False),
    "ece": Measure(
        "ECE", "expected calibration error: confidence against accuracy, in 15 bins", "share",
        formulas.ece, SURE, False,
    ),
    "kl": Measure("KL", "divergence from the teacher's answer, at T = 1", "nats", formulas.kl, COMPARED, False),
    "finite": Measure("finite", "0 where an answer is infinite or no number", "share", formulas.finite, larger=True),
    "images_by_class": Measure(
        "images", "of each class", "images", formulas.images_by_class, LABELS, shape="classes"
    ),
    "precision_by_class": Measure(
        "precision", "of each class", "share", formulas.precision_by_class, LABELS, True, "classes"
    ),
    "recall_by_class": Measure(
        "recall", "of each class, which is its accuracy", "share", formulas.recall_by_class, LABELS, True, "classes"
    ),
    "f1_by_class": Measure("F1", "of each class", "share", formulas.f1_by_class, LABELS, True, "classes"),
    "confusion": Measure(
        "confusion", "images of each label (rows) by answer (columns)", "images",
        formulas.confusion, LABELS, shape="table",
    ),
    "reliability": Measure(
        "reliability", "accuracy of the images answered with about the same confidence", "share",
        formulas.reliability, SURE, shape="table",
    ),
    "knn_top1": Measure(
        "kNN accuracy", "by the labels of the training images of nearest embedding, by their cosine", "share",
        larger=True,
    ),
    "probe_top1": Measure(
        "probe accuracy", "of a linear layer on the embeddings, fitted to the training images", "share", larger=True
    ),
    "train_top1": Measure("training accuracy", "of the last epoch's rendered images", "share", larger=True),
    "seconds": Measure("time", "of all epochs, evaluation included", "seconds", larger=False),
    "train_seconds": Measure("training time", "of all epochs, without evaluation", "seconds", larger=False),
    "images_per_second": Measure("images/s", "trained in a second", "images/s", larger=True),
    "peak_bytes": Measure(
        "peak memory", "the most that the process held, on a GPU the most there", "bytes", larger=False
    ),
    "parameters": Measure("parameters", "weights of the network", "parameters", larger=False),
    "cache_bytes": Measure("cache", "the files that a student reads", "bytes", larger=False),
}  # fmt: skip

NUMBERS = tuple(name for name, one in MEASURES.items() if one.shape == "number" and one.compute)


def every(found: Outcome | None) -> dict:
    """All that can be measured of these answers, by name; of none, nothing."""
    values = {name: one.of(found) for name, one in MEASURES.items()} if found else {}
    return {name: value for name, value in values.items() if value is not None}


def numbers(found: Outcome | None) -> dict[str, float]:
    """Of these, the plain numbers.

    >>> import torch
    >>> numbers(Outcome(torch.eye(3), torch.tensor([0, 1, 1])))["top1"]
    0.6666666666666666
    """
    values = {name: MEASURES[name].of(found) for name in NUMBERS} if found else {}
    return {name: value for name, value in values.items() if value is not None}


def shown(facts: dict) -> dict[str, str]:
    """The plain numbers among some facts, in the order of the table, as people read them."""
    plain = {name: facts.get(name) for name, one in MEASURES.items() if one.shape == "number"}
    return {name: MEASURES[name].text(value) for name, value in plain.items() if isinstance(value, int | float)}
