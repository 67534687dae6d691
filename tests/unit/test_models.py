"""Architectures, and weights in and out."""

import hashlib

import numpy as np
import pytest
import torch
from conftest import PUBLISHED
from safetensors.torch import save_file

from onepix.config import NetworkSettings
from onepix.datasets import load_bundled
from onepix.datasets.cifar10 import read_cifar10
from onepix.engine import logits
from onepix.errors import OnepixError
from onepix.models import build
from onepix.models.classifier import Classifier
from onepix.models.weights import (
    bundled,
    load_classifier,
    load_network_file,
    read_metadata,
    save_classifier,
    weights_path,
)
from onepix.training import accuracy

SCALING = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("architecture", "count"),
    [  # LeNet by hand: 456 + 2,416 + 48,120 + 10,164 + 850; ResNets: He et al. give 0.27, 0.46, 0.66, 0.85 and 1.7 M
        ("lenet", 62_006),
        ("lenet-k3", 81_302),  # 168 + 880 + 69,240 + 10,164 + 850
        ("lenet-k7", 34_022),  # 888 + 4,720 + 17,400 + 10,164 + 850
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
    ],
)
def test_parameters_and_output(architecture, count):
    network = build(architecture).eval()
    assert parameters(network) == count
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_one_channel_and_other_numbers_of_classes():
    assert build("lenet", classes=4, channels=1)(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    assert build("resnet8", classes=7, channels=1)(torch.zeros(1, 1, 20, 12)).shape == (1, 7)


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ("lenett", "'lenett' is unknown; expected lenet, lenet-k3"),
        ("lenet-k11", "has kernels of 1 to 10, got 11"),
        ("resnet21", r"depth 6n \+ 2 \(8, 14, 20, 32, …\), got 21"),
        ("no_such_module:make", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:no_such_factory", "AttributeError"),
        ("json:JSONDecoder", "returned JSONDecoder, expected a torch.nn.Module"),
    ],
)
def test_unknown_architectures(architecture, told):
    with pytest.raises(OnepixError, match=told):
        build(architecture)


def test_a_factory_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "mynetworks.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = NetworkSettings(architecture="mynetworks:make", weights="factory", **SCALING)
    classifier = load_classifier(settings, weights_path(settings))
    assert logits(classifier, torch.zeros(3, 2, 2, 3, dtype=torch.uint8), 2).shape == (3, 2)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(3)
    classifier = Classifier(build("resnet8"), **SCALING).eval()
    metadata = {"architecture": "resnet8", "classes": 10, "channels": 3}
    save_classifier(classifier, tmp_path / "resnet8.safetensors", metadata)
    return classifier, tmp_path / "resnet8.safetensors"


def test_weights_survive_the_round_trip(weights):
    classifier, path = weights
    again = load_network_file(path)
    images = torch.from_numpy(load_bundled().images[:4])
    assert torch.equal(logits(again, images, 4), logits(classifier, images, 4))
    assert again.scaling == SCALING


def test_the_same_weights_are_the_same_bytes(weights):
    classifier, path = weights
    metadata = {name: name for name in ("architecture", "recipe", "seed", "classes", "channels", "test_accuracy")}
    written = set()
    for _ in range(8):
        save_classifier(classifier, path, metadata)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_scaling_of_the_configuration_comes_first(weights):
    settings = NetworkSettings(architecture="resnet8", mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert load_classifier(settings, weights[1]).scaling == {"mean": (0.1, 0.2, 0.3), "std": (1, 2, 3)}


def test_weights_without_scaling(weights):
    path = weights[1].with_name("bare.safetensors")
    save_file(weights[0].network.state_dict(), path)
    with pytest.raises(OnepixError, match="do not state an input scaling; set mean and std"):
        load_classifier(NetworkSettings(architecture="resnet8"), path)


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ("lenet", "9 tensors are missing, the first is conv1.bias.* are unexpected, the first is bn1.bias"),
        ("resnet14", "tensors are missing, the first is layer1.1"),
    ],
)
def test_weights_of_another_architecture(weights, architecture, told):
    with pytest.raises(OnepixError, match=told):
        load_classifier(NetworkSettings(architecture=architecture), weights[1])


def test_weights_of_another_shape(weights):
    settings = NetworkSettings(architecture="resnet8", classes=7)
    with pytest.raises(OnepixError, match=r"the first is linear.weight: \(10, 64\), expected \(7, 64\)"):
        load_classifier(settings, weights[1])


def test_weights_that_are_missing_truncated_or_no_weights(weights):
    settings = NetworkSettings(architecture="resnet8")
    with pytest.raises(OnepixError, match=r"none\.safetensors: the weights file is missing"):
        load_classifier(settings, weights[1].with_name("none.safetensors"))
    whole = weights[1].read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        weights[1].write_bytes(whole[:length])
        with pytest.raises(OnepixError, match=r"resnet8\.safetensors: not a whole safetensors file"):
            load_classifier(settings, weights[1])


def test_weights_of_another_hash(weights):
    right = hashlib.sha256(weights[1].read_bytes()).hexdigest()
    load_classifier(NetworkSettings(architecture="resnet8", sha256=right), weights[1])
    with pytest.raises(OnepixError, match=f"SHA-256 is {right}, expected {'0' * 64}"):
        load_classifier(NetworkSettings(architecture="resnet8", sha256="0" * 64), weights[1])


def test_an_architecture_without_bundled_weights():
    with pytest.raises(OnepixError, match="resnet32: no weights are bundled for it, only for lenet, resnet20"):
        weights_path(NetworkSettings(architecture="resnet32"))


@pytest.mark.parametrize(("architecture", "least"), [("lenet", 0.74), ("resnet20", 0.905)])
def test_bundled_weights_say_what_they_are(architecture, least):
    metadata = read_metadata(bundled()[architecture])
    assert metadata["architecture"] == architecture
    assert metadata["test_accuracy"] >= least
    assert metadata["recipe"]["epochs"] > 0
    assert metadata["seed"] >= 0
    assert len(metadata["mean"]) == len(metadata["std"]) == 3


@pytest.mark.parametrize("architecture", ["lenet", "resnet20"])
def test_bundled_weights_read_the_bundled_images_about_as_well_as_the_test_set(architecture):
    images = load_bundled()
    path = bundled()[architecture]
    stated = read_metadata(path)["test_accuracy"]
    reached = accuracy(load_network_file(path), images, "cpu")
    assert abs(reached - stated) < 4 * np.sqrt(stated * (1 - stated) / 100)  # four standard errors of 100 images


@pytest.mark.parametrize("architecture", ["lenet", "resnet20"])
def test_bundled_weights_reach_the_stated_accuracy(architecture, official_cifar10):
    path = bundled()[architecture]
    reached = accuracy(load_network_file(path), read_cifar10(official_cifar10, "test"), "cpu")
    assert reached == read_metadata(path)["test_accuracy"]


def published(depth: int) -> Classifier:
    files = list(PUBLISHED.glob(f"resnet{depth}-*.th"))
    if not files:
        pytest.skip("the published weights are not at hand")
    state = torch.load(files[0], weights_only=True, map_location="cpu")["state_dict"]
    network = build(f"resnet{depth}")
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return Classifier(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval()


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_published_weights_fit_and_read_the_bundled_images(depth):
    assert accuracy(published(depth), load_bundled(), "cpu") >= 0.88  # 91.7 to 93.4 % on the whole test set


def test_published_resnet20_reaches_its_published_accuracy(official_cifar10):
    assert accuracy(published(20), read_cifar10(official_cifar10, "test"), "cpu") == 0.9173
