"""How each measure is counted from a network's answers; None where it is not defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcache import lazy_torch as torch
from kdcache.measures.answers import Outcome

if TYPE_CHECKING:
    from torch import Tensor

BINS = 15
MOST_CLASSES = 2048  # of a confusion matrix


def top1(found: Outcome) -> float:
    return int(found.right.sum()) / len(found.right)


def top5(found: Outcome) -> float | None:
    if found.classes <= 5:
        return None
    likeliest = found.logits[found.labelled].topk(5, 1).indices
    return int((likeliest == found.labels[:, None]).any(1).sum()) / len(found.labels)


def nll(found: Outcome) -> float:
    """Mean of -log p of the label, in nats."""
    return float(-found.log_p[found.labelled].gather(1, found.labels[:, None]).mean())


def reliability(found: Outcome, bins: int = BINS) -> list[dict[str, float]]:
    """Rows by confidence, in equal bins that have their upper end and not their lower one; those that have rows."""
    place = (found.confidence * bins).ceil().clamp(1, bins).long() - 1
    rows = torch.bincount(place, minlength=bins).double()
    confidence, right = (
        torch.zeros_like(rows).index_add_(0, place, one) / rows for one in (found.confidence, found.right.double())
    )
    return [
        {
            "above": i / bins, "to": (i + 1) / bins, "rows": int(rows[i]),
            "confidence": float(confidence[i]), "accuracy": float(right[i]),
        }
        for i in range(bins) if rows[i]
    ]  # fmt: skip


def ece(found: Outcome, bins: int = BINS) -> float:
    """How far the confidence is from the accuracy (Guo et al. 2017): a mean over bins, weighted by their rows."""
    apart = (one["rows"] * abs(one["accuracy"] - one["confidence"]) for one in reliability(found, bins))
    return sum(apart) / len(found.labels)


def agreement(found: Outcome) -> float:
    return int((found.answers == found.teacher.argmax(1)).sum()) / found.rows


def kl(found: Outcome) -> float:
    """Mean of KL(teacher || student) at T = 1, in nats."""
    theirs = found.teacher.double().log_softmax(1)
    return float((theirs.exp() * (theirs - found.log_p)).sum(1).mean())


def finite(found: Outcome) -> float | None:
    """Measured where something is wrong."""
    return None if found.sound else 0.0


def confusion(found: Outcome) -> list[list[int]] | None:
    """None of many classes, of which it would take gigabytes."""
    return found.confusion().tolist() if found.classes <= MOST_CLASSES else None


def images_by_class(found: Outcome) -> list[int]:
    return found.of_label.tolist()


def precision_by_class(found: Outcome) -> list[float | None]:
    return shares(found.hits, found.of_answer)


def recall_by_class(found: Outcome) -> list[float | None]:
    return shares(found.hits, found.of_label)


def f1_by_class(found: Outcome) -> list[float | None]:
    return shares(2 * found.hits, found.of_answer + found.of_label)


def precision(found: Outcome) -> float:
    return macro(found, precision_by_class(found))


def recall(found: Outcome) -> float:
    return macro(found, recall_by_class(found))


def f1(found: Outcome) -> float:
    return macro(found, f1_by_class(found))


def macro(found: Outcome, by_class: list[float | None]) -> float:
    """The mean over all classes that are a label or an answer; what is not defined of one of them counts as 0."""
    seen = (found.of_answer + found.of_label > 0).tolist()
    values = [value or 0.0 for value, there in zip(by_class, seen, strict=True) if there]
    return sum(values) / len(values)


def shares(some: Tensor, of: Tensor) -> list[float | None]:
    """None of nothing."""
    return [part / whole if whole else None for part, whole in zip(some.tolist(), of.tolist(), strict=True)]
