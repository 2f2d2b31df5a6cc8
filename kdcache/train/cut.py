"""A batch in parts: among the processes that train together, and one after the other where a step accumulates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kdcache.methods import labelled
from kdcache.train.team import Team, places
from kdcache.types import Batch, Knowledge


class Cut:
    """How the batch of these items is cut. A part has two rows or more: of one, batch norm has no statistics."""

    def __init__(self, team: Team, items: np.ndarray, views: int, accumulate: int):
        self.team, self.items, self.views = team, items, views
        self.spread = team.spread(len(items), views)
        self.count = max(1, min(accumulate, len(items) // views // self.spread // 2))

    def counted(self, batch: Batch, unlabelled: bool) -> Batch:
        """The batch with the labels of all of it, where its parts may differ in how many they have."""
        if not unlabelled or self.count == self.spread == 1:
            return batch
        labels = labelled(batch).sum()
        return replace(batch, whole=(self.team.total(labels) if self.spread > 1 else labels, len(self.items)))

    def part(self, batch: Batch, knowledge: Knowledge, number: int) -> tuple[Batch, Knowledge]:
        """One after the other, of the rows of this process; each has its rows in all of the views."""
        if self.count == 1:
            return batch, knowledge
        rows = places(len(batch), self.views, self.count, number)
        if self.views == 1:
            rows = slice(rows[0], rows[-1] + 1)
        return batch.part(rows), {name: value[rows] for name, value in knowledge.items()}

    def everywhere(self, number: int) -> list[np.ndarray]:
        """Where the rows of a part stand in the whole batch, of each process."""
        own = (places(len(self.items), self.views, self.spread, rank) for rank in range(self.spread))
        return [some[places(len(some), self.views, self.count, number)] for some in own]

    def weight(self, part: Batch, compared: bool) -> float:
        """What a part counts in the sum over all parts of all processes; `compared`: every process has it."""
        seen_by = self.team.size if compared else self.team.size // self.spread
        return len(part) / len(self.items) / seen_by
