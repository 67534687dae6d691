"""Position maps and locality rates, by hand and against loops."""

import numpy as np
import pytest
import torch
from conftest import blank, rule
from hypothesis import given
from hypothesis import strategies as st

from onepix.attacks.goal import Goal
from onepix.engine import logits
from onepix.locality import neighbour_rates, random_position_rates
from onepix.models import build
from onepix.models.classifier import Classifier
from onepix.position_maps import position_maps


def test_the_positions_that_flip_are_those_of_the_rule():
    """Class 1 where the summed red of row 2 is above 100: the whole row flips, by 155 each, and nothing else."""
    images = blank(2, 4, 6)
    maps = position_maps(
        rule(lambda x: x[:, 0, 2].sum(1) - 100.0),
        torch.from_numpy(images.images),
        Goal(torch.from_numpy(images.labels), torch.tensor([-1, -1])),
        torch.tensor([[255, 0, 0], [100, 255, 255]], dtype=torch.uint8),
        micro_batch=5,
    )
    expected = np.zeros((4, 6), bool)
    expected[2] = True
    np.testing.assert_array_equal(maps.flips[0], expected)
    assert not maps.flips[1].any()
    np.testing.assert_array_equal(maps.margin[0], np.where(expected, -155, 100))


def test_one_pass_at_a_time_gives_the_same_map():
    torch.manual_seed(1)
    classifier = Classifier(build("resnet8", channels=1), (0.5,), (0.25,)).eval()
    images = torch.randint(0, 256, (2, 6, 9, 1), dtype=torch.uint8)
    labels = logits(classifier, images, 8).argmax(1)
    colours = torch.tensor([[255], [0]], dtype=torch.uint8)
    maps = position_maps(classifier, images, Goal(labels, torch.tensor([-1, -1])), colours, micro_batch=8)
    for image in range(2):
        for row in range(6):
            for column in range(9):
                changed = images[image].clone()
                changed[row, column] = colours[image]
                output = logits(classifier, changed[None], 8)[0]
                others = torch.cat([output[: labels[image]], output[labels[image] + 1 :]])
                assert maps.margin[image, row, column] == (output[labels[image]] - others.max()).item()
                assert maps.flips[image, row, column] == (output.argmax() != labels[image]).item()


def test_without_successes_the_maps_are_empty():
    maps = position_maps(
        rule(lambda x: x.sum((1, 2, 3))),
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
