"""Intervals and tests against scipy."""

import doctest

import numpy as np
import pytest
from scipy import stats

from kdcache.report import statistics
from kdcache.report.statistics import half_difference, half_interval, incomplete_beta, mark, t_quantile, welch
from kdcache.report.table import cell


def test_as_documented():
    assert doctest.testmod(statistics).failed == 0


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 3, 7.25, 19, 30, 200, 1e4])
@pytest.mark.parametrize("share", [0.5, 0.6, 0.9, 0.975, 0.9995])
def test_quantiles_are_those_of_scipy(share, freedom):
    assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("a", [0.5, 1, 2.5, 40, 5000])
@pytest.mark.parametrize("x", [0.0, 1e-9, 0.2, 0.5, 0.97, 1.0])
def test_the_incomplete_beta_function_is_that_of_scipy(a, x):
    assert incomplete_beta(a, 0.5, x) == pytest.approx(stats.beta.cdf(x, a, 0.5), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_and_the_test_are_those_of_scipy(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 9, 2)
    some, others = rng.normal(0, 1, n), rng.normal(rng.choice([0, 1, 5]), rng.choice([0.1, 3]), m)
    low, high = stats.t.interval(0.95, n - 1, some.mean(), stats.sem(some))
    assert half_interval([*some]) == pytest.approx((high - low) / 2, rel=1e-9)
    test = stats.ttest_ind(some, others, equal_var=False)
    low, high = test.confidence_interval()
    assert welch([*some], [*others]) == pytest.approx(test.pvalue, rel=1e-8)
    assert half_difference([*some], [*others]) == pytest.approx((high - low) / 2, rel=1e-8)


def test_nothing_is_said_of_too_few_values_or_of_values_that_never_vary():
    assert half_interval([0.5]) is None
    for nobody_can_tell in (([0.5], [0.1, 0.2]), ([0.5, 0.5], [0.1, 0.1])):
        assert welch(*nobody_can_tell) is half_difference(*nobody_can_tell) is None
    assert [mark(p) for p in (None, 0.2, 0.04, 0.009, 0.0009)] == ["", "", "*", "**", "***"]


def test_a_cell_of_markdown_is_one_cell():
    assert cell("st | T=4\nx") == "st \\| T=4 x"
