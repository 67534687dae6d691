"""Architectures, and weights in and out."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from onepix.datasets.bundled import load_bundled
from onepix.datasets.cifar10 import read_cifar10
from onepix.engine.evaluator import logits
from onepix.errors import OnepixError
from onepix.networks.build import build
from onepix.networks.classifier import Classifier
from onepix.networks.training import accuracy
from onepix.networks.weights import bundled, load_network_file, read_metadata, save_classifier

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


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(3)
    classifier = Classifier(build("resnet8"), **SCALING).eval()
    metadata = {"architecture": "resnet8", "classes": 10, "channels": 3}
    save_classifier(classifier, tmp_path / "resnet8.safetensors", metadata)
    return classifier, tmp_path / "resnet8.safetensors"


def test_a_file_that_onepix_did_not_write(tmp_path):
    save_file(build("lenet").state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(OnepixError, match="do not name an architecture; it was not written by onepix"):
        load_network_file(tmp_path / "bare.safetensors")


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
