"""Writes and reads weights as safetensors, with metadata that describe the network."""

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onepix.config.networks import factory_of
from onepix.config.reading import canonical
from onepix.errors import OnepixError, in_line
from onepix.files.atomic import replacing
from onepix.files.manifests import read_manifest
from onepix.files.own_code import own_digest
from onepix.networks.build import build
from onepix.networks.classifier import Classifier
from onepix.networks.gate import refuse_script, telling
from onepix.networks.matching import Match, match

KEY = "onepix"  # one entry for all metadata: several would be written in random order, and files would differ
NEEDED = {"classes", "channels", "mean", "std"}  # besides the architecture


def bundled() -> dict[str, Path]:
    """Return the weights files that come with onepix, by architecture."""
    assets = Path(str(resources.files("onepix") / "assets"))
    return {path.stem: path for path in sorted(assets.glob("*.safetensors"))}


def save_classifier(classifier: Classifier, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a network's tensors, its input scaling and further metadata as one safetensors file.

    Raises
    ------
    OnepixError
        If the network is TorchScript, or safetensors cannot hold a part of its state.
    """
    refuse_script(classifier.network, classifier.name)
    described = canonical({**metadata, **classifier.scaling})
    with telling(f"network {classifier.name} cannot be stored"):
        contents = save(_stored_tensors(classifier), metadata={KEY: described})
    with replacing(path) as temporary:
        temporary.write_bytes(contents)


def _stored_tensors(classifier: Classifier) -> dict[str, Tensor]:
    """Return the tensors of a network, on the CPU; those that share memory, such as tied weights, become copies."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in classifier.network.state_dict().items():
        if not isinstance(value, Tensor) or value.is_quantized or value.layout != torch.strided or value.is_meta:
            kind = f"a tensor of {value.dtype}, {value.layout}" if isinstance(value, Tensor) else type(value).__name__
            raise OnepixError(
                f"network {classifier.name} cannot be stored: {name} in its state_dict is {kind}, expected "
                "plain tensors; of a quantised network, give the one from before"
            )
        tensor = value.detach().contiguous().cpu()
        start = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if start in seen else tensor
        seen.add(start)
    return tensors


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that onepix wrote into a safetensors file; empty for a file of another origin.

    Raises
    ------
    OnepixError
        If the file is missing, truncated or of another format.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(KEY, "{}"))
    except FileNotFoundError:
        raise OnepixError(f"{path}: the weights file is missing") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise OnepixError(f"{path}: not a whole safetensors file ({error})") from None
    except (ValueError, RecursionError):
        metadata = None
    if not (isinstance(metadata, dict) and all(_is_scaling(metadata.get(name, 0.0)) for name in ("mean", "std"))):
        raise OnepixError(f"{path}: its metadata entry '{KEY}' was not written by onepix, or is damaged")
    return metadata


def _is_scaling(value: Any) -> bool:
    return all(isinstance(number, int | float) for number in (value if isinstance(value, list) else [value]))


def tensors_digest(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors: of their names, types, shapes and values."""
    whole = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor) and not is_lazy(tensor) and not tensor.is_meta:
            whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
            whole.update(_values(tensor).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def _values(tensor: Tensor) -> Tensor:
    """Return the numbers that a tensor holds, on the CPU, whatever its kind."""
    found = tensor.detach().cpu()
    if found.is_quantized:
        return found.int_repr()
    dense = found if found.layout == torch.strided else found.to_dense()
    return torch.view_as_real(dense) if dense.is_complex() else dense


def fill(network: nn.Module, tensors: Mapping[str, Tensor], what: str, key: str | None = None) -> Match:
    """Load tensors into a network, all of them or none.

    Parameters
    ----------
    network : nn.Module
        Its tensors are replaced; other types of floating point are converted to its own.
    tensors : mapping of str to Tensor
        Tensors of a file, among them those of the network under the same or similar names.
    what : str
        What is loaded into what, for messages.
    key : str, optional
        Which of several sets of tensors is taken, as `onepix.networks.matching.match` says.

    Returns
    -------
    Match
        Which tensors were taken, and what was left over.

    Raises
    ------
    OnepixError
        If tensors are missing, of another network, of another shape or quantised; the message names the first of each.
    """
    try:
        found = match(network, tensors, key)
        expected = network.state_dict()
        for name, source in found.names.items():
            _check_type(source, tensors[source], expected[name])
        network.load_state_dict({**expected, **{name: tensors[source] for name, source in found.names.items()}})
    except OnepixError as error:
        raise OnepixError(f"cannot load {what}: {error}") from None
    except Exception as error:  # the network may have its own way to load a state dict
        raise OnepixError(f"cannot load {what}: {in_line(error)}") from error
    return found


def _check_type(name: str, tensor: Tensor, expected: Tensor) -> None:
    """Refuse numbers that mean something else in the network, such as quantised weights."""
    other = tensor.is_complex() or not tensor.is_floating_point()
    if tensor.is_quantized or (other and expected.is_floating_point()):
        raise OnepixError(
            f"{name} has the type {str(tensor.dtype).removeprefix('torch.')}, expected floating point; "
            "if the file is quantised, give the weights from before"
        )


def load_network_file(path: Path, device: str | torch.device = "cpu") -> Classifier:
    """Load a network that onepix has written; its metadata hold all that is needed.

    Returns
    -------
    Classifier
        In evaluation mode.

    Raises
    ------
    OnepixError
        If the file is missing, truncated, or was not written by onepix.
    """
    metadata = read_metadata(path)
    if not isinstance(metadata.get("architecture"), str) or NEEDED - metadata.keys():
        raise OnepixError(f"{path}: its metadata do not name an architecture; it was not written by onepix")
    arguments = metadata.get("arguments")
    _refuse_foreign_code(metadata["architecture"], arguments, path)
    _refuse_edited_code(metadata, path)
    network = build(metadata["architecture"], metadata["classes"], metadata["channels"], arguments)
    fill(network, load_file(path), f"{path} into {metadata['architecture']}")
    mean, std = (value if isinstance(value, float) else tuple(value) for value in (metadata["mean"], metadata["std"]))
    return Classifier(network, mean, std, _name(path)).eval().to(device)


def _name(path: Path) -> str:
    """Return the name of a stored network: that of its folder, if the job `networks` wrote it, or of its file."""
    return path.parent.name if path.with_name("manifest.json").is_file() else path.stem


def _refuse_foreign_code(architecture: str, arguments: Any, path: Path) -> None:
    """Refuse a factory that only the file itself names: building it would run code that the file's author chose.

    If the job `networks` wrote the file, its manifest shows that the configuration names the factory.
    """
    if factory_of(architecture) is None:
        return
    manifest = path.with_name("manifest.json")
    chosen = read_manifest(manifest)["settings"].get("network", {}) if manifest.is_file() else {}
    if (chosen.get("architecture"), chosen.get("arguments")) != (architecture, arguments):
        raise OnepixError(
            f"{path}: refused: it asks to run {architecture}; name the factory in a configuration instead"
        )


def _refuse_edited_code(metadata: Mapping[str, Any], path: Path) -> None:
    """Refuse to build a network by other code than that of its stored weights."""
    factory = factory_of(metadata["architecture"])
    stored = metadata.get("code")
    if factory and stored and own_digest(factory[0]) not in (None, stored):
        raise OnepixError(
            f"{path}: the code of {metadata['architecture']} was edited since these weights were stored; "
            "run the workflow again"
        )
