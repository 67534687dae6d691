"""Fetch one network of the configuration: check its weights and write them down once and for all."""

from pathlib import Path

from onepix.config import NetworkSettings, Settings
from onepix.jobs import read_settings
from onepix.models.weights import load_classifier, read_metadata, save_classifier, weights_path
from onepix.store import write_manifest


class FetchNetwork(Settings):
    """What the job needs to know."""

    network: NetworkSettings


def run(settings: str, trained: Path | None, output: Path) -> None:
    """Write `weights.safetensors` and its manifest `output`; `trained` holds the weights of `weights: train`."""
    job = read_settings(FetchNetwork, settings)
    source = trained or weights_path(job.network)
    classifier = load_classifier(job.network, source)
    metadata = {
        **(read_metadata(source) if source else {}),
        "architecture": job.network.architecture,
        "classes": job.network.classes,
        "channels": job.network.channels,
    }
    data = output.parent / "weights.safetensors"
    save_classifier(classifier, data, metadata)
    write_manifest(output, data, job.model_dump(mode="json"), metadata=read_metadata(data))
