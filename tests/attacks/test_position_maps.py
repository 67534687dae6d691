"""Position maps by hand, and in passes of any size."""

import numpy as np
import pytest
import torch
from analytic import blank, rule

from onepix.attacks.goal import Goal
from onepix.attacks.position_maps import position_maps
from onepix.config.engine import Engine
from onepix.engine.evaluator import Evaluator, logits
from onepix.networks.build import build
from onepix.networks.classifier import Classifier


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
