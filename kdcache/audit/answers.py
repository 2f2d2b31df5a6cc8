"""The stored answers of all rows, over several views: read in pieces, so that a large cache needs no large memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kdcache.cache.base import Store
from kdcache.types import quiet

PIECE = 1 << 22  # numbers of a view that are decoded at once


@dataclass
class Answered:
    """Of every row, with the probabilities averaged over the views."""

    views: int
    answers: np.ndarray  # int64 [N]: the likeliest class
    of_answer: np.ndarray  # f32 [N]: how likely it is
    of_label: np.ndarray  # f32 [N]: how likely the label is; 0 where there is none
    steady: np.ndarray  # f32 [N]: the largest share of views with the same answer
    confident: (
        np.ndarray
    )  # int64 [N]: of the classes that are as likely as usual for their own rows, the likeliest; or -1


def answered(cache: Store, views: int, progress=quiet) -> Answered:
    """Reads all rows twice: first how likely the label of a class usually is, then who is above that."""
    chosen = np.unique(np.linspace(0, cache.views - 1, min(views, cache.views)).round().astype(int)).tolist()
    n, classes, labels = len(cache), len(cache.classes), cache.labels
    pieces = np.array_split(np.arange(n), max(1, -(-n * classes // PIECE)))
    found = Answered(len(chosen), *(np.zeros(n, kind) for kind in (np.int64, *[np.float32] * 3, np.int64)))
    sums, counts = np.zeros(classes), np.zeros(classes)
    for rows in progress(pieces, total=len(pieces), desc="reading answers"):
        likely, tops = averaged(cache, rows, chosen)
        known = labels[rows] >= 0
        own = likely[np.arange(len(rows)), np.maximum(labels[rows], 0)] * known
        found.answers[rows], found.of_answer[rows], found.of_label[rows] = likely.argmax(1), likely.max(1), own
        found.steady[rows] = np.max([(tops == top).mean(0) for top in tops], 0)
        sums += np.bincount(labels[rows][known], own[known], classes)
        counts += np.bincount(labels[rows][known], minlength=classes)
    usual = np.where(counts, sums / np.maximum(counts, 1), np.inf)
    for rows, likely in again(cache, pieces, chosen, progress):
        above = np.where(likely >= usual, likely, -1)
        found.confident[rows] = np.where(above.max(1) < 0, -1, above.argmax(1))
    return found


def again(
    cache: Store, pieces: list[np.ndarray], views: list[int], progress
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for rows in progress(pieces, total=len(pieces), desc="comparing answers"):
        yield rows, averaged(cache, rows, views)[0]


def averaged(cache: Store, rows: np.ndarray, views: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities f32 [n, C], and the answer in each view [V, n]."""
    likely, tops = np.zeros(1, np.float32), []
    for view in views:
        p = cache.read(view, rows, ["logits"])["logits"].softmax(1).numpy()
        tops.append(p.argmax(1))
        likely = likely + p
    return likely / len(views), np.stack(tops)
