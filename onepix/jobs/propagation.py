"""Follow the pixel changes of one chunk through every layer."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from onepix.analysis.maps import MAPS, maps_tree, said_of_attacks
from onepix.config.base import Settings
from onepix.config.engine import Passes
from onepix.config.propagation import Layers
from onepix.datasets.arrays import read_images
from onepix.engine.devices import choose_micro_batch, claimed_device
from onepix.files.layout import name_of, result_of
from onepix.files.manifests import checked_data, write_manifest
from onepix.files.records import attacked_images, stored_records
from onepix.files.trees import write_tree
from onepix.images import ImageSet
from onepix.jobs.inputs import JsonText, Manifest, Output, provenance, read_settings
from onepix.layers.plan import plan
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import receptive_fields
from onepix.networks.weights import load_network_file


class PropagationJob(Settings):
    """Settings of the job."""

    layers: Layers
    engine: Passes


def run(settings: JsonText, dataset: Manifest, network: Manifest, attack: Manifest, output: Output) -> None:
    """Write the propagation maps of all attacked images of a chunk as zarr, and their manifest `output`."""
    job = read_settings(PropagationJob, settings)
    records = stored_records([attack])
    attacked = records[records["eligible"]]
    images = read_images(dataset)
    changed = attacked_images(images.images[images.indices(attacked["image_id"])], attacked)
    follow(job, images, changed, said_of_attacks(attacked), output, dataset=dataset, network=network, attack=attack)


def follow(
    job: PropagationJob,
    images: ImageSet,
    changed: npt.NDArray[np.uint8],
    root: xr.Dataset,
    output: Path,
    **inputs: Path,
) -> None:
    """Follow changes through every layer, and write their propagation maps and a manifest.

    Parameters
    ----------
    job : PropagationJob
        Layers and engine; the module of its class is named in the manifest.
    images : ImageSet
        The dataset.
    changed : ndarray
        uint8, shape (N, H, W, C): images with pixels changed.
    root : Dataset
        What is stored about each of them: see `onepix.analysis.maps.said_of_attacks`.
    output : Path
        The manifest to write.
    **inputs : Path
        Manifests, at least that of the network.
    """
    device = claimed_device(job.engine.device)
    classifier = load_network_file(checked_data(inputs["network"]), device)
    _, height, width, channels = images.images.shape
    clean = images.images[images.indices(root["image"].values)]
    planned = plan(classifier.network, (channels, height, width), job.layers).required()
    layers = propagation_maps(
        classifier,
        torch.from_numpy(clean).to(device),
        torch.from_numpy(changed).to(device),
        job.layers,
        choose_micro_batch(job.engine.micro_batch, device, height, width),
        f"{result_of(output).kind} {name_of(inputs['network'])} {output.stem}",
        planned,
    )
    fields = receptive_fields(classifier.network, (channels, height, width))
    data = output.with_suffix(".zarr")
    write_tree(maps_tree(layers, fields, root.assign_attrs(image_shape=[height, width])), data)
    origin = {**provenance(device, **inputs), "unfollowed": list(planned.unfollowed)}
    ids = root["image"].values.tolist()
    write_manifest(output, data, job.model_dump(mode="json"), type(job).__module__, MAPS, image_ids=ids, **origin)
