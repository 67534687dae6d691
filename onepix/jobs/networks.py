"""Fetch one network of the configuration: check its weights, and store them in one format."""

import typer

from onepix.config.base import Settings
from onepix.config.networks import Network
from onepix.files.layout import name_of
from onepix.files.manifests import write_manifest
from onepix.jobs.inputs import Fetched, JsonText, Output, read_settings
from onepix.networks.matching import told
from onepix.networks.sources import find, load_classifier
from onepix.networks.storing import made_up_images, refuse_what_is_lost, stored_and_loaded
from onepix.networks.weights import read_metadata, save_classifier


class NetworksJob(Settings):
    """Settings of the job."""

    network: Network


def run(settings: JsonText, output: Output, trained: Fetched = None) -> None:
    """Write `weights.safetensors` and its manifest `output`, and print where the weights come from.

    `trained` is the file of trained weights, for `weights: train`.
    """
    job = read_settings(NetworksJob, settings)
    source = find(job.network, trained)
    classifier, metadata = load_classifier(job.network, source)
    classifier.name = name_of(output)
    again = stored_and_loaded(classifier, job.network, metadata)
    images = made_up_images(classifier, metadata["channels"])
    if images is not None:  # else it takes other sizes
        refuse_what_is_lost(classifier, again, images)
        metadata["logits"] = classifier.part
    data = output.parent / "weights.safetensors"
    save_classifier(classifier, data, metadata)
    write_manifest(output, data, job.model_dump(mode="json"), __name__, metadata=read_metadata(data))
    verified = f" (verified {source.verified})" if source.sha256 else ""
    typer.echo(f"weights of {name_of(output)}: {source.origin}{verified}")
    if said := told(metadata.get("tensors", {})):
        typer.echo(f"weights of {name_of(output)}: {said}")
