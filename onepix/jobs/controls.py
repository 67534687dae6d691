"""Follow the matched controls of one chunk's successes through every layer."""

import numpy as np
import xarray as xr

from onepix.analysis.draws import drawn_controls
from onepix.datasets.arrays import read_images
from onepix.files.manifests import checked_data
from onepix.files.trees import read_tree
from onepix.jobs.inputs import JsonText, Manifest, Output, read_settings
from onepix.jobs.propagation import PropagationJob, follow


class ControlsJob(PropagationJob):
    """What the job needs to know."""

    seed: int


def run(settings: JsonText, dataset: Manifest, network: Manifest, locality: Manifest, output: Output) -> None:
    """Write the propagation maps of the controls as zarr, and their manifest `output`.

    A control is the colour of a success at a position of the same image, drawn from those that do not flip the class.
    """
    job = read_settings(ControlsJob, settings)
    images = read_images(dataset)
    successes = read_tree(checked_data(locality)).to_dataset().load()
    rows, columns = drawn_controls(successes["flips"].values, successes["image"].values, job.seed)
    exists = rows >= 0
    colours, chosen = successes["colour"].values[exists], successes.isel(image=exists)
    root = xr.Dataset(
        {
            "target": chosen["target"],
            "row": (("image", "pixel"), rows[exists, None]),
            "column": (("image", "pixel"), columns[exists, None]),
        }
    )
    changed = images.images[images.indices(root["image"].values)].copy()
    changed[np.arange(len(changed)), rows[exists], columns[exists]] = colours
    follow(job, images, changed, root, output, dataset=dataset, network=network, locality=locality)
