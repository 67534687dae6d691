"""Fetch one dataset of the configuration."""

import sys
from pathlib import Path

from onepix.config.base import Settings
from onepix.config.datasets import DatasetSettings
from onepix.datasets.arrays import save_arrays
from onepix.datasets.sources import load_dataset
from onepix.files.layout import name_of
from onepix.files.manifests import write_manifest
from onepix.jobs.inputs import Fetched, JsonText, Output, cifar10_folder, read_settings


class DatasetsJob(Settings):
    """Settings of the job."""

    dataset: DatasetSettings
    downloads: Path | None = None


def run(settings: JsonText, output: Output, cifar10: Fetched = None) -> None:
    """Write `images.npz` and its manifest `output`; `cifar10` is the manifest of CIFAR-10, if needed."""
    job = read_settings(DatasetsJob, settings)
    images = load_dataset(job.dataset, cifar10 and cifar10_folder(cifar10), job.downloads)
    for note in images.notes:
        sys.stderr.write(f"{name_of(output)}: {note}\n")
    data = output.parent / "images.npz"
    save_arrays(images, data)
    write_manifest(
        output,
        data,
        job.model_dump(mode="json"),
        __name__,
        images=len(images.ids),
        shape=images.images.shape[1:],
        class_names=images.class_names,
        provenance=images.provenance,
        notes=images.notes,
    )
