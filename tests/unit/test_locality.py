"""Position maps and locality rates, by hand and against loops."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import blank, rule
from hypothesis import given
from hypothesis import strategies as st

from onepix.analysis.draws import drawn_controls, drawn_positions, image_stream
from onepix.analysis.locality import (
    distance_profile,
    drawn_flips,
    half_distance,
    neighbour_rates,
    random_position_rates,
)
from onepix.attacks.goal import Goal
from onepix.attacks.position_maps import position_maps
from onepix.config.engine import Engine
from onepix.config.statistics import Statistics
from onepix.engine.evaluator import Evaluator, logits
from onepix.networks.build import build
from onepix.networks.classifier import Classifier

FEW = Statistics(resamples=200)


@pytest.mark.parametrize("round_size", [4096, 10])
def test_the_positions_that_flip_are_those_of_the_rule(monkeypatch, round_size):
    """Class 1 where the summed red of row 2 is above 100: the whole row flips, by 155 each, and nothing else."""
    monkeypatch.setattr("onepix.attacks.position_maps.ROUND_SIZE", round_size)
    images = blank(2, 4, 6)
    maps = position_maps(
        Evaluator(rule(lambda x: x[:, 0, 2].sum(1) - 100.0), Engine(micro_batch=5), (4, 6, 3)),
        torch.from_numpy(images.images),
        Goal(torch.from_numpy(images.labels), torch.tensor([-1, -1])),
        torch.tensor([[255, 0, 0], [100, 255, 255]], dtype=torch.uint8),
    )
    expected = np.zeros((4, 6), bool)
    expected[2] = True
    np.testing.assert_array_equal(maps.flips[0], expected)
    assert not maps.flips[1].any()
    np.testing.assert_array_equal(maps.margin[0], np.where(expected, -155, 100))


@pytest.mark.parametrize("settings", [{"bound": 1e9}, {}, {"precision": "bfloat16"}])
def test_one_pass_at_a_time_gives_the_same_map(settings):
    torch.manual_seed(1)
    classifier = Classifier(build("resnet8", channels=1), (0.5,), (0.25,)).eval()
    images = torch.randint(0, 256, (2, 6, 9, 1), dtype=torch.uint8)
    labels = logits(classifier, images, 8).argmax(1)
    colours = torch.tensor([[255], [0]], dtype=torch.uint8)
    evaluator = Evaluator(classifier, Engine(micro_batch=8, **settings), (6, 9, 1))
    maps = position_maps(evaluator, images, Goal(labels, torch.tensor([-1, -1])), colours)
    error = 0 if settings.get("bound") else 0.1  # all evaluated in float32, or what is far from a flip screened only
    for image in range(2):
        for row in range(6):
            for column in range(9):
                changed = images[image].clone()
                changed[row, column] = colours[image]
                output = logits(classifier, changed[None], 8)[0]
                others = torch.cat([output[: labels[image]], output[labels[image] + 1 :]])
                margin = (output[labels[image]] - others.max()).item()
                assert maps.margin[image, row, column] == pytest.approx(margin, abs=error, rel=0)
                assert maps.flips[image, row, column] == (output.argmax() != labels[image]).item()


def test_without_successes_the_maps_are_empty():
    maps = position_maps(
        Evaluator(rule(lambda x: x.sum((1, 2, 3))), Engine(), (4, 6, 3)),
        torch.zeros(0, 4, 6, 3, dtype=torch.uint8),
        Goal(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)),
        torch.zeros(0, 3, dtype=torch.uint8),
    )
    assert maps.flips.shape == maps.margin.shape == (0, 4, 6)


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


def random_maps(seed, count=40, shape=(6, 9), share=0.3):
    generator = np.random.default_rng(seed)
    flips = generator.random((count, *shape)) < share
    rows, columns = (generator.integers(0, side, count) for side in shape)
    flips[np.arange(count), rows, columns] = True
    return flips, rows, columns


# Draws


@pytest.mark.parametrize(("row", "column", "neighbours"), [(2, 3, 8), (4, 3, 5), (0, 6, 3)])
def test_draws_are_uniform_among_the_neighbours_and_among_the_other_positions(row, column, neighbours):
    """Each position in turn is the only one that flips: how often it is hit is how often it is drawn."""
    images, shape = 1000, (5, 7)
    near, anywhere = np.zeros(shape, int), np.zeros(shape, int)
    at = np.full(images, row), np.full(images, column)
    for y, x in np.ndindex(shape):
        flips = np.zeros((images, *shape), bool)
        flips[:, y, x] = True
        neighbour, position = drawn_flips(flips, *at, np.arange(images), seed=3)
        near[y, x], anywhere[y, x] = neighbour.sum(), position.sum()
    assert near.sum() == anywhere.sum() == images
    assert near[row, column] == anywhere[row, column] == 0, "the attacked pixel is not drawn"
    distance = np.maximum(*np.abs(np.indices(shape) - [[[row]], [[column]]]))
    assert not near[distance > 1].any()
    for counts, choices in ((near[distance == 1], neighbours), (anywhere[distance > 0], 34)):
        assert len(counts) == choices
        expected = images / choices
        # Chi-squared with choices - 1 degrees of freedom exceeds this for one seed in some thousands.
        assert ((counts - expected) ** 2 / expected).sum() < choices - 1 + 4 * np.sqrt(2 * (choices - 1)) + 6


def test_draws_agree_with_the_exact_rates():
    flips, rows, columns = random_maps(0, count=3000)
    drawn = drawn_flips(flips, rows, columns, np.arange(3000), seed=0)
    for hits, rates in zip(drawn, (neighbour_rates, random_position_rates), strict=True):
        exact = rates(flips, rows, columns)
        assert abs(hits.mean() - exact.mean()) < 4 * np.sqrt((exact * (1 - exact)).sum()) / 3000


def test_the_neighbour_drawn_tells_nothing_of_the_position_drawn():
    """Left half of the positions, and the left neighbours: independent, both come up a quarter of the time."""
    flips = np.zeros((4000, 9, 9), bool)
    flips[:, :, :4] = True
    neighbour, position = drawn_flips(flips, np.full(4000, 4), np.full(4000, 4), np.arange(4000), seed=0)
    joint = (neighbour & position).mean()
    assert joint == pytest.approx(neighbour.mean() * position.mean(), abs=0.03)


def test_draws_depend_on_the_image_and_the_seed_alone():
    flips, rows, columns = random_maps(1, count=60)
    ids = np.arange(60) * 7
    together = np.stack(drawn_flips(flips, rows, columns, ids, seed=5))
    order = np.random.default_rng(2).permutation(60)
    other_order = np.stack(drawn_flips(flips[order], rows[order], columns[order], ids[order], seed=5))
    np.testing.assert_array_equal(other_order, together[:, order])
    for image in range(0, 60, 9):
        one = slice(image, image + 1)
        alone = np.stack(drawn_flips(flips[one], rows[one], columns[one], ids[one], seed=5))
        np.testing.assert_array_equal(alone, together[:, one])
    assert (np.stack(drawn_flips(flips, rows, columns, ids, seed=6)) != together).any()
    assert (np.stack(drawn_flips(flips, rows, columns, ids + 1, seed=5)) != together).any()


def test_the_streams_are_neither_each_other_nor_the_attacks():
    def first(stream):
        return stream.integers(2**63, size=3).tolist()

    keys = [(7,), *((7, target) for target in range(10))]
    attacks = [first(np.random.default_rng(np.random.SeedSequence(4, spawn_key=key))) for key in keys]
    draws, permutations = first(image_stream(4, 7, "draws")), first(image_stream(4, 7, "permutations"))
    assert draws not in attacks
    assert permutations not in attacks
    assert draws != permutations
    assert draws == first(image_stream(4, 7, "draws"))


def test_without_images_nothing_is_drawn():
    drawn = drawn_flips(np.zeros((0, 4, 6), bool), [], [], [], seed=0)
    assert [(part.shape, part.dtype) for part in drawn] == [((0,), np.dtype(bool))] * 2


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
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=True)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(2, 6), st.integers(0, 30))
def test_a_control_does_not_flip(seed, height, width, flipping):
    stream = np.random.default_rng(seed)
    flips = np.zeros((3, height, width), bool)
    for image in range(2):
        flips[image].flat[stream.permutation(height * width)[:flipping]] = True
    flips[2] = True
    rows, columns = drawn_controls(flips, [4, 5, 6], seed)
    for image in range(3):
        if flips[image].all():
            assert (rows[image], columns[image]) == (-1, -1)
        else:
            assert not flips[image, rows[image], columns[image]]


def test_controls_are_drawn_evenly_and_by_image_alone():
    flips = np.zeros((3000, 2, 3), bool)
    flips[:, 1, 2] = True
    rows, columns = drawn_controls(flips, np.arange(3000), 0)
    counts = np.bincount(rows * 3 + columns, minlength=6)
    assert counts[5] == 0
    assert np.abs(counts[:5] - 600).max() < 4 * np.sqrt(600)
    one = drawn_controls(flips[7:8], [7], 0)
    assert (one[0][0], one[1][0]) == (rows[7], columns[7])


def test_drawn_positions_are_any_but_the_attacked_one():
    ids = np.arange(3000)
    rows, columns = drawn_positions((2, 3), np.ones(3000, int), np.zeros(3000, int), ids, 0)
    counts = np.bincount(rows * 3 + columns, minlength=6)
    assert counts[3] == 0
    assert np.abs(np.delete(counts, 3) - 600).max() < 4 * np.sqrt(600)
    assert drawn_positions((2, 3), [], [], [], 0)[0].shape == (0,)
