"""Find the receptive fields of one network, from its geometry and by gradient."""

import torch

from onepix.analysis.receptive_fields import FIELDS, field_table, gradients_tree
from onepix.config.base import Settings
from onepix.config.propagation import Layers
from onepix.datasets.arrays import read_images
from onepix.engine.devices import claimed_device
from onepix.files.layout import name_of
from onepix.files.manifests import checked_data, write_manifest
from onepix.files.tables import write_csv
from onepix.files.trees import write_tree
from onepix.jobs.inputs import JsonText, Manifest, Output, provenance, read_settings
from onepix.layers.effective_field import effective_fields
from onepix.layers.receptive_field import receptive_fields
from onepix.networks.weights import load_network_file


class ReceptiveFieldsJob(Settings):
    """Settings of the job."""

    layers: Layers
    device: str
    image_ids: tuple[int, ...]


def run(settings: JsonText, dataset: Manifest, network: Manifest, output: Output) -> None:
    """Write effective receptive fields as zarr, their manifest `output`, and a table of both kinds as CSV."""
    job = read_settings(ReceptiveFieldsJob, settings)
    device = claimed_device(job.device)
    images = read_images(dataset).select(job.image_ids)
    classifier = load_network_file(checked_data(network), device)
    _, height, width, channels = images.images.shape
    effective = effective_fields(classifier, torch.from_numpy(images.images).to(device), job.layers)
    theoretical = receptive_fields(classifier.network, (channels, height, width))
    table = field_table(effective, theoretical).assign(images=len(images.ids))
    table.insert(0, "dataset", name_of(dataset))
    table.insert(1, "network", name_of(network))
    write_csv(table, output.with_suffix(".csv"))
    data = output.with_suffix(".zarr")
    write_tree(gradients_tree(effective), data)
    origin = provenance(device, dataset=dataset, network=network)
    write_manifest(output, data, job.model_dump(mode="json"), __name__, FIELDS, **origin)
