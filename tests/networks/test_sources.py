"""Weights from anywhere: found, verified, loaded, or refused in one line."""

import hashlib
import os
import pickle
import zipfile
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from studies import PUBLISHED, ROOT

from onepix.config.networks import NetworkSettings
from onepix.config.reading import validated
from onepix.datasets.bundled import load_bundled
from onepix.datasets.cifar10 import read_cifar10
from onepix.engine.evaluator import logits
from onepix.errors import OfflineError, OnepixError
from onepix.files.fetching import cached_path
from onepix.networks.build import build
from onepix.networks.classifier import Classifier
from onepix.networks.resnet import CifarResNet
from onepix.networks.sources import find, load_classifier
from onepix.networks.training import accuracy
from onepix.networks.weights import save_classifier

SCALING = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
URL = "https://example.org/networks/mine.th"
# Accuracy on the 10,000 test images. The first five are exact; the last is stated to a tenth of a per cent.
ACCURACIES = {
    "resnet20-akamaster": "91.73 %",
    "resnet32-akamaster": "92.63 %",
    "resnet44-akamaster": "93.10 %",
    "resnet56-akamaster": "93.39 %",
    "lenet-keras": "74.88 %",
    "resnet32-keras": "92.3 %",
}


@pytest.fixture
def network():
    torch.manual_seed(3)
    return build("resnet8").eval()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no way to fill it."""
    monkeypatch.setenv("ONEPIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")


def settings(**given):
    return NetworkSettings(**{"architecture": "resnet8", **SCALING, **given})


def loaded(**given):
    entry = settings(**given)
    return load_classifier(entry, find(entry))


def same(classifier, network):
    images = torch.from_numpy(load_bundled().images[:4])
    return torch.equal(logits(classifier, images, 4), logits(Classifier(network, **SCALING).eval(), images, 4))


def refusal(**given):
    with pytest.raises(OnepixError) as caught:
        loaded(**given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Formats


@pytest.mark.parametrize(
    "nested",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "best_prec1": 91.7},
        lambda state: {"model": state, "optimizer": {"state": {}}},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"net": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"_orig_mod.module." + name: tensor for name, tensor in state.items()},
    ],
)
@pytest.mark.parametrize("as_zip", [True, False])
def test_torch_checkpoints_however_nested(network, tmp_path, nested, as_zip):
    path = tmp_path / "mine.th"
    torch.save(nested(network.state_dict()), path, _use_new_zipfile_serialization=as_zip)
    classifier, metadata = loaded(weights=str(path))
    assert same(classifier, network)
    assert metadata["weights"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata["weights"]["verified"] == "not verified: the configuration states no sha256"


def test_safetensors_of_another_origin(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    assert same(loaded(weights=str(tmp_path / "mine.safetensors"))[0], network)
    (tmp_path / "mine.safetensors").rename(tmp_path / "unnamed")
    assert same(loaded(weights=str(tmp_path / "unnamed"))[0], network), "contents tell the format, not the name"


def test_a_file_of_onepix_states_its_scaling_and_the_configuration_comes_first(network, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_classifier(Classifier(network, **SCALING), path, {"architecture": "resnet8", "seed": 7})
    classifier, metadata = loaded(weights=str(path), mean=None, std=None)
    assert classifier.scaling == SCALING
    assert metadata["seed"] == 7
    own = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)}
    assert loaded(weights=str(path), **own)[0].scaling == own
    save_classifier(Classifier(network, 0.0, 0.5), path, {"architecture": "resnet8"})
    assert loaded(weights=str(path), mean=None, std=None)[0].scaling == {"mean": 0.0, "std": 0.5}


def test_a_factory_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "mynetworks.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))\n\n"
        "def fail():\n    raise KeyError('no such layer')\n\ndef nothing():\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    classifier, metadata = loaded(architecture="mynetworks:make", weights="factory")
    assert logits(classifier, torch.zeros(3, 2, 2, 3, dtype=torch.uint8), 2).shape == (3, 2)
    assert metadata["weights"]["origin"] == "the factory's own"
    assert refusal(architecture="mynetworks:fail", weights="factory").endswith("KeyError: 'no such layer'")
    assert refusal(architecture="mynetworks:nothing", weights="factory").endswith(
        "returned NoneType, expected a torch.nn.Module"
    )


def test_weights_in_an_installed_package(network, tmp_path, monkeypatch):
    package = tmp_path / "weightspackage"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('packages of data are not imported')")
    torch.save(network.state_dict(), package / "mine.pth")
    monkeypatch.syspath_prepend(tmp_path)
    assert same(loaded(weights="package:weightspackage/mine.pth")[0], network)
    told = refusal(weights="package:nosuchpackage/mine.pth")
    assert "no package 'nosuchpackage' is installed" in told


# --- Refusals


class _Code:
    def __reduce__(self):
        return os.system, ("echo executed > executed",)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch, as_zip):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Code()}, "mine.th", _use_new_zipfile_serialization=as_zip)
    told = refusal(weights="mine.th")
    assert told.startswith("mine.th: refused: it is a pickle that calls posix.system")
    assert not (tmp_path / "executed").exists()


def test_a_bare_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pkl").write_bytes(pickle.dumps(_Code()))
    assert refusal(weights="mine.pkl").startswith("mine.pkl: ")
    assert not (tmp_path / "executed").exists()


def test_of_a_whole_pickled_network_only_the_tensors_are_taken(network, tmp_path):
    torch.save(network, tmp_path / "mine.th")
    with mock.patch.object(
        CifarResNet, "__setstate__", side_effect=AssertionError("its class is not used"), create=True
    ):
        assert same(loaded(weights=str(tmp_path / "mine.th"))[0], network)


def test_files_that_are_no_weights(tmp_path):
    path = tmp_path / "mine.th"
    for contents in (b"", b"<!DOCTYPE html><html>", b"PK\x03\x04", b"\x80\x02", b"\x89PNG\r\n"):
        path.write_bytes(contents)
        assert refusal(weights=str(path)).startswith(f"{path}: ")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights here")
    assert "not a whole torch checkpoint" in refusal(weights=str(path))
    assert "No such file or directory; expected safetensors" in refusal(weights=str(tmp_path / "none.th"))
    assert "Is a directory" in refusal(weights=str(tmp_path))


@pytest.mark.parametrize("as_zip", [True, False])
def test_truncated_checkpoints(network, tmp_path, as_zip):
    path = tmp_path / "mine.th"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=as_zip)
    whole = path.read_bytes()
    for length in (1, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert refusal(weights=str(path)).startswith(f"{path}: ")


def test_truncated_safetensors(network, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(network.state_dict(), path)
    whole = path.read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "mine.safetensors: not a whole safetensors file" in refusal(weights=str(path))


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ({"epoch": 3, "lr": 0.1}, "no state dict; expected tensors by name, or under state_dict, .*, got epoch, lr"),
        ([torch.zeros(2)], "no state dict; expected tensors by name, got list"),
        ({}, "got nothing"),
    ],
)
def test_checkpoints_without_a_state_dict(tmp_path, contents, told):
    torch.save(contents, tmp_path / "mine.th")
    with pytest.raises(OnepixError, match=told):
        loaded(weights=str(tmp_path / "mine.th"))


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {"architecture": "lenet"},
            "9 tensors are missing, the first is conv1.bias; .* are unexpected, the first is bn",
        ),
        ({"architecture": "resnet14"}, "tensors are missing, the first is layer1.1.conv1.weight"),
        ({"classes": 7}, r"the first is linear.weight: \(10, 64\), expected \(7, 64\)"),
        ({"mean": None, "std": None}, "do not state an input scaling; set mean and std"),
    ],
)
def test_weights_that_do_not_fit(network, tmp_path, entry, told):
    torch.save(network.state_dict(), tmp_path / "mine.th")
    with pytest.raises(OnepixError, match=told):
        loaded(weights=str(tmp_path / "mine.th"), **entry)


# --- Verification


def test_the_hash_whole_and_by_its_first_digits(network, tmp_path):
    path = tmp_path / "mine.th"
    torch.save(network.state_dict(), path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    whole = loaded(weights=str(path), sha256=right)[1]["weights"]
    assert whole == {"origin": str(path), "sha256": right, "verified": "by its SHA-256"}
    short = loaded(weights=str(path), sha256=right[:8].upper())[1]["weights"]
    assert short["verified"] == "by the first 8 digits of its SHA-256, no more are known"
    assert short["sha256"] == right
    assert f"SHA-256 is {right}" in refusal(weights=str(path), sha256="0" * 64)
    assert f"SHA-256 is {right}" in refusal(weights=str(path), sha256="0" * 8)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"weights": URL}, "n: sha256 is missing; weights from a URL are only taken if their SHA-256 is known"),
        ({"sha256": 57934424}, "sha256: expected 64 hexadecimal digits, or at least the first 8, in quotes, got 579"),
        ({"sha256": "57934"}, "or at least the first 8, in quotes, got '57934'"),
        ({"weights": "torchvision"}, "weights torchvision go with torchvision:NAME, not with resnet8"),
    ],
)
def test_entries_that_cannot_be_verified(entry, told):
    with pytest.raises(OnepixError) as caught:
        validated(NetworkSettings, {"architecture": "resnet8", **entry}, "n")
    assert told in str(caught.value)


@pytest.mark.usefixtures("cache")
def test_a_url_offline_names_the_file_and_its_place(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "mine.th")
    right = hashlib.sha256((tmp_path / "mine.th").read_bytes()).hexdigest()
    place = cached_path(URL, right)
    with pytest.raises(OfflineError) as caught:
        loaded(weights=URL, sha256=right)
    assert str(place) in str(caught.value)
    assert right in str(caught.value)
    place.parent.mkdir(parents=True)
    (tmp_path / "mine.th").rename(place)  # as the message says
    classifier, metadata = loaded(weights=URL, sha256=right)
    assert same(classifier, network)
    assert metadata["weights"] == {"origin": URL, "sha256": right, "verified": "by its SHA-256"}
    assert same(loaded(weights=URL, sha256=right[:8])[0], network), "the place is the same for a prefix"


def test_an_architecture_without_bundled_weights():
    assert "resnet8: no weights are bundled for it, only for lenet, resnet20" in refusal()


# --- torchvision's weights


@pytest.mark.usefixtures("cache")
def test_torchvisions_weights_come_with_address_hash_and_scaling():
    entry = NetworkSettings(architecture="torchvision:resnet18", weights="torchvision")
    source = find(entry)
    assert source.url.endswith("/models/resnet18-f37072fd.pth")
    assert source.sha256 == "f37072fd"
    assert source.scaling == {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert source.verified == "by the first 8 digits of its SHA-256, no more are known"
    with pytest.raises(OfflineError, match=r"resnet18-f37072fd\.pth"):
        load_classifier(entry, source)
    older = NetworkSettings(architecture="torchvision:resnet50", weights="torchvision:IMAGENET1K_V1")
    assert find(older).sha256 == "0676ba61"


@pytest.mark.usefixtures("cache")
def test_torchvisions_weights_are_loaded():
    torch.manual_seed(0)
    network = build("torchvision:squeezenet1_1").eval()
    entry = NetworkSettings(architecture="torchvision:squeezenet1_1", weights="torchvision")
    place = find(entry).path
    place.parent.mkdir(parents=True)
    torch.save(network.state_dict(), place)
    # Stand-in weights have a hash of their own, which then also names another place.
    entry = entry.model_copy(update={"sha256": hashlib.sha256(place.read_bytes()).hexdigest()})
    other = find(entry).path
    other.parent.mkdir(parents=True)
    place.rename(other)
    classifier, metadata = load_classifier(entry, find(entry))
    assert classifier.scaling["mean"] == (0.485, 0.456, 0.406)
    assert metadata["weights"]["origin"] == "torchvision's SqueezeNet1_1_Weights.IMAGENET1K_V1"
    picture = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    assert logits(classifier, picture, 1).shape == (1, 1000)


def test_unknown_weights_of_torchvision():
    told = refusal(architecture="torchvision:resnet18", weights="torchvision:IMAGENET1K_V3")
    assert told == "torchvision's resnet18 has no weights 'IMAGENET1K_V3'; did you mean 'IMAGENET1K_V1'?"
    assert "unknown to torchvision" in refusal(architecture="torchvision:resnet17", weights="torchvision")


# --- The published networks of config/networks.yaml


def entries():
    study = {
        "datasets": {"d": {"source": "bundled"}},
        "attacks": {"a": {}},
        "runs": [{"dataset": "d", "networks": ["lenet-keras"], "attacks": ["a"], "images": 0}],
    }
    from onepix.config.documents import read_file
    from onepix.config.study import parse

    return parse({**read_file(ROOT / "config/networks.yaml").values, **study}, "networks.yaml").networks


def published(name, cache_folder, monkeypatch):
    """Load an entry as a user without network does who has put the file where the message says."""
    monkeypatch.setenv("ONEPIX_CACHE", str(cache_folder))
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    entry = entries()[name]
    file = entry.weights.rsplit("/", 1)[1]
    here = PUBLISHED / {"lenet.h5": "hyperparticle-lenet.h5", "resnet.h5": "hyperparticle-resnet32.h5"}.get(file, file)
    if not here.exists():
        pytest.skip("the published weights are not at hand")
    place = cached_path(entry.weights, entry.sha256)
    place.parent.mkdir(parents=True)
    place.symlink_to(here)
    return load_classifier(entry, find(entry))[0]


def test_there_is_an_entry_for_each_published_network():
    assert {*ACCURACIES, "resnet110-akamaster", "resnet1202-akamaster"} == set(entries())
    for entry in entries().values():
        commits = "d5489e8995e81e91ce6b1d69dcc98ad579b0b153", "8261f976be922bd9b470040367a34d82fcd506d4"
        assert any(commit in entry.weights for commit in commits)
        build(entry.architecture)


@pytest.mark.parametrize("name", ACCURACIES)
def test_published_networks_read_the_bundled_images(name, tmp_path, monkeypatch):
    reached = accuracy(published(name, tmp_path, monkeypatch), load_bundled(), "cpu")
    assert reached >= (0.66 if name == "lenet-keras" else 0.88)  # two standard errors below the test set's


@pytest.mark.parametrize(("name", "stated"), ACCURACIES.items())
def test_published_networks_reach_their_published_accuracy(name, stated, tmp_path, monkeypatch, official_cifar10):
    reached = accuracy(published(name, tmp_path, monkeypatch), read_cifar10(official_cifar10, "test"), "cpu")
    assert f"{reached:.{len(stated) - 5}%}".replace("%", " %") == stated
