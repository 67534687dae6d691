"""Keras 2 models against a forward pass in NumPy, written from TensorFlow's rules, and against published figures."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from studies import PUBLISHED
from torch import nn

from onepix.analysis.maps import measures
from onepix.datasets.bundled import load_bundled
from onepix.datasets.cifar10 import read_cifar10
from onepix.engine.windows import WindowedNetwork
from onepix.errors import OnepixError
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import ReceptiveField, receptive_fields
from onepix.networks.build import build
from onepix.networks.classifier import Classifier
from onepix.networks.keras import is_hdf5, read_keras
from onepix.networks.keras_resnet import SamePadding
from onepix.networks.training import accuracy

Array = npt.NDArray[np.float64]
Entry = dict[str, Any]
LAST = {"data_format": "channels_last"}
MEAN, STD = np.array([125.307, 122.95, 113.865]), np.array([62.9932, 62.0887, 66.7048])  # of the publisher, 0 to 255


# What a test says of a Keras model: an entry of model_config and weights by layer.


def conv(name: str, kernel: Sequence[int], channels: int, filters: int, **config: Any) -> tuple[Entry, dict[str, Any]]:
    settings = {"kernel_size": [*kernel], "strides": [1, 1], "dilation_rate": [1, 1], "padding": "valid"}
    entry = {"name": name, **settings, "activation": "linear", **LAST, **config}
    shapes = {"kernel": (*kernel, channels, filters), "bias": (filters,)}
    return {"class_name": "Conv2D", "config": entry}, shapes


def norm(name: str, channels: int, **config: Any) -> tuple[Entry, dict[str, Any]]:
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    entry = {"name": name, "axis": -1, "epsilon": 0.001, **config}
    return {"class_name": "BatchNormalization", "config": entry}, dict.fromkeys(names, (channels,))


def dense(name: str, inputs: int, units: int, activation: str = "linear") -> tuple[Entry, dict[str, Any]]:
    entry = {"name": name, "activation": activation}
    return {"class_name": "Dense", "config": entry}, {"kernel": (inputs, units), "bias": (units,)}


def plain(kind: str, name: str, **config: Any) -> tuple[Entry, dict[str, Any]]:
    return {"class_name": kind, "config": {"name": name, **config}}, {}


def pool(name: str, size: int) -> tuple[Entry, dict[str, Any]]:
    return plain("MaxPooling2D", name, pool_size=[size, size], strides=[size, size], padding="valid", **LAST)


Model = list[tuple[Entry, dict[str, Any]]]


def fed(layer: tuple[Entry, dict[str, Any]], *inputs: str) -> tuple[Entry, dict[str, Any]]:
    """Say what feeds a layer of a functional model."""
    nodes = [[[name, 0, 0, {}] for name in inputs]] if inputs else []
    return {**layer[0], "name": layer[0]["config"]["name"], "inbound_nodes": nodes}, layer[1]


def write(path: Path, layers: Model, **header: str) -> Path:
    """Write random weights as Keras 2.1.4 lays a model out; a functional model's entries say what feeds them."""
    generator = np.random.default_rng(17)
    entries = [entry for entry, _ in layers]
    functional = any("inbound_nodes" in entry for entry in entries)
    model = {"class_name": "Model" if functional else "Sequential"}
    config = {"layers": entries} if functional else entries
    with h5py.File(path, "w") as file:
        for key, value in {"keras_version": "2.1.4", "backend": "tensorflow", **header}.items():
            file.attrs[key] = value.encode()
        file.attrs["model_config"] = json.dumps({**model, "config": config}).encode()
        group = file.create_group("model_weights")
        names = [entry["config"]["name"] for entry in entries]
        group.attrs["layer_names"] = [name.encode() for name in names]
        for name, (_, shapes) in zip(names, layers, strict=True):
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in shapes]
            for key, shape in shapes.items():
                positive = key in ("gamma", "moving_variance")
                values = generator.uniform(0.5, 2, shape) if positive else generator.normal(0, 0.4, shape)
                inner[f"{name}/{key}:0"] = values.astype(np.float32)
    return path


# The oracle: what Keras computes, in NumPy and float64, channels last.


def windows_of(maps: Array, kernel: Sequence[int], stride: Sequence[int], same: bool) -> tuple[Array, int, int]:
    """Pad by TensorFlow's documented rule; return with it how many outputs there are in y and x."""
    pads, counts = [], []
    for extent, length, step in zip(maps.shape[1:3], kernel, stride, strict=True):
        count = math.ceil(extent / step) if same else math.ceil((extent - length + 1) / step)
        total = max((count - 1) * step + length - extent, 0) if same else 0
        pads.append((total // 2, total - total // 2))
        counts.append(count)
    return np.pad(maps, [(0, 0), *pads, (0, 0)]), counts[0], counts[1]


def convolve(maps: Array, weights: dict[str, Array], config: Entry) -> Array:
    kernel, stride = weights["kernel"], config["strides"]
    padded, height, width = windows_of(maps, kernel.shape[:2], stride, config["padding"] == "same")
    out = np.zeros((len(maps), height, width, kernel.shape[3])) + weights["bias"]
    for y, x, top, left in itertools.product(range(height), range(width), *map(range, kernel.shape[:2])):
        out[:, y, x] += padded[:, y * stride[0] + top, x * stride[1] + left] @ kernel[top, left]
    return out


def compute(entry: Entry, weights: dict[str, Array], feeds: list[Array]) -> Array:
    kind, config, maps = entry["class_name"], entry["config"], feeds[0]
    if kind == "Conv2D":
        maps = convolve(maps, weights, config)
    elif kind == "Dense":
        maps = maps @ weights["kernel"] + weights["bias"]
    elif kind == "BatchNormalization":
        scale = weights["gamma"] / np.sqrt(weights["moving_variance"] + config["epsilon"])
        maps = (maps - weights["moving_mean"]) * scale + weights["beta"]
    elif kind == "MaxPooling2D":
        size = config["pool_size"][0]
        height, width = maps.shape[1] // size, maps.shape[2] // size
        maps = maps[:, : height * size, : width * size].reshape(len(maps), height, size, width, size, -1).max((2, 4))
    elif kind == "GlobalAveragePooling2D":
        maps = maps.mean((1, 2))
    elif kind == "Flatten":
        maps = maps.reshape(len(maps), -1)
    elif kind == "Add":
        maps = np.add(*feeds)
    else:
        assert kind in ("InputLayer", "Activation")
    activation = config.get("activation", "linear")
    assert activation in ("linear", "relu", "softmax")  # softmax is last in these models, and logits are compared
    return np.maximum(maps, 0) if activation == "relu" else maps


def oracle(path: Path, images: Array) -> Array:
    """Run a Keras file on scaled images (N, H, W, C)."""
    with h5py.File(path) as file:
        model = json.loads(file.attrs["model_config"])
        entries = model["config"] if isinstance(model["config"], list) else model["config"]["layers"]
        outputs: dict[str, Array] = {}
        latest = ""
        for entry in entries:
            name = entry["config"]["name"]
            group = file["model_weights"][name]
            if name in group:
                inner = group[name]
                weights = {key.removesuffix(":0"): np.asarray(inner[key], np.float64) for key in inner}
            else:
                weights = {}
            nodes = entry.get("inbound_nodes") or []
            feeds = [outputs[feed[0]] for feed in nodes[0]] if nodes else [outputs.get(latest, images)]
            outputs[name] = compute(entry, weights, feeds)
            latest = name
    return outputs[latest]


def loaded(path: Path, network: nn.Module) -> nn.Module:
    network.load_state_dict(read_keras(path, network))
    return network.eval()


def check_equal(path: Path, network: nn.Module, shape: tuple[int, int, int]) -> None:
    """Hold a network with a file's weights against the oracle; `shape` is height, width, channels."""
    images = np.random.default_rng(23).normal(0, 1, (3, *shape))
    expected = oracle(path, images)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        reached = loaded(path, network).double()(given).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(reached, expected, rtol=1e-9, atol=1e-9)


def chain(height: int, width: int, channels: int) -> tuple[Model, int]:
    """Return a model with everything in one line, and how many values it flattens."""
    rows, columns = math.ceil(height / 2) // 2, math.ceil(width / 2) // 2
    layers = [
        conv("conv2d_1", (3, 3), channels, 4, strides=[2, 2], padding="same", activation="relu"),
        norm("batch_normalization_1", 4),
        conv("conv2d_2", (3, 5), 4, 5, padding="same"),
        plain("Activation", "activation_1", activation="relu"),
        pool("max_pooling2d_1", 2),
        plain("Flatten", "flatten_1"),
        dense("dense_1", rows * columns * 5, 7, "relu"),
        dense("dense_2", 7, 3, "softmax"),
    ]
    layers[0][0]["config"]["batch_input_shape"] = [None, height, width, channels]
    return layers, rows * columns * 5


def torch_chain(flattened: int, channels: int, epsilon: float = 0.001) -> nn.Sequential:
    return nn.Sequential(
        *(SamePadding(), nn.Conv2d(channels, 4, 3, 2), nn.ReLU(), nn.BatchNorm2d(4, epsilon)),
        *(nn.Conv2d(4, 5, (3, 5), padding=(1, 2)), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(flattened, 7), nn.ReLU(), nn.Linear(7, 3)),
    )


@pytest.mark.parametrize("shape", [(12, 8, 3), (11, 8, 3), (12, 7, 1), (9, 15, 2)])
def test_a_chain_on_images_of_even_and_odd_extents(tmp_path, shape):
    layers, flattened = chain(*shape)
    check_equal(write(tmp_path / "chain.h5", layers), torch_chain(flattened, shape[2]), shape)


def test_a_kernel_of_five_moved_by_two(tmp_path):
    """Of 7 rows, 4 are reached with 2 + 2 rows of padding; of 6 columns, 3 with 1 + 2: counted by hand."""
    layers = [
        conv("conv2d_1", (5, 5), 3, 2, strides=[2, 2], padding="same", activation="relu"),
        plain("Flatten", "flatten_1"),
        dense("dense_1", 24, 4),
    ]
    padded = [nn.ZeroPad2d((1, 2, 2, 2)), nn.Conv2d(3, 2, 5, 2), nn.ReLU()]
    network = nn.Sequential(*padded, nn.Flatten(), nn.Linear(24, 4))
    check_equal(write(tmp_path / "five.h5", layers), network, (7, 6, 3))


def test_images_that_are_flattened_at_once(tmp_path):
    layers = [plain("Flatten", "flatten_1", batch_input_shape=[None, 4, 5, 3]), dense("dense_1", 60, 4)]
    check_equal(write(tmp_path / "flat.h5", layers), nn.Sequential(nn.Flatten(), nn.Linear(60, 4)), (4, 5, 3))


class Shortcut(nn.Module):
    """A convolution, and one more whose input is added to its output; what is defined first runs last."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.after = nn.Conv2d(4, 4, 1)
        self.second = nn.Conv2d(4, 4, 1)
        self.first = nn.Conv2d(2, 4, 1)
        self.relu = nn.ReLU()
        self.wrong = wrong

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.first(images)
        changed = self.second(self.relu(maps))
        both = changed if self.wrong else maps + changed
        return self.linear(self.after(both).mean((2, 3)))


def shortcut() -> Model:
    return [
        fed(plain("InputLayer", "input_1", batch_input_shape=[None, None, None, 2])),
        fed(conv("conv2d_1", (1, 1), 2, 4), "input_1"),
        fed(plain("Activation", "activation_1", activation="relu"), "conv2d_1"),
        fed(conv("conv2d_2", (1, 1), 4, 4), "activation_1"),
        fed(plain("Add", "add_1"), "conv2d_1", "conv2d_2"),
        fed(conv("conv2d_3", (1, 1), 4, 4), "add_1"),
        fed(plain("GlobalAveragePooling2D", "pool_1", **LAST), "conv2d_3"),
        fed(dense("dense_1", 4, 3), "pool_1"),
    ]


def test_layers_are_matched_in_the_order_in_which_they_run(tmp_path):
    check_equal(write(tmp_path / "shortcut.h5", shortcut()), Shortcut(), (3, 5, 2))


def test_what_feeds_a_layer_is_compared(tmp_path):
    path = write(tmp_path / "shortcut.h5", shortcut())
    told = "conv2d_3 follows conv2d_1 and conv2d_2, the network's after follows second; it is the file of another"
    with pytest.raises(OnepixError, match=told):
        read_keras(path, Shortcut(wrong=True))


# Files that do not fit.


def altered(place: int, layer: tuple[Entry, dict[str, Any]]) -> Model:
    layers, _ = chain(12, 8, 3)
    return [*layers[:place], layer, *layers[place + 1 :]]


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (
            altered(0, conv("conv2d_1", (5, 5), 3, 6, padding="same")),
            "conv2d_1 has 6 kernels of 5 × 5 over 3 channels, the network's 1 has 4 kernels of 3 × 3 over 3 channels",
        ),
        (
            altered(0, conv("conv2d_1", (3, 3), 3, 4, padding="same")),
            "conv2d_1 has stride 1 × 1 and dilation 1 × 1, the network's 1 has stride 2 × 2",
        ),
        (
            altered(0, conv("conv2d_1", (3, 3), 3, 4, strides=[2, 2])),
            "conv2d_1 adds 0 rows and 0 columns to maps as they are, .* to maps that are padded",
        ),
        (
            altered(2, conv("conv2d_2", (3, 5), 4, 5, padding="valid")),
            "conv2d_2 adds 0 rows and 0 columns to maps as they are, .* adds 2 rows and 4 columns",
        ),
        (
            altered(1, norm("batch_normalization_1", 4, epsilon=1e-5)),
            "batch_normalization_1 has 4 channels and an epsilon of 1e-05, .* an epsilon of 0.001",
        ),
        (
            altered(1, conv("conv2d_9", (1, 1), 4, 4)),
            "conv2d_9 is a convolution, the network's 3 is a batch normalisation; it is the file of another network",
        ),
        (altered(7, dense("dense_2", 7, 10)), "dense_2 has 10 outputs of 7 inputs, the network's 10 has 3 outputs"),
        ([*chain(12, 8, 3)[0], dense("dense_3", 3, 3)], "has 6 layers .* the network has 5; .* is dense_3; it is"),
        (chain(12, 8, 3)[0][:-1], "has 4 layers with weights, the network has 5; .* counterpart is 10; it is"),
        (altered(0, conv("conv2d_1", (3, 3), 3, 4, data_format="channels_first")), "conv2d_1 takes channels first"),
        (altered(1, norm("batch_normalization_1", 4, axis=1)), "batch_normalization_1 takes channels first"),
        ([*shortcut()[:4], fed(plain("Add", "add_1"), "conv2d_1", "input_2")], "model_weights are not as in Keras 2"),
        (altered(5, plain("Reshape", "reshape_1")), "reshape_1 is of the kind Reshape, which is not supported"),
        (altered(6, dense("dense_1", 31, 7)), "dense_1 has 7 outputs of 31 inputs, .* of 30 inputs"),
        (altered(6, (dense("dense_1", 31, 7)[0], {})), "model_config and model_weights are not as in Keras 2"),
        (altered(6, (dense("dense_1", 31, 7)[0], {"bias": (7,)})), "model_config and model_weights are not as in"),
        (altered(0, (conv("conv2d_1", (3, 3), 3, 4)[0], {"kernel": (3, 3, 4)})), "model_weights are not as in Keras 2"),
    ],
)
def test_the_file_of_another_network(tmp_path, layers, told):
    path = write(tmp_path / "other.h5", layers)
    with pytest.raises(OnepixError, match=told) as raised:
        read_keras(path, torch_chain(30, 3))
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_flattened_maps_that_are_added(tmp_path):
    """Here the units of dense_1 would have to be put in another order, too."""
    layers = [
        fed(plain("InputLayer", "input_1", batch_input_shape=[None, 2, 2, 3])),
        fed(plain("Flatten", "flatten_1"), "input_1"),
        fed(dense("dense_1", 12, 12), "flatten_1"),
        fed(plain("Add", "add_1"), "dense_1", "flatten_1"),
    ]
    with pytest.raises(OnepixError, match="add_1 adds flattened maps, which is not supported"):
        read_keras(write(tmp_path / "added.h5", layers), nn.Sequential(nn.Flatten(), nn.Linear(12, 12)))


def test_a_layer_that_the_file_calls_twice(tmp_path):
    (entry, shapes), *_ = altered(0, fed(conv("conv2d_1", (1, 1), 2, 2)))
    image = fed(plain("InputLayer", "input_1", batch_input_shape=[None, 4, 4, 2]))
    entry["inbound_nodes"] = [[["input_1", 0, 0, {}]], [["conv2d_1", 0, 0, {}]]]
    with pytest.raises(OnepixError, match="conv2d_1 is called 2 times; expected every layer to be called once"):
        read_keras(write(tmp_path / "twice.h5", [image, (entry, shapes)]), nn.Sequential(nn.Conv2d(2, 2, 1)))


def test_what_later_versions_of_keras_2_write(tmp_path):
    """An InputLayer, the axis as a list, Functional for Model, and long lists of names in parts."""
    shape = (12, 8, 3)
    layers, flattened = chain(*shape)
    layers[1][0]["config"]["axis"] = [3]
    layers.insert(0, plain("InputLayer", "input_1", batch_input_shape=[None, *shape]))
    names = [entry["config"]["name"] for entry, _ in layers]
    later = [fed(layer, *names[max(place - 1, 0) : place]) for place, layer in enumerate(layers)]
    path = write(tmp_path / "later.h5", later, keras_version="2.4.0")
    with h5py.File(path, "a") as file:
        model = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps({**model, "class_name": "Functional"})
        group = file["model_weights"]
        group.attrs["layer_names0"], group.attrs["layer_names1"] = np.split(group.attrs["layer_names"], [4])
        del group.attrs["layer_names"]
    check_equal(path, torch_chain(flattened, 3), shape)


def test_a_bias_that_the_network_does_not_have(tmp_path):
    layers = [conv("conv2d_1", (1, 1), 3, 4)]
    with pytest.raises(OnepixError, match="conv2d_1 holds bias and weight, the network's 0 holds weight; it is"):
        read_keras(write(tmp_path / "bias.h5", layers), nn.Sequential(nn.Conv2d(3, 4, 1, bias=False)))


def test_weights_of_the_network_that_no_layer_holds(tmp_path):
    layers = [conv("conv2d_1", (1, 1), 3, 4)]
    with pytest.raises(OnepixError, match=r"no layer holds the network's 1\.weight"):
        read_keras(write(tmp_path / "prelu.h5", layers), nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4)))


def test_a_layer_that_the_network_calls_twice(tmp_path):
    layer = nn.Conv2d(3, 3, 1)
    with pytest.raises(OnepixError, match="cannot be matched with the network, which calls 0 twice"):
        read_keras(write(tmp_path / "twice.h5", [conv("conv2d_1", (1, 1), 3, 3)]), nn.Sequential(layer, layer))


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"keras_version": "3.4.1"}, r"written by Keras of version 3\.4\.1; expected a whole Keras 2 model"),
        ({"backend": "theano"}, "written with the backend theano, which flips kernels"),
    ],
)
def test_files_of_other_keras(tmp_path, header, told):
    with pytest.raises(OnepixError, match=told):
        read_keras(write(tmp_path / "other.h5", chain(12, 8, 3)[0], **header), torch_chain(30, 3))


def test_files_that_are_no_whole_keras_model(tmp_path):
    network = torch_chain(30, 3)
    path = write(tmp_path / "chain.h5", chain(12, 8, 3)[0])
    read_keras(path, network)
    whole = path.read_bytes()
    for content, told in (
        (b"", "not an HDF5 file; expected a whole Keras 2 model"),
        (whole[:5], "not an HDF5 file"),
        (b"PK\x03\x04" + whole, "not an HDF5 file"),
        (whole[:100], "not a whole Keras file"),
        (whole[:-1], "not a whole Keras file"),
    ):
        path.write_bytes(content)
        with pytest.raises(OnepixError, match=rf"chain\.h5: {told}") as raised:
            read_keras(path, network)
        assert "\n" not in str(raised.value)
    with pytest.raises(OnepixError, match=r"none\.h5: the weights file is missing"):
        read_keras(tmp_path / "none.h5", network)


def test_hdf5_without_a_model(tmp_path):
    path = tmp_path / "some.h5"
    with h5py.File(path, "w") as file:
        file["numbers"] = np.arange(3)
    with pytest.raises(OnepixError, match="HDF5 without model_config and model_weights; expected a whole Keras 2"):
        read_keras(path, torch_chain(30, 3))
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [b"conv2d_1"]
    with pytest.raises(OnepixError, match=r"holds only weights \(save_weights\), without model_config; expected a"):
        read_keras(path, torch_chain(30, 3))


@pytest.mark.parametrize("model", ["[]", "{}", '{"class_name": "Sequential", "config": [{"config": {}}]}', "no JSON"])
def test_a_model_config_that_is_none(tmp_path, model):
    path = write(tmp_path / "odd.h5", chain(12, 8, 3)[0])
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = model
    with pytest.raises(OnepixError, match=r"odd\.h5: (not a whole Keras file|model_config and model_w)"):
        read_keras(path, torch_chain(30, 3))


def test_hdf5_is_told_by_its_first_bytes(tmp_path):
    path = write(tmp_path / "named.safetensors", chain(12, 8, 3)[0])
    assert is_hdf5(path)
    path.write_bytes(b"\x89HDF")
    assert not is_hdf5(path)
    assert not is_hdf5(tmp_path)
    assert not is_hdf5(tmp_path / "none.h5")


# The architecture.


def randomised(depth: int, channels: int = 3) -> nn.Module:
    torch.manual_seed(5)
    network = build(f"keras-resnet{depth}", classes=4, channels=channels)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def test_depths_that_do_not_exist():
    with pytest.raises(OnepixError, match=r"'keras-resnet33': a CIFAR ResNet has depth 6n \+ 2"):
        build("keras-resnet33")


@pytest.mark.parametrize(("extent", "start"), [(20, -3), (21, -4)])
def test_receptive_fields_of_strided_layers(extent, start):
    """By hand: 3, 5 and 7 pixels up to the first stage's end; no row before even maps, one before odd ones."""
    fields = receptive_fields(build("keras-resnet8"), (3, extent, 12))
    assert fields["layer1.0"] == ReceptiveField((7, 7), (1, 1), (-3, -3))
    assert fields["layer2.0.conv1"] == ReceptiveField((9, 9), (2, 2), (start, -3))
    assert fields["layer2.0.shortcut"] == ReceptiveField((7, 7), (2, 2), (-3, -3))
    assert fields["layer2.0.conv2"] == ReceptiveField((13, 13), (2, 2), (start - 2, -5))


@pytest.mark.parametrize(("height", "width", "channels"), [(20, 12, 3), (21, 13, 3), (22, 15, 1)])
def test_changes_stay_within_their_forward_cones(height, width, channels):
    network = randomised(8, channels)
    fields = receptive_fields(network, (channels, height, width))
    generator = torch.Generator().manual_seed(3)
    clean = torch.randint(0, 256, (24, height, width, channels), generator=generator, dtype=torch.uint8)
    rows, columns = (torch.randint(0, extent, (24, 1), generator=generator) for extent in (height, width))
    rows[:2], columns[:2] = torch.tensor([[0], [height - 1]]), torch.tensor([[0], [width - 1]])
    attacked = clean.clone()
    attacked[torch.arange(24), rows[:, 0], columns[:, 0]] ^= 255
    changed = {}
    for layer in propagation_maps(Classifier(network, 0.5, 0.25).eval(), clean, attacked):
        field = fields[layer.name]
        found = measures(layer, field, (height, width), rows.numpy(), columns.numpy())
        assert not found["outside_cone"].any(), layer.name
        changed[layer.name] = layer.maximum.count_nonzero((1, 2))
    first, last = (fields["layer2.0.conv1"].cone(*pixel, (99, 99)) for pixel in ((0, 0), (6, 6)))
    assert first[0].start == first[1].start == 0
    assert last[0].stop > first[0].stop
    assert all(count.any() for count in changed.values())
    exact = ["conv1", "layer1.0.conv1", "layer2.0.conv1"]  # these fill their cones, within which ReLU cannot hide all
    for name in exact:
        shape = math.ceil(height / (2 if "layer2" in name else 1)), math.ceil(width / (2 if "layer2" in name else 1))
        for image in range(24):
            cone = fields[name].cone(int(rows[image]), int(columns[image]), shape)
            assert changed[name][image] == math.prod(part.stop - part.start for part in cone)


@pytest.mark.parametrize("shape", [(3, 20, 12), (3, 21, 15), (1, 32, 32)])
def test_windowed_evaluation_is_the_network_itself(shape):
    channels, height, width = shape
    network = randomised(8, channels).double()
    generator = torch.Generator().manual_seed(9)
    images = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    owners = torch.arange(40) % 2
    rows, columns = (torch.randint(0, extent, (40,), generator=generator) for extent in (height, width))
    rows[:2], columns[:2] = torch.tensor([0, height - 1]), torch.tensor([0, width - 1])
    values = torch.randn(40, channels, generator=generator, dtype=torch.float64)
    changed = images[owners]
    changed[torch.arange(40), :, rows, columns] = values
    with torch.no_grad():
        windowed = WindowedNetwork(network, shape)
        reached = windowed(windowed.clean(images), owners, rows, columns, values)
        assert windowed.worthwhile
        torch.testing.assert_close(reached, network(changed), rtol=1e-10, atol=1e-10)


# The published files.


def published(architecture: str, name: str) -> Classifier:
    path = PUBLISHED / name
    if not path.is_file():
        pytest.skip("the published weights are not at hand")
    return Classifier(loaded(path, build(architecture)), (MEAN / 255).tolist(), (STD / 255).tolist()).eval()


FILES = [("lenet", "hyperparticle-lenet.h5"), ("keras-resnet32", "hyperparticle-resnet32.h5")]


@pytest.mark.parametrize(("architecture", "name"), FILES)
def test_published_networks_compute_what_keras_computes(architecture, name):
    classifier = published(architecture, name)
    images = load_bundled().images[:2]
    expected = oracle(PUBLISHED / name, (images - MEAN) / STD)
    with torch.no_grad():
        reached = classifier(torch.from_numpy(images)).numpy()
    assert np.ptp(expected) > 3
    assert np.abs(reached - expected).max() < 1e-3


@pytest.mark.parametrize(("architecture", "name"), FILES)
def test_published_networks_have_as_many_parameters_as_their_files(architecture, name):
    network = published(architecture, name).network
    with h5py.File(PUBLISHED / name) as file:
        sizes: dict[str, int] = {}
        file["model_weights"].visititems(
            lambda key, item: sizes.update({key: item.size} if isinstance(item, h5py.Dataset) else {})
        )
    trained = sum(size for key, size in sizes.items() if "moving" not in key)
    assert sum(parameter.numel() for parameter in network.parameters()) == trained
    buffers = sum(buffer.numel() for key, buffer in network.named_buffers() if "running" in key)
    assert buffers == sum(sizes.values()) - trained


@pytest.mark.parametrize(("architecture", "name"), FILES)
def test_published_networks_read_the_bundled_images(architecture, name):
    assert accuracy(published(architecture, name), load_bundled(), "cpu") >= (0.6 if architecture == "lenet" else 0.85)


def test_published_files_that_are_swapped():
    if not PUBLISHED.is_dir():
        pytest.skip("the published weights are not at hand")
    told = (
        "lenet.h5: layer conv2d_1 has 6 kernels of 5 × 5 over 3 channels, the network's conv1 has 16 kernels of 3 × 3"
    )
    with pytest.raises(OnepixError, match=told):
        read_keras(PUBLISHED / FILES[0][1], build("keras-resnet32"))
    told = "resnet32.h5: layer conv2d_1 has 16 kernels of 3 × 3 .*, the network's conv1 has 6 kernels of 5 × 5"
    with pytest.raises(OnepixError, match=told):
        read_keras(PUBLISHED / FILES[1][1], build("lenet"))


def test_published_lenet_reaches_its_published_accuracy(official_cifar10):
    assert accuracy(published(*FILES[0]), read_cifar10(official_cifar10, "test"), "cpu") == 0.7488


def test_published_resnet32_reaches_its_published_accuracy(official_cifar10):
    """The publisher states 92.3 %."""
    reached = accuracy(published(*FILES[1]), read_cifar10(official_cifar10, "test"), "cpu")
    assert round(100 * reached, 1) == 92.3
