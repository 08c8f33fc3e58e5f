"""Intervals and paired tests agree with published values and with scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from safedojo_ros.data.statistics import column_statistics
from safedojo_ros.evaluation.statistics import (
    bootstrap_mean,
    mcnemar_exact,
    paired_difference,
    wilson,
)


@given(n=st.integers(1, 400), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_wilson_is_scipys_wilson(n: int, share: float, confidence: float) -> None:
    k = round(n * share)
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    seen = wilson(k, n, confidence)
    assert seen.value == k / n
    assert (seen.low, seen.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_known_values() -> None:
    seen = wilson(7, 10)
    assert (seen.low, seen.high) == pytest.approx((0.39678, 0.89221), abs=1e-5)
    assert wilson(0, 20).low == 0.0
    assert wilson(20, 20).high == 1.0
    nothing = wilson(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="not possible"):
        wilson(3, 2)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(
    pairs: list[tuple[bool, bool]],
) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    only_first = sum(a and not b for a, b in pairs)
    n = only_first + sum(b and not a for a, b in pairs)
    expected = stats.binomtest(only_first, n).pvalue if n else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected, abs=1e-12)
    assert mcnemar_exact(first, second) == mcnemar_exact(second, first)


def test_mcnemar_known_value() -> None:
    first = [True] * 10 + [False] * 2 + [True] * 30
    second = [False] * 10 + [True] * 2 + [True] * 30
    assert mcnemar_exact(first, second) == pytest.approx(0.03857, abs=1e-5)  # b = 10, c = 2


def test_the_bootstrap_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400).tolist()
    seen = bootstrap_mean(values)
    half = 1.96 * np.std(values) / 20
    assert seen.value == pytest.approx(np.mean(values))
    assert (seen.value - seen.low, seen.high - seen.value) == pytest.approx((half, half), rel=0.15)
    assert bootstrap_mean(values) == seen
    assert bootstrap_mean(values, seed=1) != seen


def test_pairing_removes_what_both_methods_share() -> None:
    shared = np.random.default_rng(2).normal(0.0, 10.0, 200)
    seen = paired_difference((shared + 1.0).tolist(), shared.tolist())
    assert (seen.value, seen.low, seen.high) == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="not pairs"):
        paired_difference([1.0], [1.0, 2.0])


def test_column_statistics_are_numpys() -> None:
    values = np.random.default_rng(3).normal(size=(500, 3))
    seen = column_statistics(values)
    assert seen["mean"] == pytest.approx(values.mean(0))
    assert seen["std"] == pytest.approx(values.std(0))
    assert seen["q01"] == pytest.approx(np.quantile(values, 0.01, axis=0))
    assert seen["min"][0] <= seen["q01"][0] <= seen["mean"][0] <= seen["q99"][0] <= seen["max"][0]
    assert seen["count"] == [500]
