"""Intervals against hand-computed and textbook values."""

import numpy as np
import pytest

from onepix.config import Statistics
from onepix.statistics import bootstrap_mean, wilson


def test_wilson_by_its_formula():
    """For 3 of 10: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964."""
    z, n, p = 1.959963984540054, 10, 0.3
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert wilson(3, 10, 0.95) == pytest.approx(expected)
    assert wilson(3, 10, 0.95) == pytest.approx((0.1078, 0.6032), abs=1e-4)


def test_wilson_at_its_ends():
    assert wilson(0, 10, 0.95)[0] == 0
    assert wilson(10, 10, 0.95)[1] == 1
    assert np.isnan(wilson(0, 0, 0.95)).all()


def test_bootstrap_of_a_large_sample_is_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    mean, low, high = bootstrap_mean(values, Statistics(resamples=2000))
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_bootstrap_of_three_values_by_hand():
    """The means of all 27 resamples of 0, 0, 3: the smallest, 0, has probability 8/27, the largest, 3, 1/27."""
    assert bootstrap_mean([0, 0, 3], Statistics()) == (1.0, 0.0, 3.0)
    assert bootstrap_mean([0, 0, 3], Statistics(confidence=0.9)) == (1.0, 0.0, 2.0)


def test_bootstrap_of_few_values():
    assert np.isnan(bootstrap_mean([], Statistics())).all()
    mean, low, high = bootstrap_mean([0.25], Statistics())
    assert mean == 0.25
    assert np.isnan([low, high]).all()
    assert bootstrap_mean([0.5, 0.5], Statistics()) == (0.5, 0.5, 0.5)


def test_bootstrap_repeats():
    assert bootstrap_mean([1, 2, 4, 9], Statistics()) == bootstrap_mean([1, 2, 4, 9], Statistics())
