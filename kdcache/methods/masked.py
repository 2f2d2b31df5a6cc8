"""A batch of which the teacher has answered some rows: the others are learnt from their labels alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kdcache.types import Batch, Knowledge, Look

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[[Look, Knowledge, Batch], "dict[str, Tensor]"]
FEWEST = 2  # rows of a view that a method is shown: connectors may have batch norm


def masked(loss: Loss, plain: Loss, look: Look, knowledge: Knowledge, batch: Batch, views: int) -> dict[str, Tensor]:
    """The terms of `loss` of the rows with answers, and `plain` ones of the others, each row with the weight of one.

    The batch says how many labels the `whole` has, over which a mean of cross-entropies goes in both parts.
    """
    known = batch.known
    if known is not None and known.sum() < FEWEST * views:
        return plain(look, {}, batch)
    if known is None or known.all():
        return loss(look, knowledge, batch)
    terms: dict[str, Tensor] = {}
    for of, rows in ((loss, np.flatnonzero(known)), (plain, np.flatnonzero(~known))):
        shown, said = ({name: value[rows] for name, value in side.items()} for side in (look, knowledge))
        for name, value in of(shown, said, batch.part(rows)).items():
            value = value * (len(rows) / len(batch))
            terms[name] = terms[name] + value if name in terms else value
    return terms
