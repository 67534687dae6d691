"""Intervals against hand-computed and textbook values."""

import numpy as np
import pytest

from onepix.analysis.statistics import bootstrap_mean, bootstrap_means, q_values, resampled, wilson
from onepix.config.statistics import Statistics


def test_wilson_by_its_formula():
    """For 3 of 10: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964."""
    z, n, p = 1.959963984540054, 10, 0.3
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert wilson(3, 10, 0.95) == pytest.approx(expected)
    assert wilson(3, 10, 0.95) == pytest.approx((0.1078, 0.6032), abs=1e-4)


def test_wilson_at_its_ends():
    """Without a success, the formula gives 0 and z² / (n + z²); with nothing else, the mirror image."""
    z = 1.959963984540054
    assert wilson(0, 10, 0.95) == (0, pytest.approx(z**2 / (10 + z**2)))
    assert wilson(10, 10, 0.95) == (pytest.approx(10 / (10 + z**2)), 1)
    assert wilson(1, 1, 0.95) == (pytest.approx(1 / (1 + z**2)), 1)
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


def test_means_of_columns_are_those_of_one_column_at_a_time():
    """Scipy's bootstrap is the oracle; it draws other resamples, so bounds agree to their own noise."""
    values = np.random.default_rng(1).gamma(2, size=(60, 3))
    settings = Statistics(resamples=9999)
    means, low, high = bootstrap_means(values, settings)
    for column in range(3):
        expected = bootstrap_mean(values[:, column], settings)
        width = expected[2] - expected[1]
        assert means[column] == pytest.approx(expected[0])
        assert (low[column], high[column]) == pytest.approx(expected[1:], abs=0.05 * width)


def test_missing_values_are_left_out_of_their_column():
    values = np.array([[0.0, np.nan, np.nan], [0.0, 5.0, np.nan], [3.0, np.nan, np.nan]])
    means, low, high = bootstrap_means(values, Statistics())
    assert means[:2].tolist() == [1, 5]
    assert (low[0], high[0]) == (0, 3)
    assert np.isnan([means[2], *low[1:], *high[1:]]).all(), "one value has no interval, none has no mean"
    assert np.isnan(bootstrap_means(np.zeros((0, 2)), Statistics())).all()


def test_resamples_are_as_large_as_the_sample_and_streams_differ():
    settings = Statistics(resamples=200)
    first, again, other = (np.concatenate(list(resampled(7, settings, stream))) for stream in (0, 0, 1))
    assert first.shape == (200, 7)
    assert (first.sum(1) == 7).all()
    assert (first == again).all()
    assert (first != other).any(1).mean() > 0.9


def test_q_values_by_hand():
    """Sorted, p · n / rank: 0.01·4/1, 0.02·4/2, 0.04·4/3, 0.5·4/4; each the least of its own and those after it."""
    assert q_values([0.04, 0.01, 0.5, 0.02]) == pytest.approx([0.04 * 4 / 3, 0.04, 0.5, 0.04])
    assert q_values([0.03, 0.029, 0.9]) == pytest.approx([0.045, 0.045, 0.9]), "0.029 · 3 / 1 is above 0.03 · 3 / 2"
    assert q_values([0.01, 0.01, 1.0, 0.0]) == pytest.approx([0.04 / 3, 0.04 / 3, 1, 0]), "equal ones share the last's"


def test_q_values_leave_out_what_was_not_tested():
    q = q_values([0.02, np.nan, 0.01, np.nan])
    assert q[[0, 2]] == pytest.approx([0.02, 0.02])
    assert np.isnan(q[[1, 3]]).all()
    assert np.isnan(q_values([np.nan])).all()
    assert q_values([]).shape == (0,)
