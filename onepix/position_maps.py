"""Position maps: what a colour does at every position of an image."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onepix.attacks.goal import Goal
from onepix.engine import candidate_logits
from onepix.models.classifier import Classifier
from onepix.pixels import Perturbation
from onepix.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class PositionMaps:
    """What one colour does at every position of each of N images.

    Attributes
    ----------
    flips : ndarray
        bool, shape (N, y, x): the goal is reached; untargeted, the class is no longer the label.
    margin : ndarray
        float32, shape (N, y, x): the goal's logit margin; untargeted, the true class's logit minus the best other one.
    """

    flips: npt.NDArray[np.bool_]
    margin: npt.NDArray[np.float32]


@torch.inference_mode()
def position_maps(
    classifier: Classifier,
    images: Tensor,
    goal: Goal,
    colours: Tensor,
    micro_batch: int = 64,
    description: str = "locality",
) -> PositionMaps:
    """Move each image's colour to every position.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    images : Tensor
        uint8, shape (N, H, W, C), on the classifier's device.
    goal : Goal
        Of the N images.
    colours : Tensor
        uint8, shape (N, C).
    micro_batch : int
        Images a forward pass.

    Returns
    -------
    PositionMaps
        The exact answer for these colours: H · W forward passes an image.
    """
    count, height, width, _ = images.shape
    position = torch.arange(height * width, device=images.device)
    margins, flips = [], []
    with progress_bar(count * len(position), description, "pass", unit_scale=True) as bar:
        for image in range(count):
            candidates = Perturbation(
                (position // width)[:, None],
                (position % width)[:, None],
                colours[image].expand(len(position), 1, -1),
            )
            owners = torch.full_like(position, image)
            outputs = candidate_logits(classifier, images, owners, candidates, micro_batch)
            margins.append(goal[owners].margin(outputs))
            flips.append(goal[owners].reached(outputs))
            bar.update(len(position))
    shape = (count, height, width)
    return PositionMaps(_gathered(flips, shape, torch.bool), _gathered(margins, shape, torch.float32))


def _gathered(parts: list[Tensor], shape: tuple[int, int, int], dtype: torch.dtype) -> npt.NDArray[Any]:
    whole = torch.cat(parts) if parts else torch.empty(0, dtype=dtype)
    array: npt.NDArray[Any] = whole.reshape(shape).cpu().numpy()
    return array
