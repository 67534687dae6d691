"""Factories: with arguments, methods of classes, reproducible, offline, and told in one line whatever they do."""

import importlib
import random
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refusal

from onepix.config.networks import NetworkSettings
from onepix.config.reading import canonical, part, validated
from onepix.engine.evaluator import logits
from onepix.errors import OfflineError, OnepixError
from onepix.files.layout import Layout
from onepix.files.manifests import read_manifest
from onepix.jobs import inputs, networks
from onepix.networks.sources import find, load_classifier
from onepix.networks.weights import load_network_file, tensors_digest

MODULE = """
    import random
    import urllib.request
    from torch import nn
    import numpy as np
    import torch

    def make(width=4, *, channels=3, classes=7, further=None):
        return nn.Sequential(
            nn.Conv2d(channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
        )

    def by_position(width, /, *more, classes=7):
        return make(width, classes=classes + sum(more))

    def perceptron():
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))

    class Network:
        class Small:
            @classmethod
            def from_pretrained(cls, name, **options):
                assert name == "theirs/small"
                return make(**options)

    class WithNoise(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make()
            self.unsaved = [torch.randn(3).tolist(), random.random(), np.random.rand()]

    def downloads(url="http://weights.example.org/file"):
        urllib.request.urlopen(url, timeout=1)

    def falls_back():
        try:
            downloads()
        except OSError:
            return make()

    def told_offline():
        raise OSError("cannot reach the hub in offline mode")

    def leaves():
        raise SystemExit(3)

    def says_much():
        raise RuntimeError("one line\\n\\tand another\\x1b[31m")

    def helped():
        import helper_in_another_folder

    number = 3
    network = make()
"""
SCALING = {"mean": [0.5], "std": [0.25]}


@pytest.fixture
def name(tmp_path, monkeypatch):
    """Write the module into the working folder, and return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("ONEPIX_OFFLINE", "0")
    (tmp_path / "factories_of_a_test.py").write_text(textwrap.dedent(MODULE))
    importlib.invalidate_caches()
    yield "factories_of_a_test"
    sys.modules.pop("factories_of_a_test", None)


def entry(architecture, **given):
    return validated(NetworkSettings, {"architecture": architecture, "weights": "factory", **SCALING, **given}, "n")


def loaded(architecture, **given):
    settings = entry(architecture, **given)
    return load_classifier(settings, find(settings))


def stored(settings, folder):
    """Run the job `networks`; return the manifest's path."""
    output = Layout(folder, folder).network("mine")
    networks.run(
        canonical({"network": part(networks.NetworksJob.model_fields["network"].annotation, settings)}), output
    )
    return output


# --- Arguments


def test_arguments_reach_the_factory_and_the_metadata(name):
    arguments = {"width": 6, "classes": 3, "further": {"a": [1, "b", None, 0.5, True]}}
    classifier, metadata = loaded(f"{name}:make", arguments=arguments)
    assert classifier.network[0].out_channels == 6
    assert metadata["arguments"] == arguments
    assert logits(classifier, torch.zeros(2, 8, 8, 3, dtype=torch.uint8), 2).shape == (2, 3)


def test_arguments_by_position_and_factories_inside_classes(name):
    assert loaded(f"{name}:by_position", arguments={"width": 5})[0].network[0].out_channels == 5
    more = loaded(f"{name}:by_position", arguments={"width": 5, "more": [1, 2]})[0].network
    assert more[3].out_features == 10
    small = loaded(f"{name}:Network.Small.from_pretrained", arguments={"name": "theirs/small", "width": 2})
    assert small[0].network[0].out_channels == 2


@pytest.mark.parametrize(
    ("factory", "arguments", "told"),
    [
        ("make", {"widht": 6}, "got an unexpected keyword argument 'widht'; it takes (width=4, *, channels=3, "),
        ("by_position", None, "missing a required argument: 'width'; it takes (width, /, *more, classes=7); set arg"),
        ("make", {"width": "six"}, "TypeError: "),
        ("number", None, "is int, expected a function or class"),
        ("network", None, "is a network, expected a function that returns one"),
        ("Network.Large.make", None, "AttributeError: type object 'Network' has no attribute 'Large'"),
        ("leaves", None, "SystemExit: 3"),
        ("says_much", None, "RuntimeError: one line and another[31m"),
        ("helped", None, "ModuleNotFoundError: No module named 'helper_in_another_folder'; it was looked for in "),
        ("downloads", {"url": "file:///none"}, "URLError"),
    ],
)
def test_whatever_a_factory_does_is_one_line_with_its_own_words(name, factory, arguments, told):
    message = refusal(lambda: loaded(f"{name}:{factory}", arguments=arguments))
    assert message.startswith(f"network architecture '{name}:{factory}': ")
    assert told in message


@pytest.mark.usefixtures("name")
def test_a_module_in_another_folder_is_told_with_the_folder(tmp_path):
    message = refusal(loaded, "in_another_folder.networks:make")
    assert message.endswith(
        f"ModuleNotFoundError: No module named 'in_another_folder'; it was looked for in {tmp_path} and on the Python "
        "path (PYTHONPATH adds folders to it)"
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"architecture": "lenet", "arguments": {"width": 3}},
            "arguments go with a factory (package.module:factory), n",
        ),
        ({"architecture": "torchvision:resnet18", "arguments": {}}, "not with torchvision:resnet18"),
        (
            {"architecture": "lenet", "weights_key": "ema"},
            "weights_key goes with weights from a file, not with weights: ",
        ),
        ({"architecture": "m:f", "weights": "factory", "weights_key": "ema"}, "not with weights: factory"),
        ({"architecture": "m:f", "arguments": {"a": Path("x")}}, "arguments.a: "),
        ({"architecture": "m:f", "arguments": [1]}, "arguments: "),
        (
            {"architecture": "lenet", "mean": [0.5, 0.4], "std": [1, 1]},
            "mean has 2 numbers, expected 3, one per channel",
        ),
        ({"architecture": "m:f", "mean": [0.5, 0.4], "std": [1, 1, 1]}, "mean and std have [2, 3] numbers"),
    ],
)
def test_keys_that_do_not_go_together(given, told):
    with pytest.raises(OnepixError) as caught:
        validated(NetworkSettings, given, "n")
    assert told in str(caught.value)


# --- Channels, classes and scaling


@pytest.mark.parametrize("scaling", [{"mean": [0.5], "std": [0.25]}, {"mean": 0.5, "std": 0.25}])
def test_channels_and_classes_of_a_grey_factory_are_found_out(name, tmp_path, scaling):
    settings = entry(f"{name}:make", arguments={"channels": 1}, **scaling)
    manifest = stored(settings, tmp_path)
    assert read_manifest(manifest)["metadata"]["channels"] == 1
    classifier = load_network_file(manifest.with_name("weights.safetensors"))
    assert logits(classifier, torch.zeros(2, 8, 8, 1, dtype=torch.uint8), 2).shape == (2, 7)
    assert {key: float(value) for key, value in classifier.scaling.items()} == {"mean": 0.5, "std": 0.25}


def test_one_number_holds_for_all_channels(name):
    colours = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one, three = loaded(f"{name}:make")[0], loaded(f"{name}:make", mean=[0.5] * 3, std=[0.25] * 3)[0]
    assert torch.equal(logits(one, colours, 2), logits(three, colours, 2))
    assert loaded("lenet", weights="bundled")[0].scaling == {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def test_a_network_without_convolutions_takes_what_it_gets(name):
    classifier, metadata = loaded(f"{name}:perceptron")
    assert logits(classifier, torch.zeros(2, 2, 2, 3, dtype=torch.uint8), 2).shape == (2, 2)
    assert metadata["channels"] == 3


# --- The same each time


def test_random_weights_are_the_same_each_time_and_the_state_of_the_process_is_kept(name):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = loaded(f"{name}:WithNoise")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    second = loaded(f"{name}:WithNoise")
    assert first[0].network.unsaved == second[0].network.unsaved
    assert first[1]["weights"] == second[1]["weights"]
    assert loaded(f"{name}:make", arguments={"width": 5})[1]["weights"]["sha256"] != first[1]["weights"]["sha256"]


def test_the_digest_is_of_the_loaded_tensors(name):
    settings = entry(f"{name}:make")
    before = load_classifier(settings, find(settings))[1]["weights"]["sha256"]
    changed = (
        Path(f"{name}.py")
        .read_text()
        .replace("return nn.Sequential(\n", "torch.randn(1)\n    return nn.Sequential(\n", 1)
    )
    Path(f"{name}.py").write_text(changed)
    del sys.modules[name]
    importlib.invalidate_caches()
    assert load_classifier(settings, find(settings))[1]["weights"]["sha256"] != before


def test_a_digest_of_tensors_of_every_kind():
    network = torch.nn.Module()
    kinds = [
        torch.ones(2, 3).T,
        torch.ones(()),
        torch.empty(0),
        torch.ones(2, dtype=torch.bool),
        torch.ones(2).bfloat16(),
    ]
    kinds += [torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse(), torch.empty(2, device="meta")]
    for index, tensor in enumerate(kinds):
        network.register_buffer(f"b{index}", tensor)
    before = tensors_digest(network)
    assert tensors_digest(network) == before
    network.b5.imag[1] = 1
    assert tensors_digest(network) != before


# --- The code


def test_the_users_code_is_in_the_manifest_and_edited_code_is_not_run(name, tmp_path):
    manifest = stored(entry(f"{name}:make", arguments={"width": 5}), tmp_path)
    weights = manifest.with_name("weights.safetensors")
    metadata = read_manifest(manifest)["metadata"]
    assert len(metadata["code"]) == 64
    told = inputs.provenance("cpu", network=manifest)["network"]
    assert (told["code"], told["arguments"]) == (metadata["code"], {"width": 5})
    assert load_network_file(weights).network[0].out_channels == 5
    with Path(f"{name}.py").open("a") as file:
        file.write("# edited\n")
    assert "the code of factories_of_a_test:make was edited since" in refusal(load_network_file, weights)


def test_a_file_cannot_choose_other_arguments_than_the_configuration(name, tmp_path):
    manifest = stored(entry(f"{name}:make", arguments={"width": 5}), tmp_path)
    text = manifest.read_text()
    manifest.write_text(text.replace('"width": 5', '"width": 6'))
    assert "refused: it asks to run factories_of_a_test:make" in refusal(
        load_network_file, manifest.with_name("weights.safetensors")
    )


# --- Offline


@pytest.mark.parametrize("factory", ["downloads", "told_offline"])
def test_a_download_is_told_and_not_tried(name, monkeypatch, factory):
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    with pytest.raises(OfflineError) as caught:
        loaded(f"{name}:{factory}")
    assert f"network architecture '{name}:{factory}': its factory would download from " in caught.value.missing
    assert ("weights.example.org" in str(caught.value)) == (factory == "downloads")
    assert "ONEPIX_OFFLINE is set" in str(caught.value)


def test_what_a_factory_has_fetched_before_is_used(name, monkeypatch):
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    assert loaded(f"{name}:falls_back")[0].network[0].out_channels == 4


# --- Packages


TRANSFORMERS = """
    import types
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self, labels):
            super().__init__()
            self.conv, self.classifier = nn.Conv2d(3, 4, 3), nn.Linear(4, labels)

        def forward(self, pixel_values):
            return types.SimpleNamespace(logits=self.classifier(self.conv(pixel_values).mean((2, 3))))

    class AutoModelForImageClassification:
        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path, *model_args, num_labels=1000, **kwargs):
            model = Model(num_labels)
            nn.init.constant_(model.classifier.bias, len(pretrained_model_name_or_path))
            return model
"""


def test_transformers_by_a_stand_in(tmp_path, monkeypatch):
    """An installed package: its version is in the manifest, and its network is saved and loaded again."""
    installed = tmp_path / "site-packages"
    (installed / "transformers").mkdir(parents=True)
    (installed / "transformers" / "__init__.py").write_text(textwrap.dedent(TRANSFORMERS))
    (installed / "transformers-9.8.7.dist-info").mkdir()
    (installed / "transformers-9.8.7.dist-info" / "METADATA").write_text("Name: transformers\nVersion: 9.8.7\n")
    (installed / "transformers-9.8.7.dist-info" / "top_level.txt").write_text("transformers\n")
    monkeypatch.syspath_prepend(installed)
    for module in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, module)
    arguments = {"pretrained_model_name_or_path": "google/vit", "num_labels": 5}
    settings = entry("transformers:AutoModelForImageClassification.from_pretrained", arguments=arguments)
    try:
        manifest = stored(settings, tmp_path / "data")
        again = load_network_file(manifest.with_name("weights.safetensors"))
    finally:
        del sys.modules["transformers"]
    metadata = read_manifest(manifest)["metadata"]
    assert metadata["package"] == {"transformers": "9.8.7"}
    assert metadata["arguments"] == arguments
    assert "code" not in metadata
    assert again.network.classifier.bias.tolist() == [10.0] * 5


@pytest.mark.slow
def test_timm_for_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = entry("timm:create_model", arguments={"model_name": "resnet10t", "num_classes": 5})
    manifest = stored(settings, tmp_path)
    metadata = read_manifest(manifest)["metadata"]
    assert list(metadata["package"]) == ["timm"]
    assert metadata["weights"]["origin"] == "the factory's own"
    assert stored(settings, tmp_path / "again").read_bytes() == manifest.read_bytes()
    classifier = load_network_file(manifest.with_name("weights.safetensors"))
    assert logits(classifier, torch.zeros(2, 32, 32, 3, dtype=torch.uint8), 2).shape == (2, 5)
    torch.save({"state_dict_ema": classifier.network.state_dict()}, "mine.pth")
    from_file = entry("timm:create_model", arguments=settings.arguments, weights="mine.pth")
    assert load_classifier(from_file, find(from_file))[1]["tensors"]["taken_from"] == "state_dict_ema"
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    pretrained = entry("timm:create_model", arguments={"model_name": "resnet18", "pretrained": True})
    with pytest.raises(OfflineError, match="its factory would download from"):
        load_classifier(pretrained, find(pretrained))
    message = refusal(lambda: loaded("timm:create_model", arguments={"model_name": "resnet1"}))
    assert "Unknown model (resnet1)" in message
