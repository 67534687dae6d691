"""Sharing between networks, by hand and by counting every placement."""

import itertools
import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sharing_tables import COLUMNS, pairs
from studies import ROOT

from onepix.analysis.sharing import expected_jaccard, jaccard, sharing_table
from onepix.analysis.statistics import wilson
from onepix.config.statistics import Statistics
from onepix.errors import OnepixError


def drawn(*rows):
    """Return a map from lines of text in which # flips."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def of_size(shape, first, second):
    """Return two maps of one image, with so many positions."""
    maps = np.zeros((2, math.prod(shape)), dtype=bool)
    maps[0, :first] = maps[1, :second] = True
    return maps.reshape(2, 1, *shape)


# Jaccard index


def test_jaccard_by_hand():
    first = np.stack([drawn("##.", ".#."), drawn("#..", "..#"), drawn("...", "..."), drawn("###", "###")])
    second = np.stack([drawn("#..", ".##"), drawn(".##", "##."), drawn("...", ".#."), drawn("#.#", "...")])
    found = jaccard(first, second)
    assert found.dtype == np.float64
    assert found.tolist() == [2 / 4, 0, 0, 2 / 6]


def test_without_positions_or_images_there_is_no_index():
    empty = np.zeros((2, 3, 4), bool)
    for function in (jaccard, expected_jaccard):
        assert np.isnan(function(empty, empty)).all()
        nothing = function(empty[:0], empty[:0])
        assert (nothing.shape, nothing.dtype) == ((0,), np.float64)


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7))


@given(st.data())
def test_the_index_lies_in_0_1_is_symmetric_and_1_of_equals(data):
    shape = data.draw(SHAPES)
    first, second = (data.draw(arrays(bool, shape)) for _ in range(2))
    for function in (jaccard, expected_jaccard):
        there, back = function(first, second), function(second, first)
        np.testing.assert_allclose(there, back, rtol=1e-12)
        known = first.any((1, 2)) | second.any((1, 2))
        np.testing.assert_array_equal(np.isnan(there), ~known)
        assert ((there[known] >= 0) & (there[known] <= 1 + 1e-12)).all()
    occupied = first.any((1, 2))
    assert (jaccard(first, first)[occupied] == 1).all()
    assert (jaccard(first, ~first) == 0).all()


@given(st.data())
def test_the_index_equals_sets(data):
    first, second = (data.draw(arrays(bool, (1, 3, 5))) for _ in range(2))
    one, other = (set(map(tuple, np.argwhere(maps[0]).tolist())) for maps in (first, second))
    if one | other:
        assert jaccard(first, second).item() == len(one & other) / len(one | other)


# Chance


@pytest.mark.parametrize("shape", [(2, 3), (1, 5), (4, 1), (1, 1)])
def test_chance_is_the_mean_over_all_placements(shape):
    """Every placement of either map, with exact fractions; for each two numbers of positions."""
    places = range(math.prod(shape))
    subsets = [set(chosen) for size in range(len(places) + 1) for chosen in itertools.combinations(places, size)]
    indices: dict[tuple[int, int], list[Fraction]] = {}
    for one, other in itertools.product(subsets, repeat=2):
        if one | other:
            indices.setdefault((len(one), len(other)), []).append(Fraction(len(one & other), len(one | other)))
    assert len(indices) == (len(places) + 1) ** 2 - 1
    for (first, second), found in indices.items():
        expected = float(sum(found) / len(found))
        assert expected_jaccard(*of_size(shape, first, second)).item() == pytest.approx(expected, rel=1e-11)


def exact_chance(positions, first, second):
    """Return the mean of k / (a + b - k), weighted with whole numbers: the ways to have k positions in common."""
    least, most = max(0, first + second - positions), min(first, second)
    ways = math.comb(first, least) * math.comb(positions - first, second - least)
    total, weighted = 0, Fraction(0)
    for k in range(least, most + 1):
        total += ways
        # 40 decimals of each share are enough, and keep the fraction short.
        weighted += ways * (k * 10**40 // (first + second - k))
        ways = ways * (first - k) * (second - k) // ((k + 1) * (positions - first - second + k + 1))
    return float(weighted / total / 10**40)


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        ((32, 32), [(1, 1), (3, 1000), (512, 512), (200, 900), (1024, 17), (1024, 1024), (700, 40), (0, 5)]),
        ((28, 40), [(559, 561), (1119, 1119)]),
        ((224, 224), [(1, 50_176), (9, 49_000), (2500, 3100), (60, 60)]),
    ],
)
def test_chance_of_large_images_is_exact(shape, counts):
    """All in one call, so that sums of very different length stand side by side."""
    first, second = np.concatenate([of_size(shape, *pair) for pair in counts], axis=1)
    expected = [exact_chance(math.prod(shape), *pair) for pair in counts]
    np.testing.assert_allclose(expected_jaccard(first, second), expected, rtol=1e-9)


def test_chance_is_what_scattered_positions_have():
    """Uniform placements with 9 and 14 of 48 positions: their mean index lies within its own error of chance."""
    stream = np.random.default_rng(0)
    maps = [stream.permuted(np.arange(48) < np.full((6000, 1), count), axis=1) for count in (9, 14)]
    first, second = (positions.reshape(-1, 6, 8) for positions in maps)
    observed, chance = jaccard(first, second), expected_jaccard(first, second)
    assert len(set(chance)) == 1
    assert abs(observed.mean() - chance[0]) < 4 * observed.std() / np.sqrt(len(observed))


# Table


def position_maps(images, *maps):
    return xr.DataArray(np.stack(maps), dims=("image", "y", "x"), coords={"image": list(images)})


def tried(source, target, outcomes):
    """Return rows of transfers from pairs of letters: whether the attack flips, and whether the moved colour does."""
    return pd.DataFrame(
        {
            "image_id": range(len(outcomes)),
            "source": source,
            "target": target,
            "flips": [outcome[0] == "f" for outcome in outcomes],
            "moved": [outcome[1] == "m" for outcome in outcomes],
        }
    )


def made_up():
    """Three networks, of which one was not scanned; images 3, 5 and 8 are those that tell of the other two."""
    one = drawn("#..", "...")
    maps = {
        "lenet": position_maps([8, 5, 1, 3, 7], one, one, one, one, one & False),
        "resnet20": position_maps([2, 3, 5, 7, 8], one, np.roll(one, 1), np.roll(one, 4), one & False, one),
    }
    transfers = [
        tried("lenet", "resnet20", ["f.", "f.", "fm", "..", "..", "..", ".m", "..", "..", ".."]),
        tried("resnet20", "lenet", ["f.", "fm"]),
        tried("vgg16", "lenet", [".."]),
    ]
    return maps, pd.concat(transfers, ignore_index=True)


def test_the_table_by_hand():
    """Maps of one position each of 2 x 3: of the three images, one agrees (index 1), and chance is 1/6 for each."""
    table = sharing_table(*made_up(), Statistics())
    assert [*table.columns] == COLUMNS
    ordered = [("lenet", "resnet20"), ("lenet", "vgg16"), ("resnet20", "lenet"), ("resnet20", "vgg16")]
    ordered += [("vgg16", "lenet"), ("vgg16", "resnet20")]
    table = pairs(table)
    assert [*table.index] == ordered
    assert table["successes"].tolist() == [10, 0, 2, 0, 1, 0]
    expected = {("lenet", "resnet20"): (3, 2, 10), ("resnet20", "lenet"): (2, 1, 2), ("vgg16", "lenet"): (0, 0, 1)}
    for pair, (flips, moved, trials) in expected.items():
        for name, hits in (("transfer", flips), ("moved", moved)):
            estimate = table.loc[pair, [name, f"{name}_low", f"{name}_high"]].tolist()
            assert estimate == pytest.approx([hits / trials, *wilson(hits, trials, 0.95)])
    rates = ["transfer", "transfer_low", "transfer_high", "moved", "moved_low", "moved_high"]
    assert table.loc[[pair for pair in ordered if pair not in expected], rates].isna().all(axis=None)
    overlap = ["images", *COLUMNS[10:]]
    for pair in (("lenet", "resnet20"), ("resnet20", "lenet")):
        # A resample of 0, 0 and 1 has the mean 0 with probability 8/27, and 1 with probability 1/27 > 2.5 %.
        assert table.loc[pair, overlap].tolist() == pytest.approx([3, 1 / 3, 0, 1, 1 / 6, 1 / 6, 1 / 6])
    unscanned = table.loc[[pair for pair in ordered if "vgg16" in pair], overlap]
    assert unscanned["images"].tolist() == [0] * 4
    assert unscanned.drop(columns="images").isna().all(axis=None)


def test_the_order_of_images_changes_nothing():
    generator = np.random.default_rng(3)
    ids = np.arange(40) * 3
    maps = {
        name: position_maps(ids + shift, *(generator.random((40, 4, 7)) < 0.3))
        for name, shift in (("a", 0), ("b", 3), ("c", 0))
    }
    transfers = tried("a", "b", ["f.", "..", ".m"])
    table = sharing_table(maps, transfers, Statistics(resamples=200))
    order = generator.permutation(40)
    shuffled = {name: whole.isel(image=order) for name, whole in maps.items()}
    other = sharing_table(shuffled, transfers[::-1], Statistics(resamples=200))
    pd.testing.assert_frame_equal(other, table)
    indexed = pairs(table)
    assert indexed.loc[("a", "b"), "images"] == 39, "the images that both have"
    for one, two in itertools.combinations("abc", 2):
        pd.testing.assert_series_equal(
            indexed.loc[(one, two), COLUMNS[9:]], indexed.loc[(two, one), COLUMNS[9:]], check_names=False
        )
    common = [maps["a"].values[1:], maps["b"].values[:-1]]
    assert indexed.loc[("a", "b"), "jaccard"] == pytest.approx(jaccard(*common).mean())
    assert indexed.loc[("a", "b"), "chance"] == pytest.approx(expected_jaccard(*common).mean())


def test_the_intervals_follow_the_settings():
    maps, transfers = made_up()
    table = pairs(sharing_table(maps, transfers, Statistics(confidence=0.5))).loc[("lenet", "resnet20")]
    assert table[["transfer_low", "transfer_high"]].tolist() == pytest.approx(wilson(3, 10, 0.5))
    # A mean of 2/3 has probability 6/27, and 1 has 1/27: together about 26 %, the upper quarter.
    assert table[["jaccard_low", "jaccard_high"]].tolist() == pytest.approx([0, 2 / 3])


@pytest.mark.parametrize("names", [[], ["lenet"]])
def test_fewer_than_two_networks_share_nothing(names):
    maps, transfers = made_up()
    table = sharing_table({name: maps[name] for name in names}, transfers[:0], Statistics())
    assert table.empty
    assert [*table.columns] == COLUMNS


def test_maps_alone_and_transfers_alone():
    maps, transfers = made_up()
    alone = sharing_table(maps, transfers[:0], Statistics(resamples=200))
    assert alone["successes"].tolist() == [0, 0]
    assert alone["images"].tolist() == [3, 3]
    assert alone["transfer"].isna().all()
    alone = sharing_table({}, transfers, Statistics(resamples=200))
    assert alone["successes"].sum() == 13
    assert alone["images"].tolist() == [0] * 6
    assert alone["jaccard"].isna().all()


def test_networks_without_a_common_image_have_no_overlap():
    one = drawn("#.", "##")
    maps = {"a": position_maps([1], one), "b": position_maps([2], one)}
    table = sharing_table(maps, made_up()[1][:0], Statistics())
    assert table["images"].tolist() == [0, 0]
    assert table[["jaccard", "chance"]].isna().all(axis=None)


def test_maps_of_two_sizes_are_refused():
    maps = {"lenet": position_maps([4], drawn("#..", "...")), "vgg16": position_maps([4], drawn("#.", "..", ".."))}
    message = "^sharing: maps of lenet and vgg16 must be of one size, got 2×3 and 3×2$"
    with pytest.raises(OnepixError, match=message):
        sharing_table(maps, made_up()[1], Statistics())


def test_neither_torch_nor_pyplot_is_loaded():
    code = (
        "import sys; from onepix.analysis import sharing; from onepix.figures import sharing; "
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
