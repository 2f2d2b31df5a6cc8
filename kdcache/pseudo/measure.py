"""What a real teacher's logits say about it, in the words that `PseudoTeacher` takes."""

from __future__ import annotations

import numpy as np

from kdcache.errors import UsageError
from kdcache.pseudo.ask import labels_and_classes

COOLEST, HOTTEST = 0.5, 10.0  # beyond these a temperature says that there was too little to measure it from
QUANTILES = 65


def measure_teacher(logits, labels) -> dict:
    """Confusion (and with it accuracy), confidence of right and of wrong rows, spread and temperature.

    The confidences are those at T = 1. The rest is spread as it is at the temperature at which the teacher is
    calibrated, so the peaks are translated: at T = 1 the answers then have the peaks that were measured.
    """
    logits, labels, classes = checked(logits, labels)
    answer = logits.argmax(1)
    right = answer == labels
    temperature = round(calibrating_temperature(logits, labels), 3)
    peak = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
    spread = mean_rest(logits / temperature, answer)
    # p / (1 - p) at T = 1 is (p / (1 - p))**t / sum(shares**t) for a peak p at T = t
    width = np.sum(spread**temperature, 1)[answer]
    odds = (np.log(peak) - np.log(np.maximum(1 - peak, 1e-12)) + np.log(width)) / temperature
    peak = 1 / (1 + np.exp(-odds))
    confidence = {"right": quantiles(peak[right], peak), "wrong": quantiles(peak[~right], peak)}
    return {
        "confusion": confusion_of(answer, labels, classes).tolist(),
        "confidence": confidence,
        "spread": [[float(f"{share:.4g}") for share in row] for row in spread],
        "temperature": temperature,
        "classes": classes,
    }


def checked(logits, labels) -> tuple[np.ndarray, np.ndarray, int]:
    """Labelled rows of all views, one after another."""
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim not in (2, 3) or logits.shape[-1] < 2:
        found, remedy = f"shape {list(logits.shape)}", "give what the teacher answered"
        raise UsageError("logits", "[rows, classes] or [views, rows, classes]", found, remedy)
    labels, classes = labels_and_classes(labels, logits.shape[-1], "flat")
    if logits.shape[-2] != len(labels):
        found = f"{logits.shape[-2]} rows of logits, {len(labels)} labels"
        raise UsageError("logits", "a row for every label", found, "give those of the same rows")
    if not np.isfinite(logits).all():
        raise UsageError("logits", "finite numbers", "NaN or infinity", "see what the teacher answers there")
    labels = np.tile(labels, logits.size // (len(labels) * classes))
    logits = logits.reshape(-1, classes)[labels >= 0]
    if not len(logits):
        raise UsageError("labels", "some rows with a label", "none", "accuracy cannot be measured without")
    return logits, labels[labels >= 0], classes


def calibrating_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which the likelihood of the labels is largest; 1 where no error tells it."""
    if (logits.argmax(1) == labels).all():
        return 1.0
    step = -(-len(logits) // 100_000)
    logits, labels = logits[::step] - logits[::step].max(1, keepdims=True), labels[::step]
    true = logits[np.arange(len(labels)), labels].mean()
    low, high = 1 / HOTTEST, 1 / COOLEST
    for _ in range(40):  # the likelihood is concave in 1/T: halve towards the zero of its slope
        middle = (low + high) / 2
        shares = np.exp(logits * middle)
        expected = ((shares * logits).sum(1) / shares.sum(1)).mean()
        low, high = (middle, high) if true > expected else (low, middle)
    return 2 / (low + high)


def confusion_of(answer: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Shares of the answers per true class; a class without rows is as right as all others together."""
    counts = np.bincount(labels * classes + answer, minlength=classes**2).reshape(classes, classes).astype(np.float64)
    accuracy, unseen = np.trace(counts) / counts.sum(), counts.sum(1) == 0
    guess = np.full_like(counts, (1 - accuracy) / (classes - 1))
    np.fill_diagonal(guess, accuracy)
    counts[unseen] = guess[unseen]
    return counts / counts.sum(1, keepdims=True)


def mean_rest(logits: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """How what is not on the answer is spread over the others [C, C]: from mean logits, whose gaps hold at any T."""
    classes = logits.shape[1]
    order = np.argsort(answer, kind="stable")
    found, starts = np.unique(answer[order], return_index=True)
    means = np.zeros((classes, classes))
    means[found] = np.add.reduceat(logits[order], starts, axis=0) / np.diff([*starts, len(order)])[:, None]
    np.fill_diagonal(means, -np.inf)
    shares = np.exp(means - means.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def quantiles(peak: np.ndarray, otherwise: np.ndarray) -> list:
    """The peaks as PseudoTeacher takes them; where there are none, those of all rows."""
    values = np.quantile(peak if len(peak) else otherwise, np.linspace(0, 1, QUANTILES))
    return ["quantiles", [round(float(value), 9) for value in values]]
