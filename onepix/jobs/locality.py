"""Move the colours of a chunk's successful attacks to every position."""

import numpy as np
import torch

from onepix.analysis.positions import POSITIONS, positions_tree
from onepix.attacks.goal import Goal
from onepix.attacks.position_maps import position_maps
from onepix.config.base import Settings
from onepix.config.engine import Engine
from onepix.datasets.arrays import read_images
from onepix.engine.devices import claimed_device, keep_memory
from onepix.engine.evaluator import Evaluator
from onepix.files.layout import name_of
from onepix.files.manifests import checked_data, write_manifest
from onepix.files.records import one_pixel_successes, stored_records
from onepix.files.targets import targets_of
from onepix.files.trees import write_tree
from onepix.jobs.inputs import JsonText, Manifest, Output, provenance, read_settings
from onepix.networks.weights import load_network_file


class LocalityJob(Settings):
    """Settings of the job."""

    engine: Engine


def run(settings: JsonText, dataset: Manifest, network: Manifest, attack: Manifest, output: Output) -> None:
    """Write the position maps of a chunk's successes as zarr, and their manifest `output`."""
    job = read_settings(LocalityJob, settings)
    keep_memory()
    device = claimed_device(job.engine.device)
    records = stored_records([attack])
    successes = one_pixel_successes(records, attack, "position maps are made of")
    images = read_images(dataset)
    indices, labels = images.indices(successes["image_id"]), successes["label"].to_numpy(np.int64)
    classifier = load_network_file(checked_data(network), device)
    shape = images.images.shape[1:]
    evaluator = Evaluator(classifier, job.engine, shape)
    colours = np.array([values[0] for values in successes["values"]], np.uint8).reshape(-1, shape[2])
    maps = position_maps(
        evaluator,
        torch.from_numpy(images.images[indices]).to(device),
        Goal(torch.from_numpy(labels).to(device), torch.tensor(targets_of(successes), device=device)),
        torch.from_numpy(colours).to(device),
        f"locality {name_of(network)} {output.stem}",
    )
    data = output.with_suffix(".zarr")
    write_tree(positions_tree(maps, colours, successes), data)
    write_manifest(
        output,
        data,
        job.model_dump(mode="json"),
        __name__,
        POSITIONS,
        image_ids=successes["image_id"].tolist(),
        evaluation=evaluator.facts,
        **provenance(device, dataset=dataset, network=network, attack=attack),
    )
