"""From a decision to logits: how sure the answer is of itself, and how the rest is spread over the other classes.

Only sizes are made here, in floating point, whose last bit may differ between machines; which class is the
largest has been decided before, and GAP keeps it so through float32 and f16.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kdcache import seeds
from kdcache.checks import quoted
from kdcache.errors import UsageError
from kdcache.pseudo.ask import matrix, number

GAP = 0.99  # no other class gets more than this share of the peak
HIGHEST = 1 - 2.0**-24  # a peak of 1 would be an infinite logit; this one is 1 in float32
DEPTH = -14.0  # logits this far below the runner-up are as good as never
SMOOTH = 1e-4  # a class never seen confused still gets this part of an even share
CONCENTRATION = 4.0  # of a calibrated teacher's Beta: from hesitant to sure, as real ones are

FORMS = "a number, (low, high), (beta, a, b), (quantiles, [...]) or one of these for right and for wrong"


def lowest_peak(classes: int) -> float:
    """The flattest answer that still has a largest class."""
    return 1 / (1 + GAP * (classes - 1))


def grid(centre: float, left: float, right: float, points: int = 2048) -> np.ndarray:
    """Places from centre - left to centre + right, close together around the centre."""
    steps = np.linspace(0, 1, points)
    below, above = np.expm1(steps * np.log1p(left)), np.expm1(steps * np.log1p(right))
    return np.concatenate([centre - below[:0:-1], centre + above])


def cumulated(log_density: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The distribution function of a density known at some places."""
    density = np.exp(log_density - log_density.max())
    area = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) * np.diff(at))])
    return area / area[-1]


def beta_table(a: float, b: float, low: float = 0.0, high: float = 1.0, given: str = "") -> tuple:
    """Shares and quantiles of a Beta stretched over low..high; `given` right or wrong, of the peaks p of such rows.

    Right rows are met in proportion p and wrong ones in proportion 1 - p: then, of all rows with a peak near p,
    a share p is right, which is what calibrated means.
    """
    deviation = (1 / a + 1 / b) ** 0.5
    at = grid(np.log(a / b), 10 * deviation + 20 / a, 10 * deviation + 20 / b)  # in log odds no end is singular
    log_x, log_rest = -np.logaddexp(0, -at), -np.logaddexp(0, at)
    peak = low + (high - low) * np.exp(log_x)
    density = a * log_x + b * log_rest
    if given:
        density = density + np.log(peak if given == "right" else 1 - high + (high - low) * np.exp(log_rest))
    return cumulated(density, at), peak


def peak_table(spec, classes: int, place: str = "`confidence`") -> tuple:
    """Shares and quantiles of a stated confidence."""
    lowest = lowest_peak(classes)
    floor = f"{lowest:.6g} is the flattest answer of {classes} classes that still has a largest one"
    if isinstance(spec, list) and len(spec) == 3 and spec[0] == "beta":
        a, b = (number(f"{place} beta", v, 1e-2, 1e6) for v in spec[1:])
        return beta_table(a, b)
    if isinstance(spec, list) and len(spec) == 2 and spec[0] == "quantiles" and isinstance(spec[1], list) and spec[1]:
        values = [number(f"{place} quantiles", v, 0, 1) for v in spec[1]]
        if values != sorted(values):
            raise UsageError(f"{place} quantiles", "growing numbers", quoted(values), "sort them")
        return np.linspace(0, 1, len(values)), np.array(values)
    if isinstance(spec, list) and len(spec) == 2 and not isinstance(spec[0], str):
        low, high = (number(place, v, lowest, 1, floor) for v in spec)
        if low > high:
            raise UsageError(place, "low before high", quoted(spec), "swap them")
        return np.array([0.0, 1.0]), np.array([low, high])
    if isinstance(spec, list | dict | str) or spec is None:
        raise UsageError(place, FORMS, quoted(spec), "state one of these forms")
    return np.array([0.0, 1.0]), np.full(2, number(place, spec, lowest, 1, floor))


def peak_tables(spec, classes: int) -> dict:
    """The tables of right and of wrong rows."""
    if isinstance(spec, dict) and set(spec) == {"right", "wrong"}:
        return {side: peak_table(spec[side], classes, f"`confidence` of {side} rows") for side in spec}
    return dict.fromkeys(("right", "wrong"), peak_table(spec, classes))


def calibrated_tables(spec, accuracy: float, classes: int) -> dict:
    """The tables of a teacher that is as often right as it says; `spec` states only how widely it varies."""
    low, high, concentration = lowest_peak(classes), HIGHEST, CONCENTRATION
    if spec is not None:
        if not isinstance(spec, list) or spec[:1] == ["quantiles"]:
            raise UsageError(
                "`confidence`", "a range or a Beta beside calibrated", quoted(spec), "leave one of them out"
            )
        ends = peak_table(spec, classes)[1]
        if spec[0] == "beta":
            concentration = float(spec[1] + spec[2])
        else:
            low, high = map(float, ends)
    accuracy = min(accuracy, HIGHEST)
    if not low <= accuracy <= high:
        expected = f"an accuracy from {low:.6g} to {high:.6g}, as the peaks of a calibrated teacher"
        raise UsageError("`calibrated`", expected, f"{accuracy:.6g}", "change the accuracy, or leave `calibrated` out")
    mean = (accuracy - low) / (high - low) if high > low else 0
    if not 1e-3 < mean < 1 - 1e-3:  # no room to vary
        return dict.fromkeys(("right", "wrong"), (np.array([0.0, 1.0]), np.full(2, accuracy)))
    a, b = concentration * mean, concentration * (1 - mean)
    return {side: beta_table(a, b, low, high, side) for side in ("right", "wrong")}


def spread_table(spec, classes: int, confusion) -> np.ndarray | None:
    """Log shares of the rest [C, C], a row per answer, for a spread that is the same for all rows; None for uniform."""
    if spec == "uniform":
        return None
    if spec == "similarity":
        if confusion is None:
            raise UsageError("`spread`", "a confusion matrix to read similarity from", "none", "give `confusion`, too")
        likeness = confusion + confusion.T
    else:
        likeness = matrix("`spread`", spec, classes)
    likeness = likeness * (1 - np.eye(classes))
    total = likeness.sum(1, keepdims=True)
    even = (1 - np.eye(classes)) / (classes - 1)
    shares = np.where(total > 0, (1 - SMOOTH) * likeness / np.where(total > 0, total, 1) + SMOOTH * even, even)
    return np.log(shares + np.eye(classes)).astype(np.float32)  # nothing of the rest is on the answer itself


@lru_cache(8)
def gamma_table(concentration: float) -> np.ndarray:
    """Logarithms of Gamma variables, one for every 16-bit word."""
    k, deviation = concentration, concentration**-0.5
    right = np.log(k + 10 * k**0.5 + 20) - np.log(k)
    at = grid(np.log(k), 10 * deviation + 20 / k, right)
    words = (np.arange(2**16) + 0.5) / 2**16
    return np.interp(words, cumulated(k * at - np.exp(at), at), at).astype(np.float32)


def dirichlet(concentration: float, seed: int, view: int, rows: np.ndarray, answer: np.ndarray, classes: int):
    """Log shares of the rest [n, C], drawn for every row; a counter of 128 bits serves eight classes."""
    blocks = -(-classes // 8)
    index = rows[:, None] * blocks + np.arange(blocks)
    words = np.empty((len(rows), blocks, 4), "<u4")  # little-endian, so that its halves are the same everywhere
    for at, word in enumerate(seeds.keyed(seed, index, view, seeds.SPREAD)):
        words[..., at] = word
    drawn = gamma_table(concentration)[words.view("<u2").reshape(len(rows), -1)[:, :classes]]
    here = np.arange(len(rows)), answer
    drawn[here] = -np.inf
    drawn -= drawn.max(1, keepdims=True)
    np.maximum(drawn, DEPTH, out=drawn)
    drawn[here] = -np.inf
    drawn -= np.log(np.exp(drawn).sum(1, keepdims=True))
    return drawn


def assemble(answer: np.ndarray, peak: np.ndarray, shares: np.ndarray, temperature: float) -> np.ndarray:
    """Logits [n, C] around 0: their softmax at the temperature has this peak and spreads the rest by these log shares.

    It works in place of the shares.
    """
    here = np.arange(len(answer)), answer
    odds = np.log(peak) - np.log1p(-peak)
    shares[here] = -np.inf
    high = np.flatnonzero(shares.max(1) - odds > np.log(GAP))
    if len(high):  # the rest would overtake the peak: even it out, just as far as needed
        part, cap = np.exp(shares[high].astype(np.float64)), GAP * np.exp(odds[high])[:, None]
        even, most = 1 / (shares.shape[1] - 1), part.max(1, keepdims=True)
        weight = np.clip((most - cap) / np.maximum(most - even, 1e-12), 0, 1)
        with np.errstate(divide="ignore"):
            shares[high] = np.log(np.where(part > 0, part + weight * (even - part), 0))
    shares -= odds[:, None].astype(np.float32)
    shares[here] = 0
    shares -= shares.mean(1, keepdims=True)
    shares *= np.float32(temperature)
    return shares
