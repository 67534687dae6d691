"""Training: the recipe's arithmetic, resuming, and that something is learnt."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from onepix.config.networks import Recipe
from onepix.errors import OnepixError
from onepix.images import ImageSet
from onepix.jobs import training as job
from onepix.networks.classifier import Classifier
from onepix.networks.training import accuracy, augment, learning_rate, recipe_for, train

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
    import onepix.networks.training

    epoch = onepix.networks.training._train_epoch
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return epoch(*arguments)

    monkeypatch.setattr(onepix.networks.training, "_train_epoch", interrupted)
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


def dropping_out() -> Classifier:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 4 * 2, 2))
    return Classifier(network, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_dropout_is_resumed_as_well(optimiser, tmp_path, monkeypatch):
    """What an epoch drops out depends on the seed and the epoch alone, not on what ran before."""
    import onepix.networks.training

    recipe = RECIPE.model_copy(update={"optimiser": optimiser})
    undisturbed, resumed = dropping_out(), dropping_out()
    train(undisturbed, two_colours(), recipe, 7, tmp_path / "a", "cpu")
    save = onepix.networks.training._save

    def interrupted(state, *arguments):
        save(state, *arguments)
        if state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(onepix.networks.training, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(dropping_out(), two_colours(), recipe, 7, tmp_path / "b", "cpu")
    monkeypatch.undo()
    torch.rand(17)
    train(resumed, two_colours(), recipe, 7, tmp_path / "b", "cpu")
    for first, second in zip(undisturbed.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(first, second)


def one_step(recipe: Recipe, folder) -> tuple[Tensor, Tensor, Tensor]:
    """Return a linear layer's weights before and after one step, and the gradient in between.

    Of one step, at the very end of the rise, the learning rate is the peak. The images are all alike, so that neither
    order nor mirroring matters.
    """
    images = ImageSet(
        np.full((4, 1, 1, 3), 200, np.uint8), np.array([0, 0, 0, 1]), np.arange(4), ("a", "b"), "made by a test"
    )
    torch.manual_seed(0)
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), 0.5, 0.25)
    linear = classifier.network[1]
    with torch.no_grad():
        linear.bias.zero_()
    before = linear.weight.detach().clone()
    inputs = torch.full((3,), (200 / 255 - 0.5) / 0.25)
    shares = (before @ inputs).softmax(0)
    gradient = torch.outer(shares - torch.tensor([0.75, 0.25]), inputs)
    train(classifier, images, recipe, 0, folder / "checkpoint", "cpu")
    return before, linear.weight.detach(), gradient


def test_one_step_of_each_optimiser_by_hand(tmp_path):
    rate, decay = 0.125, 0.5
    common = {"epochs": 1, "batch_size": 4, "peak_learning_rate": rate, "weight_decay": decay, "crop_padding": 0}
    (tmp_path / "adamw").mkdir()
    (tmp_path / "sgd").mkdir()
    recipe = Recipe(**common, optimiser="adamw", initialisation="own")
    before, after, gradient = one_step(recipe, tmp_path / "adamw")
    # Adam's first step is the gradient's sign (Kingma and Ba, 2015); the decay is apart (Loshchilov and Hutter, 2019).
    torch.testing.assert_close(after, before * (1 - rate * decay) - rate * gradient.sign(), rtol=1e-4, atol=1e-5)
    recipe = Recipe(**common, momentum=0.75, initialisation="own")
    before, after, gradient = one_step(recipe, tmp_path / "sgd")
    # Nesterov's first step is (1 + momentum) times the gradient, to which the decay is added.
    torch.testing.assert_close(after, before - rate * 1.75 * (gradient + decay * before), rtol=1e-4, atol=1e-5)


def test_initialisation(tmp_path):
    """One step at a rate of 0, nearly: what comes out is what training started from."""
    still = {"epochs": 1, "batch_size": 64, "peak_learning_rate": 1e-30, "weight_decay": 0, "crop_padding": 0}
    torch.manual_seed(11)
    built = small()
    weights = built.network[0].weight.detach().clone()
    train(built, two_colours(), Recipe(**still, initialisation="own"), 7, tmp_path / "own", "cpu")
    assert torch.equal(built.network[0].weight, weights)
    train(built, two_colours(), Recipe(**still), 7, tmp_path / "he", "cpu")
    torch.manual_seed(7)  # the convolution is the first to draw
    expected = torch.randn(4, 3, 3, 3) * (2 / 27) ** 0.5
    torch.testing.assert_close(built.network[0].weight.detach(), expected)
    for layer in (built.network[0], built.network[4]):
        assert layer.bias.abs().max() < 1e-20


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path):
    train(small(), two_colours(), RECIPE, 7, tmp_path / "a", "cpu")
    with pytest.raises(OnepixError, match="made by another recipe or seed"):
        train(small(), two_colours(), RECIPE.model_copy(update={"optimiser": "adamw"}), 7, tmp_path / "a", "cpu")


def test_a_network_of_torchvision_is_trained_on_ten_classes_only(tmp_path):
    network = {"architecture": "torchvision:resnet18", "weights": "train"}
    with pytest.raises(OnepixError, match=r"resnet18: CIFAR-10 has 10 classes and 3 channels, got 1000 and 3"):
        job.run(json.dumps({"network": network}), tmp_path, tmp_path / "x.safetensors")


def test_a_vision_transformer_is_trained_from_what_the_seed_builds(tmp_path, monkeypatch):
    """The job seeds before it builds: two runs of one seed agree, and another seed's start elsewhere."""
    generator = np.random.default_rng(0)
    images = ImageSet(
        generator.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8),
        np.arange(8),
        np.arange(8),
        tuple("abcdefghij"),
        "made by a test",
    )
    monkeypatch.setattr(job, "read_cifar10", lambda _folder, _split: images)
    recipe = {**recipe_for("vit-lite-1-8").model_dump(), "epochs": 1, "batch_size": 8}
    files = []
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        torch.rand(len(files) + 1)  # whatever ran before
        network = {"architecture": "vit-lite-1-8", "weights": "train", "recipe": recipe, "seed": seed}
        job.run(json.dumps({"network": network}), tmp_path, tmp_path / f"{name}.safetensors")
        files.append(load_file(tmp_path / f"{name}.safetensors"))
    first, again, other = files
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.pos_embedding"], other["encoder.pos_embedding"])
    # Positions keep the standard deviation of 0.02 that torchvision gives them; one step moves them by 5e-4 at most.
    assert float(first["encoder.pos_embedding"].std()) == pytest.approx(0.02, rel=0.05)
