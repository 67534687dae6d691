"""Spatial statistics of position maps, by hand, against loops over all pairs, and under the null hypothesis."""

from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from onepix.analysis import spatial
from onepix.analysis.spatial import morans_i, regions, spatial_table
from onepix.analysis.statistics import q_values
from onepix.config.statistics import Statistics

FEW = Statistics(permutations=199)
COLUMNS = ["image_id", "flips", "moran_flips", "moran_flips_p", "moran_flips_q"]
COLUMNS += ["moran_margin", "moran_margin_p", "moran_margin_q"]
COLUMNS += ["regions", "largest_region", "largest_region_p", "largest_region_q"]


def drawn(*rows):
    """Return a map from lines of text in which # flips."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def naive_moran(values):
    """Return I = n / W * sum over pairs w z z / sum z z, by a loop over all ordered pairs of positions."""
    height, width = values.shape
    mean = sum(values.ravel().tolist()) / values.size
    weight = product = square = 0.0
    for (y, x), here in np.ndenumerate(values):
        square += (here - mean) ** 2
        for (v, u), there in np.ndenumerate(values):
            if (y, x) != (v, u) and abs(y - v) <= 1 and abs(x - u) <= 1:
                weight += 1
                product += (here - mean) * (there - mean)
    return height * width / weight * product / square


def naive_regions(flips):
    """Return the sizes of the 8-connected regions, by filling each."""
    left, sizes = {tuple(place) for place in np.argwhere(flips).tolist()}, []
    while left:
        todo, size = [left.pop()], 0
        while todo:
            y, x = todo.pop()
            size += 1
            for place in [(y + down, x + across) for down in (-1, 0, 1) for across in (-1, 0, 1)]:
                if place in left:
                    left.remove(place)
                    todo.append(place)
        sizes.append(size)
    return sizes


# Moran's I


def test_morans_i_of_three_in_a_row_by_hand():
    """1, 0, 0: z = 2/3, -1/3, -1/3; of 4 ordered pairs, products -2/9 twice and 1/9 twice; squares 6/9: 3/4 * -1/3."""
    assert morans_i(np.array([[[1.0, 0.0, 0.0]]])) == pytest.approx([-0.25])
    assert morans_i(np.array([[[1.0], [0.0], [0.0]]])) == pytest.approx([-0.25])


def test_morans_i_of_two_by_two_is_that_of_all_pairs():
    """All are neighbours of all, so I is -1 / (n - 1) whatever the values."""
    assert morans_i(np.array([[[1.0, 5.0], [-2.0, 7.5]], [[1.0, 0.0], [0.0, 0.0]]])) == pytest.approx([-1 / 3] * 2)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 6), (6, 3), (8, 2)])
def test_morans_i_of_a_checkerboard_by_hand(height, width):
    """Half of the positions are 1, so z is ±1 for all: +1 along diagonals and -1 along sides."""
    board = np.indices((height, width)).sum(0) % 2 == 0
    sides = height * (width - 1) + (height - 1) * width
    diagonals = 2 * (height - 1) * (width - 1)
    assert morans_i(board[None]) == pytest.approx([(diagonals - sides) / (diagonals + sides)])


def test_morans_i_of_halves_by_hand():
    """Left half 1, right half 0 in 4 x 4: of 42 pairs, the 4 + 6 across the middle are unlike."""
    halves = drawn("##..", "##..", "##..", "##..")
    assert morans_i(halves[None]) == pytest.approx([(32 - 10) / 42])


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 5)])
def test_a_constant_map_has_no_morans_i(shape):
    maps = np.stack([np.zeros(shape), np.ones(shape), np.full(shape, 0.1)])
    assert np.isnan(morans_i(maps)).all()
    assert np.isnan(morans_i(maps[:2].astype(bool))).all()


@examples(60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_morans_i_equals_the_loop_over_all_pairs(seed, binary):
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 7, 2)
    maps = generator.normal(generator.normal(0, 100), 3, (4, height, width + (height == 1)))
    maps = maps > np.median(maps) if binary else maps.astype(np.float32)
    for found, values in zip(morans_i(maps), maps.astype(np.float64), strict=True):
        if values.min() == values.max():
            assert np.isnan(found)
        else:
            assert found == pytest.approx(naive_moran(values), abs=1e-9)


def test_morans_i_equals_the_formula_with_a_weight_matrix():
    values = np.random.default_rng(0).normal(size=(9, 5))
    places = np.argwhere(np.ones_like(values))
    weights = (np.abs(places[:, None] - places[None]).max(2) == 1).astype(float)
    z = values.ravel() - values.mean()
    expected = values.size / weights.sum() * (z @ weights @ z) / (z @ z)
    assert morans_i(values[None]) == pytest.approx([expected])
    assert morans_i(-40 * values[None] + 1000) == pytest.approx([expected]), "whatever the unit and its zero"


def test_morans_i_without_order_is_that_expected():
    """E[I] = -1 / (n - 1) under permutations."""
    maps = np.random.default_rng(1).normal(size=(20_000, 4, 5))
    values = morans_i(maps)
    assert values.mean() == pytest.approx(-1 / 19, abs=4 * values.std() / np.sqrt(len(maps)))


# Regions


@pytest.mark.parametrize(
    ("rows", "number", "largest"),
    [
        (("....", "....", "...."), 0, 0),
        (("####", "####", "####"), 1, 12),
        (("....", "..#.", "...."), 1, 1),
        ((".##.", ".##.", "...."), 1, 4),
        (("#...", ".#..", "..#."), 1, 3),
        (("#.#.", ".#.#", "#.#."), 1, 6),
        (("#..#", "#..#", "#..."), 2, 3),
        (("#..#", "....", "#..#"), 4, 1),
        (("##..##..#",), 3, 2),
    ],
)
def test_regions_by_hand(rows, number, largest):
    flips = drawn(*rows)
    assert [part.tolist() for part in regions(flips[None])] == [[number], [largest]]
    assert [part.tolist() for part in regions(flips.T[None])] == [[number], [largest]]


@examples(60)
@given(st.integers(0, 2**32 - 1))
def test_regions_equal_filling_and_do_not_join_maps(seed):
    generator = np.random.default_rng(seed)
    flips = generator.random((5, *generator.integers(1, 8, 2))) < generator.random()
    sizes = [naive_regions(one) for one in flips]
    number, largest = regions(flips)
    assert number.tolist() == [len(one) for one in sizes]
    assert largest.tolist() == [max(one, default=0) for one in sizes]


def test_regions_of_no_map():
    assert [part.shape for part in regions(np.zeros((0, 4, 6), bool))] == [(0,), (0,)]


# False discoveries


# Tables


def test_a_table_describes_each_map():
    flips = np.stack([drawn(".....", ".##..", ".##.."), drawn("#....", ".....", "...##"), drawn(*[".#.#."] * 3)])
    margin = np.random.default_rng(0).normal(size=flips.shape).astype(np.float32)
    table = spatial_table([4, 9, 2], flips, margin, FEW)
    assert list(table.columns) == COLUMNS
    assert table["image_id"].tolist() == [4, 9, 2]
    assert table["flips"].tolist() == [4, 3, 6]
    assert table["regions"].tolist() == [1, 2, 2]
    assert table["largest_region"].tolist() == [4, 2, 3]
    assert table["moran_flips"].tolist() == pytest.approx([naive_moran(one.astype(float)) for one in flips])
    assert table["moran_margin"].tolist() == pytest.approx([naive_moran(one.astype(float)) for one in margin])
    for name in ("moran_flips", "moran_margin", "largest_region"):
        assert table[f"{name}_q"].tolist() == q_values(table[f"{name}_p"]).tolist()
        assert table[f"{name}_p"].between(1 / 200, 1).all()


def test_p_values_by_counting_all_arrangements():
    """A pair in 3 x 4: 29 of the 66 ways to lay 2 of 12 are of neighbours; Moran's I counts pairs at corners more."""
    flips = drawn("##..", "....", "....")[None]
    pairs = [np.isin(np.arange(12), (a, b)).reshape(3, 4) for a in range(12) for b in range(a)]
    reach = np.mean([naive_moran(one.astype(float)) >= naive_moran(flips[0].astype(float)) - 1e-9 for one in pairs])
    joined = np.mean([len(naive_regions(one)) == 1 for one in pairs])
    assert joined == pytest.approx(29 / 66)
    assert 0 < reach < joined
    row = spatial_table([0], flips, np.where(flips, -1.0, 2.0), Statistics(permutations=20_000)).iloc[0]
    for name, expected in (("moran_flips_p", reach), ("moran_margin_p", reach), ("largest_region_p", joined)):
        assert row[name] == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 20_000))


def test_a_single_flip_is_no_cluster():
    """Wherever it lies, the largest region is 1. In a corner, Moran's I is largest, among 4 of 20 positions."""
    flips = np.zeros((2, 4, 5), bool)
    flips[0, 0, 0] = flips[1, 1, 2] = True
    table = spatial_table([0, 1], flips, np.where(flips, -1.0, 1.0), Statistics(permutations=5000))
    assert table["largest_region_p"].tolist() == [1, 1]
    assert table["moran_flips"][0] > table["moran_flips"][1]
    assert table["moran_flips_p"][0] == pytest.approx(4 / 20, abs=0.025)
    assert table["moran_flips_p"][1] == 1, "in the middle, it is smallest: every permutation reaches it, ties included"
    assert table["moran_margin_p"].tolist() == table["moran_flips_p"].tolist()


def test_what_is_constant_is_not_tested():
    flips = np.stack([np.zeros((4, 6), bool), np.ones((4, 6), bool)])
    gradient = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    table = spatial_table([0, 1], flips, np.stack([gradient, np.full((4, 6), 3, np.float32)]), FEW)
    assert table["flips"].tolist() == table["largest_region"].tolist() == [0, 24]
    assert table["regions"].tolist() == [0, 1]
    untested = [f"{name}{part}" for name in ("moran_flips", "largest_region") for part in ("_p", "_q")]
    assert table[["moran_flips", *untested]].isna().all(axis=None)
    margin = table[["moran_margin", "moran_margin_p", "moran_margin_q"]]
    assert margin.loc[0].notna().all()
    assert margin.loc[1].isna().all()


def test_a_block_is_a_cluster():
    flips = np.zeros((1, 12, 20), bool)
    flips[0, 3:8, 4:10] = True
    margin = 1 + np.hypot(*(np.indices((12, 20)) - [[[5]], [[7]]]))[None] + 0.0
    row = spatial_table([3], flips, margin, FEW).iloc[0]
    assert row["moran_flips_p"] == row["moran_margin_p"] == row["largest_region_p"] == 1 / 200
    assert row["regions"] == 1
    assert row["largest_region"] == 30
    assert row["moran_flips"] > 0.5
    assert row["moran_margin"] > 0.5


def test_p_values_are_uniform_without_clusters():
    """Of maps drawn at random, a share p has a p-value up to p; within 4 standard errors."""
    images, shape = 400, (6, 8)
    generator = np.random.default_rng(7)
    flips, margin = generator.random((images, *shape)) < 0.5, generator.normal(size=(images, *shape))
    table = spatial_table(range(images), flips, margin, Statistics(permutations=199))
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        error = 4 * np.sqrt(share * (1 - share) / images)
        assert (table["moran_margin_p"] <= share).mean() == pytest.approx(share, abs=error)
        # Values that tie make a test cautious, never bold.
        for name in ("moran_flips_p", "largest_region_p"):
            assert (table[name] <= share).mean() <= share + error
    assert table["moran_flips_p"].mean() == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / images) + 0.02)
    assert (table[["moran_margin_q", "moran_flips_q", "largest_region_q"]] > 0.01).all(axis=None)


def some_maps(images):
    generator = np.random.default_rng(5)
    margin = generator.normal(1, 1, (images, 5, 7)).astype(np.float32)
    return margin < 0, margin


def test_p_values_depend_on_the_image_and_the_seed_alone():
    flips, margin = some_maps(6)
    ids = np.array([3, 11, 5, 8, 21, 0])
    tests = [name for name in COLUMNS if not name.endswith("_q")]  # A q-value is one among all images.
    together = spatial_table(ids, flips, margin, FEW)[tests]
    order = np.array([4, 0, 5, 2, 1, 3])
    other_order = spatial_table(ids[order], flips[order], margin[order], FEW)[tests]
    pd.testing.assert_frame_equal(other_order, together.iloc[order].reset_index(drop=True))
    for image in range(6):
        alone = spatial_table(ids[[image]], flips[[image]], margin[[image]], FEW)[tests]
        pd.testing.assert_frame_equal(alone, together.iloc[[image]].reset_index(drop=True))
    for other in (spatial_table(ids + 1, flips, margin, FEW), spatial_table(ids, flips, margin, Statistics(seed=1))):
        assert (other["moran_margin_p"] != together["moran_margin_p"]).any()


@pytest.mark.parametrize("chunk", [1, 35 * 7, 35 * 100 + 3])
def test_the_size_of_a_chunk_changes_nothing(chunk):
    flips, margin = some_maps(2)
    whole = spatial_table([0, 1], flips, margin, FEW)
    with mock.patch.object(spatial, "CHUNK", chunk):
        pd.testing.assert_frame_equal(spatial_table([0, 1], flips, margin, FEW), whole)


def test_a_table_of_no_image():
    table = spatial_table([], np.zeros((0, 4, 6), bool), np.zeros((0, 4, 6), np.float32), FEW)
    assert len(table) == 0
    assert list(table.columns) == COLUMNS
