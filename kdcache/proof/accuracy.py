"""How often a teacher is right, from what it said: one that was fed wrongly is seen at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdcache.cache.base import Store
from kdcache.seeds import PROBE, sample_views

Classes = Callable[[np.ndarray], np.ndarray]
"""Which class is answered for these rows, or is their label."""

ROWS = 4096  # training images that are looked at, where there are more
DOUBTFUL = 0.1  # of the way from chance to always right


def accuracy_of(cache: Store) -> dict[str, float]:
    """Shares of images whose label the stored logits say, with how many were looked at; nothing where none are stored.

    Of training images in view 0, unless it mixes them, and of the evaluation images.
    """
    found = of_training(cache)
    if (labels := cache.eval_labels) is not None and cache.has_eval("logits"):
        found |= of_eval(labels, cache.eval_top1)
    return found


def of_training(cache: Store) -> dict[str, float]:
    """The same of training images alone."""
    if "logits" not in cache.names or "of" in cache.meta["view"]:  # of a mixed image no one label is right
        return {}
    n = len(cache)
    rows = sample_views(cache.meta["run_key"], ROWS, n, 1, PROBE) if n > ROWS else range(n)
    return shares("train", cache.labels_of, rows, lambda some: cache.top1(0, some))


def of_eval(labels: np.ndarray, answers: Classes) -> dict[str, float]:
    """The same of all evaluation images alone."""
    return shares("eval", labels.__getitem__, range(len(labels)), answers)


def shares(name: str, labels_of: Classes, rows, answers: Classes) -> dict[str, float]:
    """Of rows with a label: the share answered with it, their number, and the share of the largest class."""
    rows = np.asarray(rows)
    labels = labels_of(rows)
    rows, labels = rows[labels >= 0], labels[labels >= 0]
    if not len(rows):
        return {}
    parts = -(-len(rows) // ROWS)
    pairs = zip(np.array_split(rows, parts), np.array_split(labels, parts), strict=True)
    right = sum(int((answers(some) == wanted).sum()) for some, wanted in pairs)
    chance = int(np.unique(labels, return_counts=True)[1].max()) / len(rows)
    return {f"{name}_top1": right / len(rows), f"{name}_rows": len(rows), f"{name}_chance": chance}


def accuracy_in_words(found: dict[str, float]) -> str:
    """As in `right in 98.9 % of 1,437 training images, 97.8 % of 360 evaluation images`; nothing of nothing."""
    parts = [
        f"{100 * found[f'{name}_top1']:.1f} % of {found[f'{name}_rows']:,} {what} images"
        for name, what in (("train", "training"), ("eval", "evaluation"))
        if f"{name}_top1" in found
    ]
    return f"right in {', '.join(parts)}" if parts else ""


def doubt(found: dict[str, float]) -> str:
    """What may be wrong with a teacher that hardly ever is right; nothing where it is."""
    names = [name for name in ("train", "eval") if f"{name}_top1" in found]
    if not names or any(well(found, name) for name in names):
        return ""
    likely = "whether it was trained, with which mean and std, and the order of the classes"
    return f"the teacher is {accuracy_in_words(found)}, hardly more than by chance: check {likely}"


def well(found: dict[str, float], name: str) -> bool:
    chance, rows = found[f"{name}_chance"], found[f"{name}_rows"]
    return found[f"{name}_top1"] >= chance + max(DOUBTFUL * (1 - chance), 4 * (chance / rows) ** 0.5)
