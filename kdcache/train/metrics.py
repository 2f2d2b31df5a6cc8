"""What is measured of a network's logits. Rows without a label (-1) count for agreement alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.types import Batch

BINS = 15


def correct(logits: Tensor, targets: Tensor, k: int = 1) -> Tensor:
    """How many rows have their label among the k largest logits."""
    if k == 1:
        return (logits.argmax(1) == targets).sum()
    return (logits.topk(min(k, logits.shape[1]), 1).indices == targets[:, None]).any(1).sum()


def agreement(logits: Tensor, teacher: Tensor) -> Tensor:
    """How many rows get the teacher's answer."""
    return (logits.argmax(1) == teacher.argmax(1)).sum()


def answered(logits: Tensor, batch: Batch) -> Tensor:
    """Of a batch, [how many got their label, how many have one]; a mixed image counts for both of its labels."""
    answers = logits.argmax(1)
    pairs = [(batch.targets, None)]
    if batch.shares is not None:
        pairs = [(batch.targets, batch.shares), (batch.others, 1 - batch.shares)]
    found = torch.zeros(2, device=logits.device)
    for targets, share in pairs:
        both = torch.stack([answers == targets, targets >= 0]).float()
        found += (both if share is None else both * share).sum(1)
    return found


def wide(logits: Tensor) -> Tensor:
    """In f64, which mps lacks."""
    return (logits.cpu() if logits.device.type == "mps" else logits).double()


def nll(logits: Tensor, targets: Tensor) -> float:
    """Mean of -log p of the label, in nats."""
    logits = wide(logits)
    return float(F.cross_entropy(logits, targets.to(logits.device)))


def kl(logits: Tensor, teacher: Tensor) -> float:
    """Mean of KL(teacher || student) at T = 1, in nats."""
    mine, theirs = (wide(side).log_softmax(1) for side in (logits, teacher))
    return float(F.kl_div(mine, theirs, reduction="batchmean", log_target=True))


def ece(logits: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """How far the confidence is from the accuracy (Guo et al. 2017): a mean over equal bins, weighted by their rows."""
    confidence, answer = wide(logits).softmax(1).max(1)
    targets = targets.to(answer.device)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # a bin has its upper end, not its lower one
    apart = (answer == targets).double() - confidence
    sums = torch.zeros(bins, dtype=apart.dtype, device=apart.device).index_add_(0, place, apart)
    return float(sums.abs().sum() / len(place))


def summary(logits: Tensor, targets: Tensor, teacher: Tensor | None = None) -> dict[str, float]:
    """Shares of the rows: top1, top5 where there are more than five classes, agreement where there is a teacher.

    >>> summary(torch.eye(3), torch.tensor([0, 1, 1]))
    {'top1': 0.6666666666666666}
    """
    found, (mine, right) = {}, labelled(logits, targets)
    if len(right):
        found["top1"] = int(correct(mine, right)) / len(right)
        if logits.shape[1] > 5:
            found["top5"] = int(correct(mine, right, 5)) / len(right)
    if teacher is not None and len(logits):
        found["agreement"] = int(agreement(logits, teacher)) / len(logits)
    if not torch.isfinite(logits).all():
        found["finite"] = 0.0
    return found


def calibration(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """nll and ece, where there are labels."""
    if logits.device.type == "mps":  # which has no f64
        logits, targets = logits.cpu(), targets.cpu()
    known = labelled(logits, targets)
    return {"nll": nll(*known), "ece": ece(*known)} if len(known[1]) else {}


def labelled(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    rows = targets >= 0
    return logits[rows], targets[rows]
