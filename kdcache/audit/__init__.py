"""What a cache says of its own images: labels that are probably wrong or out of place, and rows that are hard."""

from __future__ import annotations

import numpy as np

from kdcache.audit.answers import Answered, answered
from kdcache.audit.blocks import displaced
from kdcache.audit.mislabelled import mislabelled
from kdcache.cache.base import Store
from kdcache.errors import CacheError
from kdcache.types import quiet

__all__ = ["audit"]

LISTED = 1000  # rows that are hard, or whose answer changes


def audit(cache: Store, views: int = 10, progress=quiet) -> dict:
    """All findings, the worst first; of what is hard or unstable, the worst rows and how many there are.

    `views` is how many renderings of each image are read, of those that there are.
    """
    if "logits" not in cache.names:
        remedy = "dump with `kdcache dump-logits --method st`"
        raise CacheError(cache.path, "logits, which an audit reads", f"only {', '.join(cache.names)}", remedy)
    if "of" in cache.meta["view"]:
        remedy = "audit a cache of a view that does not mix"
        raise CacheError(cache.path, "images of one label each", f"the view {cache.meta['view']['view']}", remedy)
    labels = cache.labels
    if not (labels >= 0).any():
        raise CacheError(cache.path, "labels to compare with", "none", "audit a cache of labelled images")
    found = answered(cache, views, progress)
    wrong = mislabelled(found, labels)
    return {
        "rows": len(labels), "labelled": int((labels >= 0).sum()), "views": found.views,
        "agreement": float((found.answers == labels)[labels >= 0].mean()),
        "displaced": displaced(labels, found.answers, len(cache.classes)),
        "label_errors": wrong | {"suspects": described(wrong["suspects"], found, labels)},
        "hardest": worst(hardest(found, labels, wrong["suspects"]), found, labels),
        "unstable": worst(unstable(found), found, labels),
        "confusions": confusions(found.answers, labels, len(cache.classes)),
    }  # fmt: skip


def hardest(found: Answered, labels: np.ndarray, suspects: np.ndarray) -> np.ndarray:
    """Rows whose label is not the likeliest, or just so, and that are no suspects; the least likely first."""
    rows = np.setdiff1d(np.flatnonzero(labels >= 0), suspects)
    rows = rows[found.of_label[rows] < 0.5]
    return rows[np.argsort(found.of_label[rows], kind="stable")]


def unstable(found: Answered) -> np.ndarray:
    """Rows whose answer is not the same in all views; those that change most often first."""
    rows = np.flatnonzero(found.steady < 1)
    return rows[np.argsort(found.steady[rows], kind="stable")]


def worst(rows: np.ndarray, found: Answered, labels: np.ndarray) -> dict:
    return {"rows": len(rows), "worst": described(rows[:LISTED], found, labels)}


def described(rows: np.ndarray, found: Answered, labels: np.ndarray) -> list[dict]:
    """Each row with its label, the answer, how likely both are, and in which share of the views it is the answer."""
    return [
        {
            "row": int(row), "label": int(labels[row]), "answer": int(found.answers[row]),
            "p_label": float(found.of_label[row]), "p_answer": float(found.of_answer[row]),
            "views_agreeing": float(found.steady[row]),
        }
        for row in rows
    ]  # fmt: skip


def confusions(answers: np.ndarray, labels: np.ndarray, classes: int) -> list[dict]:
    """Pairs of classes, the most frequent first: how many rows of the label get the answer, and which share of it."""
    known = labels >= 0
    of_label = np.bincount(labels[known], minlength=classes)
    cells, counts = np.unique(labels[known] * classes + answers[known], return_counts=True)
    label, answer = np.divmod(cells, classes)
    order = [k for k in np.argsort(-counts, kind="stable") if label[k] != answer[k]]
    return [
        {"label": int(a), "answer": int(b), "rows": int(n), "share": float(n / of_label[a])}
        for a, b, n in zip(label[order], answer[order], counts[order], strict=True)
    ]
