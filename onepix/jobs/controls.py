"""Follow the matched controls of one chunk's successes through every layer."""

import numpy as np

from onepix.analysis.draws import drawn_controls
from onepix.analysis.maps import said_of_controls
from onepix.analysis.positions import read_positions
from onepix.datasets.arrays import read_images
from onepix.jobs.inputs import JsonText, Manifest, Output, read_settings
from onepix.jobs.propagation import PropagationJob, follow


class ControlsJob(PropagationJob):
    """Settings of the job."""

    seed: int


def run(settings: JsonText, dataset: Manifest, network: Manifest, locality: Manifest, output: Output) -> None:
    """Write the propagation maps of the controls as zarr, and their manifest `output`.

    A control has the colour of a success, at a position of the same image where it does not flip the class.
    """
    job = read_settings(ControlsJob, settings)
    images = read_images(dataset)
    successes = read_positions([locality])
    assert successes is not None
    rows, columns = drawn_controls(successes.flips, successes.image, job.seed)
    exists = rows >= 0
    ids = successes.image[exists]
    root = said_of_controls(ids, successes.target[exists], rows[exists], columns[exists])
    changed = images.images[images.indices(ids)].copy()
    changed[np.arange(len(changed)), rows[exists], columns[exists]] = successes.colours[exists]
    follow(job, images, changed, root, output, dataset=dataset, network=network, locality=locality)
