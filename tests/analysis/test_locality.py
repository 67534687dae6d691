"""Locality rates, distance profiles and length scales, by hand and against loops."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import random_maps
from studies import ROOT

from onepix.analysis.locality import distance_profile, half_distance, neighbour_rates, random_position_rates
from onepix.config.statistics import Statistics

FEW = Statistics(resamples=200)


@pytest.mark.parametrize(
    ("row", "column", "neighbours"),
    [(2, 2, 8), (0, 2, 5), (4, 3, 5), (2, 0, 5), (0, 0, 3), (0, 6, 3), (4, 0, 3), (4, 6, 3)],
)
def test_neighbours_in_the_middle_at_edges_and_in_corners(row, column, neighbours):
    """With one flipping neighbour, the rate is one over their number."""
    flips = np.zeros((1, 5, 7), bool)
    flips[0, row, column] = True
    assert neighbour_rates(flips, [row], [column]).item() == 0, "the pixel itself does not count"
    assert random_position_rates(flips, [row], [column]).item() == 0
    flips[0, row + (1 if row < 4 else -1), column] = True
    assert neighbour_rates(flips, [row], [column]).item() == pytest.approx(1 / neighbours)
    assert random_position_rates(flips, [row], [column]).item() == pytest.approx(1 / 34)


@given(st.integers(0, 2**32 - 1))
def test_rates_equal_loops(seed):
    generator = np.random.default_rng(seed)
    count, height, width = generator.integers(1, 5), generator.integers(2, 7), generator.integers(2, 7)
    flips = generator.random((count, height, width)) < 0.4
    rows, columns = generator.integers(0, height, count), generator.integers(0, width, count)
    for image in range(count):
        near, everywhere = [], []
        for y in range(height):
            for x in range(width):
                if (y, x) == (rows[image], columns[image]):
                    continue
                everywhere.append(flips[image, y, x])
                if abs(y - rows[image]) <= 1 and abs(x - columns[image]) <= 1:
                    near.append(flips[image, y, x])
        assert neighbour_rates(flips, rows, columns)[image] == pytest.approx(np.mean(near))
        assert random_position_rates(flips, rows, columns)[image] == pytest.approx(np.mean(everywhere))


# Distance profiles


def test_a_profile_by_hand():
    """In 3 x 4, seen from the corner: 3 positions at distance 1, 5 at 2, 3 at 3; from (1, 1), 8 and 3 at 1 and 2."""
    flips = np.array(
        [
            [[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]],
            [[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]],
        ],
        dtype=bool,
    )
    table = distance_profile(flips, [0, 1], [0, 1], FEW)
    assert table["distance"].tolist() == [1, 2, 3]
    assert table["images"].tolist() == [2, 2, 1]
    assert table["rate"].tolist() == pytest.approx([(2 / 3 + 1 / 8) / 2, (1 / 5 + 1 / 3) / 2, 1 / 3])
    chances = 4 / 11, 2 / 11
    assert table["chance"].tolist() == pytest.approx([sum(chances) / 2] * 2 + [chances[0]])
    # Of two images, the smallest and largest means of resamples are those of one of them alone.
    np.testing.assert_allclose(table[["low", "high"]], [[1 / 8, 2 / 3], [1 / 5, 1 / 3], [np.nan, np.nan]])
    np.testing.assert_allclose(table[["chance_low", "chance_high"]], [[2 / 11, 4 / 11]] * 2 + [[np.nan] * 2])


@given(st.integers(0, 2**32 - 1))
def test_a_profile_equals_loops(seed):
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(2, 6, 2))
    flips, rows, columns = random_maps(seed, count=int(generator.integers(1, 4)), shape=shape)
    shares = {}
    for image, (row, column) in enumerate(zip(rows, columns, strict=True)):
        found = {}
        for y, x in np.ndindex(shape):
            found.setdefault(max(abs(y - row), abs(x - column)), []).append(flips[image, y, x])
        del found[0]
        chance = np.mean([value for values in found.values() for value in values])
        for distance, values in found.items():
            shares.setdefault(distance, []).append((np.mean(values), chance))
    table = distance_profile(flips, rows, columns, Statistics(resamples=100)).set_index("distance")
    assert table.index.tolist() == sorted(shares)
    for distance, pairs in shares.items():
        row = table.loc[distance]
        assert row["images"] == len(pairs)
        assert (row["rate"], row["chance"]) == pytest.approx(tuple(np.mean(pairs, axis=0)))
        if len(pairs) > 1:
            assert row.notna().all()
            assert row["low"] <= row["rate"] <= row["high"]
            assert row["chance_low"] <= row["chance"] <= row["chance_high"]


def test_the_first_distance_is_the_neighbours():
    flips, rows, columns = random_maps(3)
    first = distance_profile(flips, rows, columns, FEW).iloc[0]
    assert first["rate"] == pytest.approx(neighbour_rates(flips, rows, columns).mean())
    assert first["chance"] == pytest.approx(random_position_rates(flips, rows, columns).mean())


@pytest.mark.parametrize("value", [False, True])
def test_profiles_of_maps_that_flip_everywhere_or_nowhere(value):
    table = distance_profile(np.full((3, 4, 6), value), [0, 1, 3], [0, 2, 5], FEW)
    assert len(table) == 5
    several = table[table["images"] > 1]
    names = ["rate", "low", "high", "chance", "chance_low", "chance_high"]
    assert (several[names] == float(value)).all(axis=None)
    assert np.isnan(half_distance(np.full((3, 4, 6), value), [0, 1, 3], [0, 2, 5], FEW)).all()


def test_profiles_of_no_image_and_of_one():
    empty = distance_profile(np.zeros((0, 4, 6), bool), [], [], FEW)
    assert len(empty) == 0
    one = distance_profile(np.ones((1, 4, 6), bool), [0], [0], FEW)
    assert list(empty.columns) == list(one.columns)
    assert one["distance"].tolist() == [1, 2, 3, 4, 5]
    assert one[["rate", "chance"]].notna().all(axis=None)
    assert one[["low", "high", "chance_low", "chance_high"]].isna().all(axis=None)
    assert isinstance(one, pd.DataFrame)
    assert np.isnan(half_distance(np.zeros((0, 4, 6), bool), [], [], FEW)).all()


# Length scale


def disc(radius, size=21):
    """Return a map, seen from its middle, that flips up to a distance."""
    middle = size // 2
    distance = np.maximum(*np.abs(np.indices((size, size)) - middle))
    return (distance <= radius)[None], [middle], [middle]


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_the_length_scale_of_a_disc_by_hand(radius):
    """The excess is 1 - c up to the radius and -c beyond: half of 1 - c lies the share (1 - c) / 2 of the step on."""
    flips, rows, columns = disc(radius)
    chance = ((2 * radius + 1) ** 2 - 1) / (21**2 - 1)
    length, low, high = half_distance(flips, rows, columns, FEW)
    assert length == pytest.approx(radius + (1 - chance) / 2)
    assert np.isnan([low, high]).all()


def test_the_length_scale_lies_within_its_interval():
    """Half of the images flip up to 1, half up to 5: resamples range between, and the wider, the smaller the level."""
    flips = np.concatenate([disc(radius)[0] for radius in (1, 5)] * 10)
    middle = [10] * 20
    length, low, high = half_distance(flips, middle, middle, Statistics(resamples=2000))
    _, narrow_low, narrow_high = half_distance(flips, middle, middle, Statistics(resamples=2000, confidence=0.5))
    assert 1 <= low < narrow_low <= length <= narrow_high < high <= 6


def test_the_interval_of_equal_images_has_no_width():
    flips = np.concatenate([disc(3)[0]] * 4)
    length, low, high = half_distance(flips, [10] * 4, [10] * 4, FEW)
    assert low == pytest.approx(length)
    assert high == pytest.approx(length)


def test_the_interval_follows_loops_over_resamples():
    """An independent bootstrap, with its own draws: profiles by `distance_profile`, the crossing by np.interp."""
    flips, rows, columns = random_maps(4, count=12, shape=(7, 7), share=0.1)
    for image, (row, column) in enumerate(zip(rows, columns, strict=True)):
        flips[image, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2 + image % 3] = True

    def crossing(chosen):
        table = distance_profile(flips[chosen], rows[chosen], columns[chosen], Statistics(resamples=100))
        excess = (table["rate"] - table["chance"]).to_numpy()
        at = int(np.argmax(excess <= excess[0] / 2))
        return np.interp(-excess[0] / 2, -excess[at - 1 : at + 1], [at, at + 1])

    generator = np.random.default_rng(1)
    lengths = [crossing(generator.integers(0, 12, 12)) for _ in range(150)]
    length, low, high = half_distance(flips, rows, columns, Statistics(resamples=2000, confidence=0.8))
    assert length == pytest.approx(crossing(np.arange(12)))
    spread = np.std(lengths)
    assert (low, high) == pytest.approx(tuple(np.quantile(lengths, [0.1, 0.9])), abs=0.5 * spread)


def test_where_few_resamples_have_a_length_scale_there_is_no_interval():
    """An excess in one of 2 images, and the opposite in the other: resamples have one in about half of the cases."""
    flips = np.stack([disc(2)[0][0], ~disc(2)[0][0]])
    flips[1, 10, 10] = True
    assert np.isnan(half_distance(flips, [10, 10], [10, 10], FEW)[1:]).all()


def test_spatial_analyses_do_not_load_torch():
    code = "import sys; import onepix.analysis.locality, onepix.analysis.spatial; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
