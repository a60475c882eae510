"""Means, intervals and gaps against hand-computed values and against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from cartesian_moe_jax.study.statistics import (
    effective_number,
    holm,
    independent_number,
    paired_difference,
    pooled_sd,
    relative_load,
    smallest_gap,
    summary,
)

FIRST = {0: 3.10, 1: 3.30, 2: 3.26, 7: 9.0}
SECOND = {0: 3.00, 1: 3.10, 2: 3.20, 5: 1.0}


def test_a_summary_is_that_of_a_sample():
    found = summary([1.0, 2.0, 4.0, 5.0])
    assert (found.mean, found.low, found.high, found.n) == (3.0, 1.0, 5.0, 4)
    assert found.sd == pytest.approx(math.sqrt(10 / 3))
    assert summary([2.0]).sd is None
    with pytest.raises(ValueError, match="nothing to sum up"):
        summary([])


def test_a_difference_is_over_the_seeds_of_both_and_equals_scipys():
    found = paired_difference(FIRST, SECOND)
    # Differences .10, .20, .06: mean .12, squared deviations .0004 + .0064 + .0036.
    assert found.n == 3
    assert found.mean == pytest.approx(0.12)
    assert found.sd == pytest.approx(math.sqrt(0.0104 / 2))
    shared = ([3.10, 3.30, 3.26], [3.00, 3.10, 3.20])
    interval = stats.ttest_rel(*shared).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_verdict_is_that_of_scipys_test(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0, 1, 6), rng.normal(1.5, 1, 6)
    pvalue = stats.ttest_rel(first, second).pvalue
    found = paired_difference(dict(enumerate(first)), dict(enumerate(second)))
    assert found.verdict == ("lower" if pvalue < 0.05 else "not told apart")
    assert found.p == pytest.approx(pvalue)


def test_holms_p_values_are_those_computed_by_hand():
    # Sorted: 4 x .01, 3 x .02 = .06, 2 x .025 = .05 (not below the one before), 1 x .9.
    found = holm({"c": 0.025, "d": 0.9, "a": 0.01, "b": 0.02})
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.9})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_verdicts_name_the_direction_and_one_pair_has_none():
    base = {0: 1.0, 1: 1.0, 2: 1.0}
    assert paired_difference({0: 2.0, 1: 2.1, 2: 1.9}, base).verdict == "higher"
    assert paired_difference({0: 0.1, 1: 0.0, 2: 0.2}, base).verdict == "lower"
    same, far = paired_difference(base, base), paired_difference(dict.fromkeys(base, 2.0), base)
    assert (same.verdict, same.p) == ("not told apart", 1.0)
    assert (far.verdict, far.p) == ("higher", 0.0)
    single = paired_difference({0: 5.0}, base)
    assert (single.low, single.high, single.sd, single.p) == (None,) * 4
    assert single.verdict == "not told apart"


def test_pooling_weighs_by_degrees_of_freedom():
    found = pooled_sd([(1.0, 2), (2.0, 4), (None, 1)])
    assert found.sd == pytest.approx(math.sqrt((1 * 1 + 4 * 3) / 4))
    assert found.degrees == 4
    assert pooled_sd([(None, 1)]) is None


@pytest.mark.parametrize("n", [3, 8])
def test_the_smallest_gap_is_found_four_times_in_five(n):
    gap = smallest_gap(0.02, n)
    samples = np.random.default_rng(0).normal(gap, 0.02, (40_000, n))
    found = np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.01)


def test_the_smallest_gap_of_many_pairs_is_that_of_the_normal_distribution():
    wanted = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / math.sqrt(2000)
    assert smallest_gap(1.0, 2000) == pytest.approx(wanted, rel=1e-3)
    assert smallest_gap(1.0, 2) > smallest_gap(1.0, 3) > smallest_gap(1.0, 4)
    with pytest.raises(ValueError, match="n=1"):
        smallest_gap(1.0, 1)


def test_effective_numbers_count_what_is_used():
    assert effective_number(np.full((4, 4), 1 / 16)) == pytest.approx(16)
    diagonal = np.eye(4) / 4  # each first expert has one second: 4 pairs, 16 if independent
    assert effective_number(diagonal) == pytest.approx(4)
    assert independent_number(diagonal) == pytest.approx(16)
    product = np.outer([0.75, 0.25], [0.5, 0.5])
    assert effective_number(product) == pytest.approx(independent_number(product))
    assert effective_number(np.array([1.0, 0.0])) == 1


def test_loads_are_relative_to_the_even_one():
    assert relative_load([1.0, 3.0]).tolist() == [0.5, 1.5]
