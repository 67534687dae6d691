"""Goals of attacks as numbers: the target of a record, the key of an attack, whether a class reaches the goal."""

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

UNTARGETED = -1  # stands for no target, where numbers cannot be missing

Key = tuple[int, int]  # image id and target: identifies an attack within a run
Classes = TypeVar("Classes", bound=Any)  # an array of NumPy or a tensor of PyTorch


def targets_of(records: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the targets of attack records, `UNTARGETED` where there is none; int64, shape (records,)."""
    targets: npt.NDArray[np.int64] = records["target"].fillna(UNTARGETED).to_numpy(np.int64)
    return targets


def keys_of(records: pd.DataFrame) -> list[Key]:
    """Return the keys of attack records."""
    return keys(records["image_id"], targets_of(records))


def keys(image_ids: Iterable[Any], targets: Iterable[Any]) -> list[Key]:
    """Return the keys of attacks, given their images' ids and their targets."""
    return [(int(image_id), int(target)) for image_id, target in zip(image_ids, targets, strict=True)]


def reached(classes: Classes, labels: Classes, targets: Classes) -> Classes:
    """Return whether predicted classes reach the goal: the target, or without target any class but the label.

    Parameters
    ----------
    classes, labels, targets : ndarray or Tensor
        Integers, of shapes that broadcast.

    Returns
    -------
    ndarray or Tensor
        bool.
    """
    untargeted = targets == UNTARGETED
    wanted: Classes = (untargeted & (classes != labels)) | (~untargeted & (classes == targets))
    return wanted
