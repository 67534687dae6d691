"""One file a rule of the workflow: read inputs and settings, call the library, write outputs."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from onepix.config import Settings, validated
from onepix.errors import OnepixError
from onepix.images import ImageSet
from onepix.store import checked_data, read_manifest

S = TypeVar("S", bound=Settings)


def read_settings(model: type[S], text: str) -> S:
    """Read a job's settings from JSON."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise OnepixError(f"--settings: not JSON: {error}") from None
    return validated(model, values, "--settings")


def read_images(manifest: Path) -> ImageSet:
    """Read a fetched dataset."""
    from onepix.datasets.arrays import load_arrays

    return load_arrays(checked_data(manifest))


def name_of(manifest: Path) -> str:
    """Return the name of the dataset or network whose manifest this is: its folder's."""
    return manifest.parent.name


def provenance(device: str, **inputs: Path) -> Mapping[str, Any]:
    """Return what a manifest says of the machine and of the inputs, given by their manifests."""
    import torch

    hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "device": device,
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "inputs": {name: read_manifest(path)["sha256"] for name, path in inputs.items()},
        **_network(inputs.get("network")),
    }


def _network(manifest: Path | None) -> Mapping[str, Any]:
    """Return what a network is and sees: its architecture, where its weights come from, and its input scaling."""
    if manifest is None:
        return {}
    metadata = read_manifest(manifest)["metadata"]
    return {"network": {key: metadata[key] for key in ("architecture", "mean", "std", "weights") if key in metadata}}
