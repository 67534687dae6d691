"""Keras 2 models in HDF5: their weights as the state dict of a torch network."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onepix.errors import OnepixError

MAGIC = b"\x89HDF\r\n\x1a\n"
EXPECTED = "expected a whole Keras 2 model, as model.save('….h5') writes it"
KINDS = {"Conv2D": nn.Conv2d, "BatchNormalization": nn.BatchNorm2d, "Dense": nn.Linear}
KIND_NAMES: dict[type[nn.Module], str] = {
    nn.Conv2d: "is a convolution",
    nn.BatchNorm2d: "is a batch normalisation",
    nn.Linear: "is a dense layer",
}
TENSOR_NAMES = {
    **{"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"},
    **{"moving_mean": "running_mean", "moving_variance": "running_var"},
}
# All other layers are refused: they may change the order of values, and PyTorch's order differs.
WEIGHTLESS = {
    *("InputLayer", "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "Dropout", "SpatialDropout2D", "Add"),
    *("Flatten", "ZeroPadding2D", "MaxPooling2D", "AveragePooling2D", "GlobalMaxPooling2D", "GlobalAveragePooling2D"),
}


@dataclasses.dataclass(frozen=True)
class _Flow:
    """A value between layers: which layers with weights it comes from, and what was done to it since then."""

    sources: frozenset[str]
    padded: bool = False  # by the layer just before
    flattened: bool = False
    channels: int = 0  # of the maps, also after they were flattened


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A Keras layer with weights, under Keras's names."""

    name: str
    kind: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    incoming: _Flow


@dataclasses.dataclass(frozen=True)
class _Module:
    """A torch module with weights."""

    name: str
    module: nn.Module
    incoming: _Flow


def is_hdf5(path: Path) -> bool:
    """Tell by the first bytes whether a file is HDF5; False for a missing file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_keras(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """Read the weights of a Keras 2 model for a torch network of the same layers.

    Layers with weights are matched in order: the order of the file with the order in which the network runs. These are
    compared: the kind of layer, the shape of its weights, its stride, dilation, padding or epsilon, and the layers with
    weights that feed it. Layers without weights are not compared (activations, pooling, the size of padding layers).

    Parameters
    ----------
    path : Path
        HDF5 with the attribute `model_config` and the group `model_weights`, channels last.
    network : nn.Module
        torch.fx must be able to trace it. Only nn.Conv2d, nn.BatchNorm2d and nn.Linear may hold weights, each called
        once. If the file pads a convolution of stride 2 as `same`, the network needs a padding layer just before it,
        since TensorFlow's rule depends on the size of the maps: see `onepix.networks.keras_resnet.SamePadding`.

    Returns
    -------
    dict of str to Tensor
        A state dict of the network, float32 on the CPU. Kernels H, W, I, O become O, I, H, W; the rows of a dense
        layer after Flatten, in the order H, W, C, become columns in the order C, H, W.

    Raises
    ------
    OnepixError
        If the file is missing, truncated, not a Keras 2 model, has channels first or layers that are not supported, or
        belongs to another network: the message names the first layer that differs.
    """
    try:
        return _complete(_matched(_layers(*_contents(path)), _modules(network)), network)
    except OnepixError as error:
        raise OnepixError(f"{path}: {error}") from error.__cause__
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise OnepixError(f"{path}: model_config and model_weights are not as in Keras 2; {EXPECTED}") from error


def _contents(path: Path) -> tuple[Any, dict[str, dict[str, Tensor]]]:
    """Return a file's model_config, and its weights by layer."""
    if not path.is_file():
        raise OnepixError("the weights file is missing")
    if not is_hdf5(path):
        raise OnepixError(f"not an HDF5 file; {EXPECTED}")
    try:
        with h5py.File(path, "r") as file:
            if "layer_names" in file.attrs and "model_weights" not in file:
                raise OnepixError(f"holds only weights (save_weights), without model_config; {EXPECTED}")
            if "model_config" not in file.attrs or "model_weights" not in file:
                raise OnepixError(f"HDF5 without model_config and model_weights; {EXPECTED}")
            version, backend = (_text(file.attrs.get(name, "unknown")) for name in ("keras_version", "backend"))
            if not version.startswith("2."):
                raise OnepixError(f"written by Keras of version {version}; {EXPECTED}")
            if backend == "theano":
                raise OnepixError("written with the backend theano, which flips kernels; expected tensorflow")
            groups = file["model_weights"]
            # Keras writes long lists as layer_names0, layer_names1 and so on.
            lists = [names for key, names in groups.attrs.items() if key.startswith("layer_names")]
            tensors = {_text(name): _tensors(groups[name]) for names in lists for name in names}
            return json.loads(file.attrs["model_config"]), tensors
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise OnepixError(f"not a whole Keras file ({reason}); {EXPECTED}") from error


def _text(attribute: str | bytes) -> str:
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def _tensors(group: Any) -> dict[str, Tensor]:
    """Return a layer's weights by the last part of their names, which are like conv2d_1/kernel:0."""
    paths = [_text(path) for path in group.attrs.get("weight_names", ())]
    return {
        path.rpartition("/")[2].partition(":")[0]: torch.from_numpy(np.array(group[path], np.float32)) for path in paths
    }


def _layers(model: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> list[_Layer]:
    """Return the layers with weights in the order of the file, where each layer comes after those that feed it."""
    layers: list[_Layer] = []
    outputs: dict[str, _Flow] = {}
    sequential = model["class_name"] == "Sequential"
    for entry in model["config"] if isinstance(model["config"], list) else model["config"]["layers"]:
        kind, config = entry["class_name"], entry["config"]
        name, nodes = config["name"], entry.get("inbound_nodes", [])
        _check_supported(name, kind, config, len(nodes))
        feeds = [*outputs][-1:] if sequential else [feed[0] for node in nodes for feed in node]
        incoming = _joined(name, config, [outputs[feed] for feed in feeds])
        if kind in KINDS:
            layers.append(_Layer(name, kind, config, tensors[name], incoming))
            channels = next(iter(tensors[name].values())).shape[-1]  # weights of the three kinds have them last
            outputs[name] = _Flow(frozenset([name]), channels=channels)
        else:
            flattened = incoming.flattened or kind == "Flatten"
            outputs[name] = dataclasses.replace(incoming, padded=kind == "ZeroPadding2D", flattened=flattened)
    return layers


def _check_supported(name: str, kind: str, config: Mapping[str, Any], calls: int) -> None:
    if kind not in KINDS and kind not in WEIGHTLESS:
        known = ", ".join([*KINDS, *sorted(WEIGHTLESS)])
        raise OnepixError(f"layer {name} is of the kind {kind}, which is not supported; supported are {known}")
    axis = config.get("axis", -1)
    if config.get("data_format") == "channels_first" or (axis[0] if isinstance(axis, list) else axis) not in (-1, 3):
        raise OnepixError(f"layer {name} takes channels first; expected channels last")
    if calls > 1:
        raise OnepixError(f"layer {name} is called {calls} times; expected every layer to be called once")


def _joined(name: str, config: Mapping[str, Any], flows: Sequence[_Flow]) -> _Flow:
    if not flows:
        return _Flow(frozenset(), channels=config.get("batch_input_shape", (None,))[-1] or 0)
    if len(flows) > 1 and any(flow.flattened for flow in flows):
        raise OnepixError(f"layer {name} adds flattened maps, which is not supported; expected Add before Flatten")
    return dataclasses.replace(flows[0], sources=frozenset().union(*(flow.sources for flow in flows)))


def _modules(network: nn.Module) -> list[_Module]:
    """Return the modules with weights in the order in which the network runs."""
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:  # the network's own code may raise anything
        reason = str(error).partition("\n")[0]
        raise OnepixError(f"cannot be matched with the network, which torch.fx cannot trace: {reason}") from error
    modules: dict[str, _Module] = {}
    outputs: dict[fx.Node, _Flow] = {}
    for node in traced.graph.nodes:
        flows = [outputs[feed] for feed in node.all_input_nodes]
        sources = frozenset[str]().union(*(flow.sources for flow in flows))
        name = str(node.target)
        module = traced.get_submodule(name) if node.op == "call_module" else None
        if module is not None and isinstance(module, tuple(KIND_NAMES)):
            if name in modules:
                raise OnepixError(f"cannot be matched with the network, which calls {name} twice")
            modules[name] = _Module(name, module, _Flow(sources, padded=flows[0].padded))
            sources = frozenset([name])
        outputs[node] = _Flow(sources, padded=node.target is F.pad or isinstance(module, nn.ZeroPad2d))
    return list(modules.values())


def _matched(layers: Sequence[_Layer], modules: Sequence[_Module]) -> dict[str, Tensor]:
    names = {layer.name: module.name for layer, module in zip(layers, modules, strict=False)}
    state: dict[str, Tensor] = {}
    for layer, module in zip(layers, modules, strict=False):
        _check_alike(layer, module, names)
        state |= {f"{module.name}.{name}": tensor for name, tensor in _translated(layer).items()}
    if len(layers) != len(modules):
        longer: Sequence[_Layer | _Module] = layers if len(layers) > len(modules) else modules
        alone = longer[min(len(layers), len(modules))].name
        raise OnepixError(
            f"has {len(layers)} layers with weights, the network has {len(modules)}; "
            f"the first without counterpart is {alone}; it is the file of another network"
        )
    return state


def _check_alike(layer: _Layer, module: _Module, names: Mapping[str, str]) -> None:
    """Refuse a layer that differs from its module; `names` maps names of layers to names of modules."""
    facts = zip(_facts_of_layer(layer), _facts_of_module(module), strict=True)
    different = next((both for both in facts if both[0] != both[1]), None)
    if different is None and {names[source] for source in layer.incoming.sources} != module.incoming.sources:
        different = _follows(layer.incoming), _follows(module.incoming)
    if different:
        raise OnepixError(
            f"layer {layer.name} {different[0]}, the network's {module.name} {different[1]}; "
            "it is the file of another network"
        )


def _translated(layer: _Layer) -> dict[str, Tensor]:
    """Return a layer's weights as its module holds them."""
    tensors = {TENSOR_NAMES[name]: tensor for name, tensor in layer.tensors.items()}
    if layer.kind == "Conv2D":
        tensors["weight"] = tensors["weight"].permute(3, 2, 0, 1).contiguous()
    if layer.kind == "Dense":
        rows, outputs = tensors["weight"].shape
        channels = layer.incoming.channels if layer.incoming.flattened else rows
        if not channels or rows % channels:
            raise OnepixError(f"layer {layer.name} has {rows} inputs, expected a multiple of {channels} channels")
        by_channel = tensors["weight"].reshape(-1, channels, outputs).transpose(0, 1)
        tensors["weight"] = by_channel.reshape(rows, outputs).T.contiguous()
    return tensors


def _complete(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Check that all tensors of the network are there; counters, which Keras does not have, stay as they are."""
    complete = {}
    for name, tensor in network.state_dict().items():
        found = tensor if name.endswith("num_batches_tracked") else state.get(name)
        if found is None:
            raise OnepixError(f"no layer holds the network's {name}; it is the file of another network")
        if found.shape != tensor.shape:
            raise OnepixError(f"{name} has shape {tuple(found.shape)}, the network's has {tuple(tensor.shape)}")
        complete[name] = found
    return complete


# The properties that are compared, as messages word them. The kind comes first, since it decides the others.


def _facts_of_layer(layer: _Layer) -> Iterator[str]:
    config, tensors, kind = layer.config, layer.tensors, KINDS[layer.kind]
    yield KIND_NAMES[kind]
    if kind is nn.Conv2d:
        height, width, channels, count = tensors["kernel"].shape
        stride, dilation = config["strides"], config["dilation_rate"]
        yield _kernels(count, height, width, channels)
        yield _steps(stride, dilation)
        added = _added((height, width), dilation) if config["padding"] == "same" else [0, 0]
        ahead = any(added) and max(stride) > 1  # the amount then depends on the size of the maps
        yield _padding([0, 0] if ahead else added, ahead or layer.incoming.padded)
    elif kind is nn.Linear:
        yield _rows(*tensors["kernel"].shape)
    elif kind is nn.BatchNorm2d:
        yield _normalised(len(tensors["moving_mean"]), config["epsilon"])
    yield _holds(TENSOR_NAMES[name] for name in tensors)


def _facts_of_module(built: _Module) -> Iterator[str]:
    module = built.module
    yield next(name for kind, name in KIND_NAMES.items() if isinstance(module, kind))
    if isinstance(module, nn.Conv2d):
        count, channels, height, width = module.weight.shape
        yield _kernels(count, height, width, channels)
        yield _steps(module.stride, module.dilation)
        if isinstance(module.padding, str):
            added = _added((height, width), module.dilation) if module.padding == "same" else [0, 0]
        else:
            added = [2 * extent for extent in module.padding]
        yield _padding(added, built.incoming.padded)
    elif isinstance(module, nn.Linear):
        yield _rows(module.in_features, module.out_features)
    elif isinstance(module, nn.BatchNorm2d):
        yield _normalised(module.num_features, module.eps)
    yield _holds(module.state_dict().keys() - {"num_batches_tracked"})


def _added(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Return how many rows and columns keep the size of a map; if odd, both frameworks add one more at the end."""
    return [(extent - 1) * gap for extent, gap in zip(kernel, dilation, strict=True)]


def _kernels(count: int, height: int, width: int, channels: int) -> str:
    return f"has {count} kernels of {height} × {width} over {channels} channels"


def _steps(stride: Sequence[int], dilation: Sequence[int]) -> str:
    return f"has stride {stride[0]} × {stride[1]} and dilation {dilation[0]} × {dilation[1]}"


def _padding(added: Sequence[int], ahead: bool) -> str:
    return f"adds {added[0]} rows and {added[1]} columns to maps {'that are padded' if ahead else 'as they are'}"


def _rows(inputs: int, outputs: int) -> str:
    return f"has {outputs} outputs of {inputs} inputs"


def _normalised(channels: int, epsilon: float) -> str:
    return f"has {channels} channels and an epsilon of {epsilon:g}"


def _holds(tensors: Iterable[str]) -> str:
    return f"holds {' and '.join(sorted(tensors))}"


def _follows(flow: _Flow) -> str:
    return f"follows {' and '.join(sorted(flow.sources)) or 'the image'}"
