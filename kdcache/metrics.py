"""What is measured of a network's logits. Sums over rows, so that batches add up."""

from __future__ import annotations

import torch
from torch import Tensor


def correct(logits: Tensor, targets: Tensor, k: int = 1) -> Tensor:
    """How many labelled rows have their label among the k largest logits."""
    if k == 1:
        return (logits.argmax(1) == targets).sum()
    return (logits.topk(min(k, logits.shape[1]), 1).indices == targets[:, None]).any(1).sum()


def agreement(logits: Tensor, teacher: Tensor) -> Tensor:
    """How many rows get the teacher's answer."""
    return (logits.argmax(1) == teacher.argmax(1)).sum()


def summary(logits: Tensor, targets: Tensor, teacher: Tensor | None = None) -> dict[str, float]:
    """Shares of the rows: top1, top5 where there are more than five classes, agreement where there is a teacher.

    >>> summary(torch.eye(3), torch.tensor([0, 1, 1]))
    {'top1': 0.6666666666666666}
    """
    labelled = targets >= 0
    count = max(1, int(labelled.sum()))
    found = {"top1": int(correct(logits[labelled], targets[labelled])) / count}
    if logits.shape[1] > 5:
        found["top5"] = int(correct(logits[labelled], targets[labelled], 5)) / count
    if teacher is not None:
        found["agreement"] = int(agreement(logits, teacher)) / max(1, len(logits))
    if not torch.isfinite(logits).all():
        found["finite"] = 0.0
    return found
