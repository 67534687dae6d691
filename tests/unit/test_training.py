"""Training: the recipe's arithmetic, resuming, and that something is learnt."""

import numpy as np
import pytest
import torch
from torch import nn

from onepix.config import Recipe
from onepix.errors import OnepixError
from onepix.images import ImageSet
from onepix.models.classifier import Classifier
from onepix.training import accuracy, augment, learning_rate, recipe_for, train

RECIPE = Recipe(epochs=4, batch_size=16, peak_learning_rate=0.05, crop_padding=1)


def two_colours(count: int = 64) -> ImageSet:
    """Return dark images of class 0 and light ones of class 1."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = (generator.integers(0, 100, (count, 6, 4, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    return ImageSet(images, labels, np.arange(count), ("dark", "light"), "made by a test")


def small() -> Classifier:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 2, 2))
    return Classifier(network, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    recipe = Recipe(epochs=1, peak_learning_rate=0.8)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.8 / 25)
    assert max(rates) == pytest.approx(0.8)
    assert rates.index(max(rates)) in (24, 25)
    assert rates[99] == pytest.approx(0.8 / 75)
    assert np.all(np.diff(rates[:24]) > 0)
    assert np.all(np.diff(rates[25:]) < 0)


@pytest.mark.parametrize("mirror", [False, True])
def test_augmented_images_are_crops_of_the_padded_original(mirror):
    images = torch.randint(0, 256, (200, 5, 3, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    recipe = Recipe(epochs=1, peak_learning_rate=1, crop_padding=2, mirror=mirror)
    fill = int(images.float().mean())
    shifts, mirrored = set(), 0
    for original, result in zip(images, augment(images, recipe, torch.Generator().manual_seed(1)), strict=True):
        padded = torch.full((9, 7, 2), fill, dtype=torch.uint8)
        padded[2:7, 2:5] = original
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if torch.equal(
                padded[top : top + 5, left : left + 3].flip(1) if flip else padded[top : top + 5, left : left + 3],
                result,
            )
        ]
        assert matches
        shifts.update(match[:2] for match in matches)
        mirrored += matches[0][2]
    assert len(shifts) == 25, "every shift occurs"
    assert (60 < mirrored < 140) if mirror else mirrored == 0


def test_a_network_learns_and_the_same_seed_gives_the_same_weights(tmp_path):
    images = two_colours()
    networks = [small(), small()]
    for index, network in enumerate(networks):
        train(network, images, RECIPE, 7, tmp_path / f"{index}.checkpoint", "cpu")
    assert accuracy(networks[0], images, "cpu") == 1.0
    for first, second in zip(networks[0].state_dict().values(), networks[1].state_dict().values(), strict=True):
        assert torch.equal(first, second)


def test_a_resumed_training_ends_where_an_undisturbed_one_does(tmp_path, monkeypatch):
    images = two_colours()
    undisturbed, disturbed, resumed = small(), small(), small()
    train(undisturbed, images, RECIPE, 7, tmp_path / "a", "cpu")
    import onepix.training

    epoch = onepix.training._train_epoch
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return epoch(*arguments)

    monkeypatch.setattr(onepix.training, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(disturbed, images, RECIPE, 7, tmp_path / "b", "cpu")
    train(resumed, images, RECIPE, 7, tmp_path / "b", "cpu")
    assert len(calls) == 3 + 2, "two epochs were kept, two were left to do"
    for first, second in zip(undisturbed.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(first, second)


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    train(small(), two_colours(), RECIPE, 7, tmp_path / "a", "cpu")
    with pytest.raises(OnepixError, match="made by another recipe or seed"):
        train(small(), two_colours(), RECIPE, 8, tmp_path / "a", "cpu")


def test_a_loss_that_is_not_finite_is_told(tmp_path):
    recipe = RECIPE.model_copy(update={"peak_learning_rate": 1e30})
    with pytest.raises(OnepixError, match=r"the loss is .*; lower peak_learning_rate"):
        train(small(), two_colours(), recipe, 7, tmp_path / "a", "cpu")


def test_recipes():
    assert recipe_for("lenet") == recipe_for("lenet-k7") != recipe_for("resnet20") == recipe_for("resnet110")
