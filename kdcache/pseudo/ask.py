"""What may be asked of a pseudo teacher: everything else is refused here, in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kdcache.checks import Range, one_of, quoted, whole_numbers
from kdcache.errors import UsageError

SHAPES = {
    "linear": lambda share: share,
    # rounded: a cosine may differ in its last bit between machines, and a count of wrong rows must not
    "cosine": lambda share: round((1 - math.cos(math.pi * share)) / 2, 12),
    "step": lambda share: float(share >= 0.5),
}


def plain(value):
    """Arrays, tensors and tuples as lists of Python numbers, as JSON would give them back."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


def array_of(place: str, values) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError):
        raise UsageError(place, "a list of numbers", quoted(values), "give an array, a tensor or a flat list") from None


def number(place: str, value, low: float, high: float, remedy: str = "") -> float:
    return Range(low, high, remedy=remedy).checked(place, value)


def whole(place: str, value, low: int, high: int) -> int:
    return int(Range(low, high, whole=True).checked(place, value))


def indices(place: str, values, size: int) -> np.ndarray:
    """Whole numbers from 0 to size - 1, as int64, in any shape; no counting from the end."""
    array = array_of(place, values)
    return whole_numbers(place, "numbers", array.reshape(-1), size).reshape(array.shape)


def labels_and_classes(labels, classes, unlabelled: str) -> tuple[np.ndarray, int]:
    """The labels as int64 and the number of classes: one more than the largest label unless told."""
    one_of("unlabelled", unlabelled, ("refuse", "flat"))
    array = array_of("labels", labels)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        found = f"{array.dtype} values of shape {array.shape}"
        raise UsageError("labels", "a list of class numbers, one per row", found, "give one integer per row")
    classes = max(int(array.max()) + 1, 0) if classes is None else whole("classes", plain(classes), 0, 2**24)
    if classes < 2:
        raise UsageError("classes", "two or more", f"{classes}", "give `classes` if the labels do not show them all")
    if array.min() < -1 or array.max() >= classes:
        found = f"{array.min()} to {array.max()}"
        raise UsageError("labels", f"0 to {classes - 1} (-1: none)", found, "correct the labels or give `classes`")
    empty = int((array == -1).sum())
    if empty and unlabelled == "refuse":
        remedy = 'leave these rows out, or say unlabelled="flat" for an answer that tells nothing'
        raise UsageError("labels", "a label for every row", f"{empty} rows without one (-1)", remedy)
    return array.astype(np.int64), classes


def per_class(place: str, value, classes: int) -> np.ndarray:
    """One number for all classes, or one for each."""
    if not isinstance(value, list):
        return np.full(classes, number(place, value, 0, 1))
    if len(value) != classes:
        remedy = "give one number, or one per class (and `classes` if the data lacks some)"
        raise UsageError(place, f"{classes} numbers, one per class", f"{len(value)}", remedy)
    return np.array([number(f"{place} of class {c}", v, 0, 1) for c, v in enumerate(value)])


def matrix(place: str, value, classes: int | None = None) -> np.ndarray:
    """A square matrix of shares; counts will do as well, every row is normalised."""
    remedy = "give a square matrix with one row per true class"
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(place, "a matrix of numbers", quoted(value), remedy) from None
    if array.ndim != 2 or array.shape[0] != array.shape[1] or (classes is not None and len(array) != classes):
        size = "as many rows as columns" if classes is None else f"{classes} x {classes} numbers"
        raise UsageError(place, size, " x ".join(map(str, array.shape)) or quoted(value), remedy)
    if len(array) < 2:
        raise UsageError(place, "two classes or more", f"{len(array)}", remedy)
    for row, values in enumerate(array):
        if not np.isfinite(values).all() or values.min() < 0:
            bad = values[~(values >= 0) | np.isinf(values)][0]
            raise UsageError(f"{place} row {row}", "finite numbers, none negative", f"{bad}", "correct this row")
        if not values.sum():
            raise UsageError(f"{place} row {row}", "at least one number above 0", "only zeros", "fill this row")
    return array / np.cumsum(array, 1)[:, -1:]  # added up one by one: the same bits on every machine


@dataclass(frozen=True)
class Schedule:
    """How the teacher changes from view to view; past the last view it stays as it is."""

    views: int = 1
    shape: str = "linear"
    accuracy: tuple[np.ndarray, np.ndarray] | None = None
    confidence: tuple[float, float] | None = None

    def position(self, view: int) -> float:
        """0 at the first view, 1 at the last."""
        return SHAPES[self.shape](min(view / (self.views - 1), 1.0) if self.views > 1 else 1.0)

    def between(self, ends, view: int):
        share = self.position(view)
        # rounded: equal ends must not differ in their last bit, where half a wrong row may hang on it
        return np.round(ends[0] * (1 - share) + ends[1] * share, 12)


def schedule_of(value, classes: int, lowest: float) -> Schedule:
    if value is None:
        return Schedule()
    keys = ("accuracy", "confidence", "views", "shape")
    if not isinstance(value, dict) or set(value) - set(keys) or not {"accuracy", "confidence"} & set(value):
        found = ", ".join(map(str, value)) if isinstance(value, dict) else quoted(value)
        remedy = 'for example {"accuracy": (0.6, 0.95), "views": 10, "shape": "cosine"}'
        raise UsageError("schedule", "accuracy or confidence, views and shape", found or "nothing", remedy)
    views = whole("schedule views", value.get("views"), 1, 2**20)
    shape = one_of("schedule shape", value.get("shape", "linear"), tuple(SHAPES))
    for key in ("accuracy", "confidence"):
        if key in value and (not isinstance(value[key], list) or len(value[key]) != 2):
            raise UsageError(f"schedule {key}", "its first and its last value", quoted(value[key]), "give these two")
    accuracy = confidence = None
    if "accuracy" in value:
        first, last = (per_class("schedule accuracy", end, classes) for end in value["accuracy"])
        accuracy, change = (first, last), last - first
        if change.min() < 0 < change.max():  # the wrong rows of a mixed schedule could not be nested
            remedy = "let every class get better or every class get worse"
            raise UsageError("schedule accuracy", "one direction", "classes that move against each other", remedy)
    if "confidence" in value:
        remedy = f"{lowest:.6g} is the flattest answer that still has a largest class"
        start, end = (number("schedule confidence", one, lowest, 1, remedy) for one in value["confidence"])
        confidence = start, end
    return Schedule(views, shape, accuracy, confidence)


def parse_accuracy(text: str) -> float | list[float]:
    """`0.9` is one accuracy, `0.8,0.89,1.0` is one per class."""
    parts = [part.strip() for part in text.split(",")]
    try:
        values = [float(part) for part in parts]
    except ValueError:
        remedy = "write 0.9, or one number per class: 0.8,0.89,1.0"
        raise UsageError("`accuracy`", "numbers with commas between them", quoted(text), remedy) from None
    values = [number("`accuracy`", value, 0, 1) for value in values]
    return values[0] if len(values) == 1 else values


def read_confusion(text: str) -> np.ndarray:
    """A confusion matrix from CSV text: a line per true class, counts or shares; `#` begins a comment."""
    rows = []
    for at, line in enumerate(text.splitlines(), 1):
        line = line.lstrip("\ufeff").split("#")[0].strip()  # spreadsheets put a byte order mark in front
        if not line:
            continue
        try:
            rows.append([float(part) for part in re.split(r"\s*[,;\t]\s*|\s+", line)])
        except ValueError:
            remedy = "leave out headings and names: only numbers, a line per true class"
            raise UsageError(
                f"`confusion` line {at}", "numbers with commas between them", quoted(line), remedy
            ) from None
        if len(rows[-1]) != len(rows[0]):
            found = f"{len(rows[-1])}"
            raise UsageError(f"`confusion` line {at}", f"{len(rows[0])} numbers", found, "give every line as many")
    return matrix("`confusion`", rows)
