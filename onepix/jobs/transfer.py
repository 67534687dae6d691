"""Try the successes of other networks on one network."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from onepix.analysis.draws import drawn_positions
from onepix.config.base import Settings
from onepix.config.engine import Passes
from onepix.datasets.arrays import read_images
from onepix.datasets.class_names import for_network
from onepix.engine.devices import choose_micro_batch, claimed_device, halving, keep_memory
from onepix.engine.evaluator import logits
from onepix.files.layout import result_of
from onepix.files.manifests import checked_data
from onepix.files.records import attacked_images, one_pixel_successes, stored_records
from onepix.files.tables import write_csv
from onepix.jobs.inputs import Files, JsonText, Manifest, Output, read_settings
from onepix.networks.weights import load_network_file

Pictures = npt.NDArray[np.uint8]


class TransferJob(Settings):
    """Settings of the job."""

    target: str
    seed: int
    engine: Passes


def run(settings: JsonText, dataset: Manifest, network: Manifest, attacks: Files, output: Output) -> None:
    """Write as CSV whether the network misclassifies the images that flipped another network.

    Parameters
    ----------
    settings : str
        `TransferJob` as JSON.
    dataset, network : Path
        Manifests.
    attacks : list of Path
        Manifests of attack records of other networks.
    output : Path
        One row per image, source and target network, for images that the target network classifies correctly: image_id,
        source, target, flips (the attacked image of the source is misclassified), moved (the image with the same colour
        at another position, drawn at random, is misclassified).
    """
    job = read_settings(TransferJob, settings)
    keep_memory()
    device = claimed_device(job.engine.device)
    images = read_images(dataset)
    classifier = load_network_file(checked_data(network), device)
    micro_batch = choose_micro_batch(job.engine.micro_batch, device, *images.images.shape[1:3])

    def outputs_of(pictures: Pictures) -> torch.Tensor:
        nonlocal micro_batch
        given = torch.from_numpy(pictures).to(device)
        outputs, micro_batch = halving(lambda size: logits(classifier, given, size), micro_batch, classifier.name)
        return outputs

    def seen(pictures: Pictures) -> npt.NDArray[np.int64]:
        if len(pictures) == 0:  # a chunk without successes
            return np.zeros(0, np.int64)
        classes: npt.NDArray[np.int64] = outputs_of(pictures).argmax(1).cpu().numpy()
        return classes

    images = for_network(images, outputs_of(images.images[:1]).shape[1])  # only the network knows its classes
    parts = []
    for manifest in attacks:
        successes = _successes(manifest)
        indices = images.indices(successes["image_id"])
        clean, labels = images.images[indices], images.labels[indices]
        part = pd.DataFrame(
            {
                "image_id": successes["image_id"],
                "source": result_of(manifest).network,
                "target": job.target,
                "flips": seen(attacked_images(clean, successes)) != labels,
                "moved": seen(_moved(clean, successes, job.seed)) != labels,
            }
        )
        parts.append(part[seen(clean) == labels])
    write_csv(pd.concat(parts, ignore_index=True), output)


def _successes(manifest: Path) -> pd.DataFrame:
    return one_pixel_successes(stored_records([manifest]), manifest, "sharing is analysed for")


def _moved(clean: Pictures, successes: pd.DataFrame, seed: int) -> Pictures:
    """Return the images with the colour of each success at another position."""
    row, column = (successes[name].str[0].to_numpy(np.int64) for name in ("rows", "columns"))
    there = drawn_positions((clean.shape[1], clean.shape[2]), row, column, successes["image_id"], seed)
    rows, columns = (pd.Series([[index] for index in axis], successes.index, dtype=object) for axis in there)
    return attacked_images(clean, successes.assign(rows=rows, columns=columns))
