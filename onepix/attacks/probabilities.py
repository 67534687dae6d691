"""Which class probabilities a record holds."""

import numpy as np
import numpy.typing as npt
import pandas as pd

ALL_CLASSES = 20  # a network with more has only some of them recorded: so many of the likeliest, before and after
LIKELIEST = 5

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def probability_columns(
    before: Floats, after: Floats, attacked: npt.NDArray[np.bool_], concerned: Integers
) -> pd.DataFrame:
    """Return the columns of probabilities: all classes if these are few, else the likeliest and those concerned.

    Parameters
    ----------
    before : ndarray
        float32, shape (R, classes): probabilities of the unchanged images, one row per record.
    after : ndarray
        float32, shape (A, classes): of the attacked images, in the order of the records.
    attacked : ndarray
        bool, shape (R,): which records have one.
    concerned : ndarray
        int64, shape (R, K): classes that are recorded in any case, such as the true one; negative: none.

    Returns
    -------
    DataFrame
        `probability_classes` (ascending), `probabilities_before` and `probabilities_after` (None without attack), one
        array per record; the class seen is among the likeliest.
    """
    row_after, rows = np.cumsum(attacked) - 1, []
    for row, first in enumerate(before):
        second = after[row_after[row]] if attacked[row] else None
        classes = _recorded(concerned[row], *(p for p in (first, second) if p is not None))
        rows.append((classes, first[classes], None if second is None else second[classes]))
    return pd.DataFrame(rows, columns=["probability_classes", "probabilities_before", "probabilities_after"])


def _recorded(concerned: Integers, *probabilities: Floats) -> Integers:
    """Return the classes that are recorded, ascending."""
    if len(probabilities[0]) <= ALL_CLASSES:
        return np.arange(len(probabilities[0]))
    likeliest = [np.argsort(-p, kind="stable")[:LIKELIEST] for p in probabilities]
    return np.unique(np.concatenate([concerned[concerned >= 0], *likeliest]))
