"""Blocks of rows whose labels were shifted or shuffled: there, label and answer agree as if by chance.

Each row votes, by how much likelier its agreement or disagreement is by chance than for rows of its class elsewhere. A
block out of place is a run of rows whose votes add up to more than any run does by accident. No teacher is asked, and
the rows are gone through once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

ACCIDENT = 1e-6  # how likely a false alarm is
LEAST = 10  # rows of a block
SUREST = 0.98  # the largest accuracy that a class is taken to have, so that a few mistakes in a row are no block
OFFSETS = 200  # rows that a block may have been shifted by
LOOKED_AT = 4096  # rows of a block that are compared at every offset
HARDLY = 0.1  # of the way from chance to always right: below, all rows are out of place


def displaced(labels: np.ndarray, answers: np.ndarray, classes: int) -> list[dict]:
    """The blocks in their order: rows, agreement there and elsewhere, and the offset at which labels fit, if one does.

    >>> labels = np.arange(600) % 7
    >>> answers = labels.copy()
    >>> labels[200:300] = (np.arange(200, 300) + 3) % 7
    >>> [(one["first"], one["last"], one["offset"]) for one in displaced(labels, answers, 7)]
    [(200, 299, 3)]
    """
    rows = np.flatnonzero(labels >= 0)
    if len(rows) < LEAST:
        return []
    known, said = labels[rows], answers[rows]
    if (known == known[0]).all():  # within one class nothing can be seen to be shifted
        return []
    agree = known == said
    chance = np.bincount(said, minlength=classes) / len(said)  # that an answer is this class
    by_luck = float((np.bincount(known, minlength=classes) / len(known) * chance).sum())
    if agree.mean() < by_luck + HARDLY * (1 - by_luck):
        return [described(known, said, rows, 0, len(rows), by_luck, None)]
    usual = np.bincount(known, agree, classes) / np.maximum(np.bincount(known, minlength=classes), 1)
    scores = votes(agree, usual[known].clip(1e-3, SUREST), chance[known].clip(1e-3, 0.9))
    least = np.log(len(rows) / ACCIDENT)
    blocks = sorted(runs(scores, least))
    outside = np.ones(len(rows), bool)
    for start, end in blocks:
        outside[start:end] = False
    elsewhere = float(agree[outside].mean()) if outside.any() else None
    return [described(known, said, rows, start, end, by_luck, elsewhere) for start, end in blocks]


def votes(agree: np.ndarray, usual: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """The logarithm of how much likelier each row is by chance; 0 for classes that are hardly ever right."""
    scores = np.where(agree, np.log(chance / usual), np.log((1 - chance) / (1 - usual)))
    return np.where(usual > 1.2 * chance, scores, 0.0)


def runs(scores: np.ndarray, least: float) -> Iterator[tuple[int, int]]:
    """From where to where the scores add up to most, then the same of what is left and right of it."""
    waiting = [(0, len(scores))]
    while waiting:
        first, last = waiting.pop()
        if last - first < LEAST:
            continue
        sums = np.concatenate([[0.0], np.cumsum(scores[first:last])])
        lowest = np.minimum.accumulate(sums)
        end = int((sums - lowest).argmax())
        start = int(sums[: end + 1].argmin())
        if sums[end] - sums[start] < least:
            continue
        if end - start >= LEAST:
            yield first + start, first + end
        waiting += [(first, first + start), (first + end, last)]


def described(known, said, rows, start: int, end: int, by_luck: float, elsewhere: float | None) -> dict:
    """A block as facts; `rows` are the numbers of all labelled rows."""
    agreement = float((known[start:end] == said[start:end]).mean())
    offset, fits = best_offset(known, said, start, end)
    usual = 1.0 if elsewhere is None else elsewhere
    shifted = fits > max((by_luck + usual) / 2, agreement + 0.1)
    return {
        "first": int(rows[start]), "last": int(rows[end - 1]), "rows": end - start, "agreement": agreement,
        "elsewhere": elsewhere, "offset": offset if shifted else None, "agreement_at_offset": fits if shifted else None,
    }  # fmt: skip


def best_offset(known: np.ndarray, said: np.ndarray, start: int, end: int) -> tuple[int, float]:
    """By how many rows the answers have to be moved to fit the labels of a block best, and how well they do."""
    end = min(end, start + LOOKED_AT)
    best = (0, 0.0)
    for offset in sorted((o for o in range(-OFFSETS, OFFSETS + 1) if o), key=abs):
        low, high = max(start, -offset, 0), min(end, len(said) - offset)
        if high - low < max(LEAST, (end - start) // 2):
            continue
        fits = float((known[low:high] == said[low + offset : high + offset]).mean())
        best = max(best, (offset, fits), key=lambda one: one[1])
    return best
