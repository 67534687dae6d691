"""Positions drawn at random: evenly, and by the image and the seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import random_maps

from onepix.analysis.draws import drawn_controls, drawn_positions, image_stream
from onepix.analysis.locality import drawn_flips, neighbour_rates, random_position_rates

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
