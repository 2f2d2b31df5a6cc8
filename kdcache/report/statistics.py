"""Means with intervals, and whether two means differ: Student's t distribution, in a few lines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache

LEVEL = 0.95
TINY = 1e-300
MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
STARS = "* p < 0.05, ** p < 0.01, *** p < 0.001 by Welch's t-test, two-sided, not corrected for many comparisons"


def half_interval(values: Sequence[float], level: float = LEVEL) -> float | None:
    """Half the length of the confidence interval of the mean; None of a single value.

    >>> round(half_interval([1.0, 2.0, 3.0]), 4)
    2.4841
    """
    n = len(values)
    return t_quantile((1 + level) / 2, n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None


def welch(some: Sequence[float], others: Sequence[float]) -> float | None:
    """How likely means so far apart are if there is no difference (Welch 1947, two-sided); None where nobody can tell.

    >>> round(welch([5.0, 6.0, 7.0], [1.0, 2.0, 4.0]), 4)
    0.0322
    """
    if (known := error_of_difference(some, others)) is None:
        return None
    error, freedom = known
    return beyond((statistics.fmean(some) - statistics.fmean(others)) / error, freedom)


def half_difference(some: Sequence[float], others: Sequence[float], level: float = LEVEL) -> float | None:
    """Half the length of the confidence interval of the difference of two means; None where nobody can tell.

    >>> round(half_difference([5.0, 6.0, 7.0], [1.0, 2.0, 4.0]), 4)
    3.1209
    """
    if (known := error_of_difference(some, others)) is None:
        return None
    error, freedom = known
    return t_quantile((1 + level) / 2, freedom) * error


def error_of_difference(some: Sequence[float], others: Sequence[float]) -> tuple[float, float] | None:
    """The standard error of the difference of two means, and its degrees of freedom (Welch 1947)."""
    if min(len(some), len(others)) < 2:
        return None
    a, b = (statistics.variance(side) / len(side) for side in (some, others))
    if a + b == 0:
        return None
    return math.sqrt(a + b), (a + b) ** 2 / (a**2 / (len(some) - 1) + b**2 / (len(others) - 1))


def mark(p: float | None) -> str:
    """Stars, as usual: one below 0.05, two below 0.01, three below 0.001."""
    return "" if p is None else next((stars for most, stars in MARKS if p < most), "")


def beyond(t: float, freedom: float) -> float:
    """The share of Student's distribution that is farther from 0 than t."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@cache  # of a handful of sizes, thousands of times
def t_quantile(share: float, freedom: float) -> float:
    """The t below which this share (of at least a half) of Student's distribution lies."""
    low, high = 0.0, 1.0
    while 1 - beyond(high, freedom) / 2 < share:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - beyond(middle, freedom) / 2 < share else (low, middle)
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised, by its continued fraction, which converges fast below the mean of the distribution."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / (a * fraction(a, b, x))


def fraction(a: float, b: float, x: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)) by the method of Lentz."""
    value = above = 1.0
    below = 0.0
    for n in range(1, 1000):
        m = n // 2
        if n % 2:
            d = -(a + m) * (a + b + m) * x / ((a + n - 1) * (a + n))
        else:
            d = m * (b - m) * x / ((a + n - 1) * (a + n))
        below = 1 / (1 + d * below or TINY)
        above = 1 + d / above or TINY
        value *= above * below
        if abs(above * below - 1) < 1e-15:
            break
    return value
