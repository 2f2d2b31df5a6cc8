"""Soft labels without a network: a PseudoTeacher asked for in words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from kdcache import limits
from kdcache.cache import open_cache
from kdcache.checks import quoted, short
from kdcache.errors import UsageError
from kdcache.jobs.data import Data
from kdcache.pseudo import PseudoTeacher, parse_accuracy, read_confusion
from kdcache.wording import count

FEW = 12  # classes whose accuracies fit a line


def pseudo_teacher(data: Data, views: int, seed: int, asked: dict) -> PseudoTeacher:
    """The teacher that a command's options describe, for the training images of some data."""
    data.require_labels("`data`", "a teacher that is made up from labels")
    given = {k: asked[k] for k in ("errors", "calibrated", "temperature") if asked.get(k) is not None}
    given |= {"labels": data.train.labels, "classes": len(data.train.classes), "seed": seed}
    if (data.train.labels < 0).any():
        given["unlabelled"] = "flat"
    schedule = {}
    for name, parse in (
        ("accuracy", partial(accuracy_of, classes=data.train.classes)),
        ("confidence", parse_confidence),
    ):
        text = asked.get(name)
        if text and ">" in text:  # from the first view to the last
            first, _, last = text.partition(">")
            schedule[name] = (parse(first), parse(last))
        elif text:
            given[name] = parse(text)
    if schedule:
        given["schedule"] = schedule | {"views": views, "shape": asked.get("shape") or "linear"}
    elif asked.get("shape"):
        remedy = "leave it out, or let one of them change"
        raise UsageError("`shape`", "an accuracy or confidence that changes, as 0.6>0.95", "neither", remedy)
    if asked.get("confusion"):
        given["confusion"] = confusion_of(asked["confusion"])
    if asked.get("spread"):
        given["spread"] = parse_spread(asked["spread"])
    if not asked.get("like"):
        return PseudoTeacher(**given)
    logits = like_logits(asked["like"], data)
    return PseudoTeacher.like(logits, given.pop("labels"), given.pop("seed"), **given)


def accuracy_of(text: str, classes: Sequence[str]) -> float | list[float]:
    """A number, one per class, or a file of them: text, .npy, or .json, which may name the classes."""
    suffix = Path(text).suffix.lower()
    if suffix not in (".txt", ".csv", ".json", ".npy"):
        return parse_accuracy(text)
    if suffix == ".npy":
        return load_array(text, "an array of accuracies").tolist()
    if suffix != ".json":
        return parse_accuracy(",".join(re.split(r"[\s,;]+", re.sub("#.*", "", read_text(text)).strip())))
    try:
        found = json.loads(read_text(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(text, "JSON", short(error), "correct the file") from None
    if isinstance(found, dict):
        if found.keys() != set(classes):
            strange = sorted(found.keys() ^ set(classes))[0]
            raise UsageError(text, f"the {len(classes)} classes of the data", quoted(strange), "name each class once")
        return [found[name] for name in classes]
    return found


def confusion_of(path: str) -> np.ndarray:
    """A confusion matrix from .npy, else from CSV."""
    if Path(path).suffix.lower() == ".npy":
        return load_array(path, "a confusion matrix")
    return read_confusion(read_text(path))


def load_array(path: str, expected: str) -> np.ndarray:
    try:
        limits.require_regular(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or short(error)
        raise UsageError(path, expected, found, "save it with numpy.save") from None


def in_words(teacher: PseudoTeacher, classes: Sequence[str], views: int) -> str:
    """How often it is right, counted: in the first and in the last view, and by class."""
    first, last = (teacher.accuracy(view) for view in (0, views - 1))
    there = "" if first == last else f" in view {views - 1}"
    change = "in every view" if first == last else f"in view 0, {last:.4g}{there}"
    by_class = teacher.class_accuracy(views - 1)
    known = [c for c in range(len(classes)) if not np.isnan(by_class[c])]
    low, high = (pick(known, key=lambda c: by_class[c]) for pick in (min, max))
    ends = f"from {by_class[low]:.4g} ({short(classes[low], 20)}) to {by_class[high]:.4g} ({short(classes[high], 20)})"
    shown = " ".join(f"{by_class[c]:.3g}" for c in known) if len(known) <= FEW else ends
    return f"accuracy {first:.4g} {change}; by class{there}: {shown}"


def parse_confidence(text: str):
    """0.9, a range 0.6,0.99, or beta:8,2."""
    kind, _, rest = text.rpartition(":")
    try:
        numbers = [float(part) for part in rest.split(",")]
        if kind in ("", "beta") and len(numbers) == (2 if kind else len(numbers)) and len(numbers) < 3:
            return ("beta", *numbers) if kind else numbers[0] if len(numbers) == 1 else tuple(numbers)
    except ValueError:
        pass
    raise UsageError("`confidence`", "0.9, a range 0.6,0.99 or beta:8,2", repr(text), "write it like 0.9 or beta:8,2")


def parse_spread(text: str):
    if text in ("uniform", "similarity"):
        return text
    try:
        return float(text)
    except ValueError:
        expected = "uniform, similarity or a Dirichlet concentration"
        raise UsageError("`spread`", expected, repr(text), "try 0.5") from None


def read_text(path: str) -> str:
    try:
        return limits.read_text(path, limits.TABLE)
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "no text"
        raise UsageError(path, "a readable file", found, "check the path") from None


def like_logits(path: str, data: Data) -> np.ndarray:
    """A real teacher's logits on the same rows: of a cache, all its views; of a .npy file, one."""
    rows = np.arange(len(data.train))
    if Path(path).suffix == ".npy":
        logits = load_array(path, "an array of logits")
        if logits.ndim != 2 or len(logits) != len(rows):
            found = f"an array {list(logits.shape)}"
            raise UsageError(path, f"logits of {len(rows)} rows", found, "give those of the same data")
        return np.asarray(logits)
    cache = open_cache(path)
    if len(cache) != len(rows):
        raise UsageError(path, f"a cache of {len(rows)} rows", f"{len(cache)} rows", "give one of the same data")
    if not np.array_equal(cache.labels, data.train.labels):
        raise UsageError(path, "a cache of the same data", "one of rows with other labels", "give one of the same data")
    if "of" in cache.meta["view"]:
        remedy = "give one that was dumped without mixup and cutmix"
        raise UsageError(path, "answers to single images", "answers to mixtures of two", remedy)
    return np.stack([cache.read(view, rows, ["logits"])["logits"].numpy() for view in range(cache.views)])


def pseudo_from_text(text: str, data: Data, seed: int, views: int = 1) -> PseudoTeacher:
    """`pseudo:0.9`, `pseudo:0.8,0.89,...` with an accuracy per class, or `pseudo:0.6>0.9` from first to last view."""
    return pseudo_teacher(data, views, seed, {"accuracy": text.removeprefix("pseudo:")})


def schedule_note(asked: dict | None, views: int, epochs: int | None = None) -> str:
    """How a schedule over the views fits a training that shows one of them in each epoch; nothing where it does."""
    schedule = (asked or {}).get("schedule")
    if not schedule or views == epochs:
        return ""
    changes = " and ".join(name for name in ("accuracy", "confidence") if name in schedule)
    over = f"its {changes} changes over {count(schedule['views'], 'view')}, one in each epoch"
    if epochs is None:
        return f"{over}: a longer training plays that again; dump as many views as it has epochs"
    if epochs < views:
        return f"{over}: a training of {count(epochs, 'epoch')} ends before the last of them"
    return f"{over}: {epochs:,} epochs play that {epochs / views:g} times; dump {epochs:,} views to play it once"
