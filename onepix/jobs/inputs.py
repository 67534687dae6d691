"""Options and inputs that jobs share, and what their manifests say about inputs and machine."""

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from onepix.config.base import Settings
from onepix.config.reading import validated
from onepix.errors import OnepixError
from onepix.files.manifests import read_manifest

S = TypeVar("S", bound=Settings)
# The options of jobs, as `python -m onepix.jobs RULE` takes them.
JsonText = Annotated[str, typer.Option(help="The job's settings as JSON.")]
Manifest = Annotated[Path, typer.Option(help="A manifest: of a dataset, a network, or a chunk at an earlier stage.")]
Table = Annotated[Path, typer.Option(help="A table, CSV.")]
Output = Annotated[Path, typer.Option(help="File to write; further files go next to it.")]
Fetched = Annotated[Path | None, typer.Argument(help="File of an earlier job, if this job needs one.")]
Files = Annotated[list[Path], typer.Argument(help="Manifests or tables that earlier jobs wrote.")]
OF_NETWORK = ("architecture", "arguments", "code", "package", "mean", "std", "logits", "weights")
DRIVER = Path("/proc/driver/nvidia/version")


def read_settings(model: type[S], text: str) -> S:
    """Read a job's settings from JSON."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise OnepixError(f"--settings: not JSON: {error}") from None
    return validated(model, values, "--settings")


def cifar10_folder(path: Path) -> Path:
    """Return the folder with CIFAR-10, given this folder or the manifest next to it."""
    return path.parent / read_manifest(path)["data"] if path.suffix == ".json" else path


def provenance(device: str, **inputs: Path) -> Mapping[str, Any]:
    """Return what a manifest says about the machine and the inputs, given the inputs' manifests."""
    import torch

    hardware, gpu = platform.machine(), {}
    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name(device)
        cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        gpu = {"gpu": {"cudnn": str(cudnn), "driver": _driver()}}
    return {
        "device": device,
        "hardware": hardware,
        **gpu,
        "threads": torch.get_num_threads(),
        "inputs": {name: read_manifest(path)["sha256"] for name, path in inputs.items()},
        **_network(inputs.get("network")),
    }


def _driver() -> str:
    """Return the version of NVIDIA's kernel module."""
    said = DRIVER.read_text() if DRIVER.is_file() else ""
    found = re.search(r"Module\b.*?\s(\d+(?:\.\d+)+)\s", said)
    return found[1] if found else "unknown"


def _network(manifest: Path | None) -> Mapping[str, Any]:
    """Return a network's architecture, the origin of its code and weights, and its input scaling."""
    if manifest is None:
        return {}
    metadata = read_manifest(manifest)["metadata"]
    return {"network": {key: metadata[key] for key in OF_NETWORK if key in metadata}}
