"""Which rows a pseudo teacher gets wrong, and what it answers there. All of it is decided in integers.

Every class has a keyed order of its rows; the first ones are wrong, as many as the accuracy says. So a schedule
changes a count and never the order, and the wrong rows of a better teacher are among those of a worse one.
"""

from __future__ import annotations

import math

import numpy as np

from kdcache import seeds

GOLDEN, ROOT2 = 0x9E3779B9, 0x6A09E667  # fractions of 2**32 whose multiples spread most evenly, and unrelated
BEYOND = np.array([2**40])  # an index that no class and no row has
KEPT = 2**25  # ranks in memory: enough for the views that one batch mixes


def share_out(quotas: np.ndarray, totals: list[int], ties: np.ndarray) -> np.ndarray:
    """Whole numbers [V, C] for quotas that grow from row to row: floor or ceil of each, every row with its total.

    One row alone is the method of the largest remainder. Several rows must not shrink from one to the next, which
    the largest remainder does not promise (the Alabama paradox); so whoever first reaches the next whole number
    on the way gets it, which is the same where all move alike, and always leaves a solution for the rows to come.
    """
    growth = quotas[-1] - quotas[0]
    growth = growth if growth.any() else np.ones_like(growth)
    counts, have = [], np.zeros(quotas.shape[1], np.int64)
    for quota, total in zip(quotas, totals, strict=True):
        whole = np.floor(quota)
        have = np.maximum(have, whole.astype(np.int64))
        room = have < np.ceil(quota)
        due = np.divide(whole + 1 - quota, growth, out=np.full_like(quota, np.inf), where=growth > 0)
        extra = max(total - have.sum(), 0)  # of x.5, `round` may have taken the half that earlier rows used up
        assert extra <= room.sum(), "more wrong rows than the quotas hold"
        have = have.copy()
        have[np.lexsort((ties, whole - quota, due, ~room))[:extra]] += 1
        counts.append(have)
    return np.array(counts)


def wrong_counts(accuracy: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """How many rows of each class are wrong in each view [V, C], for accuracies [V, C]."""
    asked = sizes * (1 - accuracy)
    order = np.argsort([math.fsum(quota) for quota in asked], kind="stable")
    totals = [round(math.fsum(quota)) for quota in asked[order]]
    ties = seeds.permutation(len(sizes), seed, use=seeds.ANSWER)
    counts = np.empty(asked.shape, np.int64)
    counts[order] = share_out(np.round(asked[order], 9), totals, ties)  # 10 * (1 - 0.9) is one row, not a little less
    return counts


def thresholds(confusion: np.ndarray) -> np.ndarray:
    """Where the 32-bit words of each wrong class end, row after row in one growing list."""
    off = confusion * (1 - np.eye(len(confusion)))
    nothing = off.sum(1) == 0
    off[nothing] = 1 - np.eye(len(off))[nothing]  # a class never confused that a schedule makes wrong all the same
    sums = np.cumsum(off, 1)  # one by one: the same bits on every machine
    ends = np.floor(sums / sums[:, -1:] * 2**32).astype(np.int64)
    last = off.shape[1] - 1 - np.argmax(off[:, ::-1] > 0, 1)
    ends[np.arange(off.shape[1]) >= last[:, None]] = 2**32
    return (ends + (np.arange(len(off)) << 32)[:, None]).ravel()


class Errors:
    """The decisions of a teacher; `counts` [V, C] holds for views 0 to V-1, its last row for all later ones."""

    def __init__(self, labels: np.ndarray, counts: np.ndarray, seed: int, per_view: bool, confusion=None):
        self.labels, self.seed, self.per_view, self.classes = labels, seed, per_view, counts.shape[1]
        self._counts = counts
        self._ranks: dict[int, np.ndarray] = {}
        self.sizes = np.bincount(labels[labels >= 0], minlength=self.classes)
        self._ends = None if confusion is None else thresholds(confusion)

    def counts(self, view: int) -> np.ndarray:
        return self._counts[min(view, len(self._counts) - 1)]

    def ranks(self, view: int) -> np.ndarray:
        """The place of every row in the order of its class."""
        ranks = self._ranks.get(view)
        if ranks is None:
            rows = len(self.labels)
            if (len(self._ranks) + 1) * rows > KEPT:
                self._ranks = {}
            order = seeds.permutation(rows, self.seed, view, seeds.ERRING)
            order = order[np.argsort(self.labels[order], kind="stable")][rows - self.sizes.sum() :]
            ranks = np.zeros(rows, np.int64)
            ranks[order] = np.arange(len(order)) - np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
            self._ranks[view] = ranks
        return ranks

    def decide(self, view: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The class that is answered, whether it is wrong, and an even 32-bit word for the confidence."""
        labels, counts, drawn = self.labels[rows], self.counts(view), view if self.per_view else 0
        ranks = self.ranks(drawn)[rows]
        wrong = (ranks < counts[labels]) & (labels >= 0)
        answer = labels.copy()
        answer[wrong] = self._instead(labels[wrong], ranks[wrong], drawn)
        free = labels < 0
        answer[free] = seeds.below(seeds.keyed(self.seed, rows[free], drawn, seeds.ANSWER)[3], self.classes)
        # wrong rows are numbered through all classes, and so are right ones: both are spread evenly over confidences
        right = self.sizes - counts
        before_wrong, before_right = np.cumsum(counts) - counts, np.cumsum(right) - right - counts
        place = ranks + np.where(wrong, before_wrong[labels], before_right[labels])
        start = seeds.keyed(self.seed, BEYOND, view, seeds.ANSWER)[0]
        return answer, wrong, (place * ROOT2 + start) & seeds.MASK

    def _instead(self, labels: np.ndarray, ranks: np.ndarray, view: int) -> np.ndarray:
        """Wrong classes: even steps through the words from a keyed start, so that any first few keep the shares."""
        starts = seeds.keyed(self.seed, np.arange(self.classes), view, seeds.ANSWER)[2]
        word = (ranks * GOLDEN + starts[labels]) & seeds.MASK
        if self._ends is None:
            other = seeds.below(word, self.classes - 1)
            return other + (other >= labels)
        return np.searchsorted(self._ends, word + (labels << 32), side="right") - labels * self.classes
