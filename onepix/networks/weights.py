"""Writes and reads weights as safetensors, with metadata that describe the network."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from onepix.config.reading import canonical
from onepix.errors import OnepixError
from onepix.files.atomic import replacing
from onepix.files.manifests import read_manifest
from onepix.networks.build import FACTORY, TORCHVISION, build
from onepix.networks.classifier import Classifier
from onepix.networks.gate import refuse_script, told

KEY = "onepix"  # one entry for all metadata: several would be written in random order, and files would differ
NEEDED = {"classes", "channels", "mean", "std"}  # besides the architecture
COUNTER = "num_batches_tracked"  # of batch normalisation; not used in evaluation


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
    with told(f"network {classifier.name} cannot be stored"):
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


def fill(network: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load tensors into a network, all of them or none.

    Raises
    ------
    OnepixError
        If tensors are missing, unexpected or have another shape; the message names the first of each.
    """
    expected = network.state_dict()
    missing = [name for name in expected if name not in tensors and not name.endswith(COUNTER)]
    unexpected = [name for name in tensors if name not in expected and not name.endswith(COUNTER)]
    shapes = [name for name in expected if name in tensors and tensors[name].shape != expected[name].shape]
    faults = []
    if missing:
        faults.append(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    if unexpected:
        faults.append(f"{len(unexpected)} are unexpected, the first is {unexpected[0]}")
    if shapes:
        found, wanted = tuple(tensors[shapes[0]].shape), tuple(expected[shapes[0]].shape)
        faults.append(f"{len(shapes)} have another shape, the first is {shapes[0]}: {found}, expected {wanted}")
    if faults:
        raise OnepixError(f"cannot load {what}: {'; '.join(faults)}")
    network.load_state_dict({name: tensors.get(name, expected[name]) for name in expected})


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
    _refuse_foreign_code(metadata["architecture"], path)
    network = build(metadata["architecture"], metadata["classes"], metadata["channels"])
    fill(network, load_file(path), f"{path} into {metadata['architecture']}")
    mean, std = (value if isinstance(value, float) else tuple(value) for value in (metadata["mean"], metadata["std"]))
    return Classifier(network, mean, std, _name(path)).eval().to(device)


def _name(path: Path) -> str:
    """Return the name of a stored network: that of its folder, if the job `networks` wrote it, or of its file."""
    return path.parent.name if path.with_name("manifest.json").is_file() else path.stem


def _refuse_foreign_code(architecture: str, path: Path) -> None:
    """Refuse a factory that only the file itself names: building it would run code that the file's author chose.

    If the job `networks` wrote the file, its manifest shows that the configuration names the factory.
    """
    if not FACTORY.fullmatch(architecture) or architecture.startswith(TORCHVISION):
        return
    manifest = path.with_name("manifest.json")
    chosen = read_manifest(manifest)["settings"].get("network", {}) if manifest.is_file() else {}
    if chosen.get("architecture") != architecture:
        raise OnepixError(
            f"{path}: refused: it asks to run {architecture}; name the factory in a configuration instead"
        )
