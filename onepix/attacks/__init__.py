"""Attacks: checking, eligibility and records here, one search a file beside."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from onepix.attacks.differential_evolution import differential_evolution
from onepix.attacks.outcome import Outcome
from onepix.config import DifferentialEvolution
from onepix.engine import candidate_logits, logits
from onepix.errors import OnepixError
from onepix.images import ImageSet
from onepix.models.classifier import Classifier
from onepix.pixels import Perturbation
from onepix.progress import progress_bar


@torch.inference_mode()
def attack(
    classifier: Classifier,
    images: ImageSet,
    settings: DifferentialEvolution,
    micro_batch: int = 64,
    description: str = "attack",
) -> pd.DataFrame:
    """Attack the correctly classified images of a set.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode; its device is used.
    images : ImageSet
        Images and true classes. Those classified wrongly before any change are recorded as not eligible.
    settings : DifferentialEvolution
        Method and budget.
    micro_batch : int
        Images a forward pass.
    description : str
        Names the progress bar.

    Returns
    -------
    DataFrame
        The attack records, one row an image in the order given; columns as in `onepix.records.SCHEMA`.
        The seed and an image's id alone set its random stream: a row does not depend on the other rows.

    Raises
    ------
    OnepixError
        If the classifier cannot take images of this shape, does not give one logit for each class of the set, or
        gives one that is not finite.
    """
    device = classifier.mean.device
    pictures = torch.from_numpy(images.images).to(device)
    labels = torch.from_numpy(images.labels).to(device)
    clean = _clean_logits(classifier, pictures, micro_batch)
    if clean.shape[1] != len(images.class_names):
        raise OnepixError(f"the network has {clean.shape[1]} classes, the images have {len(images.class_names)}")
    if not clean.isfinite().all():
        raise OnepixError("the network gives logits that are not finite on unchanged images")
    eligible = clean.argmax(1) == labels
    chosen = pictures[eligible]

    def evaluate(owners: Tensor, candidates: Perturbation) -> Tensor:
        outputs = candidate_logits(classifier, chosen, owners, candidates, micro_batch)
        bar.update(len(owners))
        return outputs

    with _progress(int(eligible.sum()), settings, description) as (bar, report):
        outcome = (
            differential_evolution(
                evaluate,
                labels[eligible],
                images.ids[eligible.cpu().numpy()].tolist(),
                images.images.shape[1:],
                settings,
                report,
            )
            if eligible.any()
            else Outcome.empty(0, 1, pictures.shape[3], device)
        )
    attacked = logits(classifier, outcome.best.apply(chosen), micro_batch) if eligible.any() else clean[:0]
    return _records(images, settings, clean, eligible, outcome, attacked)


def _clean_logits(classifier: Classifier, pictures: Tensor, micro_batch: int) -> Tensor:
    try:
        return logits(classifier, pictures, micro_batch)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        shape = "×".join(map(str, pictures.shape[1:]))
        raise OnepixError(f"the network cannot take images of {shape} (height, width, channels): {reason}") from error


@contextmanager
def _progress(eligible: int, settings: DifferentialEvolution, description: str) -> Iterator[Any]:
    """Show passes done of those still possible; images that leave take theirs out of the total."""
    total = eligible * settings.population * (settings.generations + 1)
    with progress_bar(total, description, "pass", unit_scale=True) as bar:

        def report(generation: int, active: int, flipped: int) -> None:
            bar.total = bar.n + active * settings.population * (settings.generations - generation)
            bar.set_postfix(generation=generation, active=active, flipped=flipped, refresh=False)

        yield bar, report


def _records(
    images: ImageSet,
    settings: DifferentialEvolution,
    clean: Tensor,
    eligible: Tensor,
    outcome: Outcome,
    attacked: Tensor,
) -> pd.DataFrame:
    """Put together the records: what was seen before the attack, joined by what the attack found."""
    before = clean.softmax(1).cpu().numpy()
    mask = eligible.cpu().numpy()
    records = pd.DataFrame(
        {
            "image_id": images.ids,
            "label": images.labels,
            "clean_class": clean.argmax(1).cpu().numpy(),
            "clean_confidence": before.max(1),
            "eligible": mask,
            "method": settings.method,
            "target": pd.array([None] * len(mask), dtype="Int64"),
            "true_probability_before": before[np.arange(len(mask)), images.labels],
            "queries": 0,
            "generations": 0,
            "seed": settings.seed,
        }
    )
    records.loc[mask, "queries"] = outcome.queries.cpu().numpy()
    records.loc[mask, "generations"] = outcome.generations.cpu().numpy()
    return records.join(_findings(images.labels[mask], outcome, attacked).set_index(records.index[mask]))


def _findings(labels: npt.NDArray[np.int64], outcome: Outcome, attacked: Tensor) -> pd.DataFrame:
    """Return the columns that only attacked images have; success is judged on the rebuilt 8-bit images."""
    after = attacked.softmax(1).cpu().numpy()
    adversarial_class = attacked.argmax(1).cpu().numpy()
    success = adversarial_class != labels
    first_flip = [
        queries if flipped else None
        for queries, flipped in zip(outcome.queries_to_success.tolist(), success, strict=True)
    ]
    return pd.DataFrame(
        {
            "success": success,
            "rows": outcome.best.rows.tolist(),
            "columns": outcome.best.columns.tolist(),
            "values": outcome.best.values.tolist(),
            "adversarial_class": adversarial_class,
            "adversarial_confidence": after.max(1),
            "true_probability_after": after[np.arange(len(after)), labels],
            "queries_to_success": pd.array(first_flip, dtype="Int64"),
        }
    )
