"""What `import onepix` offers, and what it costs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import onepix
from onepix.errors import OnepixError
from onepix.networks.weights import bundled


def test_importing_takes_neither_torch_nor_numpy():
    code = "import sys; before = set(sys.modules); import onepix; dir(onepix); print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout.split()
    assert [name for name in loaded if name.startswith("onepix")] == ["onepix"]
    assert {name.partition(".")[0] for name in loaded} & {"torch", "numpy", "pandas", "pydantic"} == set()


def test_public_names_are_those_of_the_stub_and_all_there():
    stub = Path(onepix.__file__).with_suffix(".pyi").read_text()
    for name in onepix.__all__:
        assert getattr(onepix, name) is not None
        assert f" as {name}\n" in stub or f"{name}: " in stub
    assert set(onepix.__all__) <= set(dir(onepix))
    assert stub.count(" as ") == len(onepix.LAZY) == len(onepix.__all__) - 1
    with pytest.raises(AttributeError, match="module 'onepix' has no attribute 'attak'"):
        _ = onepix.attak


def test_bundled_images():
    images = onepix.bundled_images()
    assert images.images.shape == (100, 32, 32, 3)
    assert [images.class_names[label] for label in images.labels[:4]] == ["cat", "ship", "ship", "airplane"]


def test_bundled_and_written_networks_are_the_same_classifier():
    images = torch.from_numpy(onepix.bundled_images().images[:3])
    lenet = onepix.bundled_network("lenet")
    assert isinstance(lenet, onepix.Classifier)
    assert not lenet.training
    assert lenet(images).argmax(1).tolist() == [3, 8, 8]
    for given in (bundled()["lenet"], str(bundled()["lenet"])):
        assert torch.equal(onepix.load_network(given)(images), lenet(images))


def test_a_network_that_does_not_come_with_onepix():
    with pytest.raises(OnepixError, match=r"^network 'resnet21' does not come with onepix; did you mean 'resnet20'\?$"):
        onepix.bundled_network("resnet21")
    with pytest.raises(OnepixError, match=r"^nowhere\.safetensors: the weights file is missing$"):
        onepix.load_network("nowhere.safetensors")
