"""Locality: how far a successful pixel's neighbours share its vulnerability."""

import numpy as np
import numpy.typing as npt


def neighbour_rates(
    flips: npt.NDArray[np.bool_], rows: npt.ArrayLike, columns: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Return for each image the share of the attacked pixel's neighbours at which the colour flips the class.

    Parameters
    ----------
    flips : ndarray
        bool, shape (N, y, x).
    rows, columns : array_like
        int, shape (N,): the attacked pixels.

    Returns
    -------
    ndarray
        Shape (N,). A pixel has 8 neighbours, 5 on an edge and 3 in a corner.
    """
    return _mean_where(flips, _distance(flips.shape, rows, columns) == 1)


def random_position_rates(
    flips: npt.NDArray[np.bool_], rows: npt.ArrayLike, columns: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Return for each image the share of all positions but the attacked one at which the colour flips the class.

    It is the exact probability that a position drawn at random does; parameters as in `neighbour_rates`.
    """
    return _mean_where(flips, _distance(flips.shape, rows, columns) > 0)


def _distance(shape: tuple[int, ...], rows: npt.ArrayLike, columns: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return each position's Chebyshev distance from the attacked pixel, (N, y, x)."""
    _, height, width = shape
    down = np.abs(np.arange(height)[None, :] - np.asarray(rows, dtype=np.int64)[:, None])
    across = np.abs(np.arange(width)[None, :] - np.asarray(columns, dtype=np.int64)[:, None])
    distance: npt.NDArray[np.int64] = np.maximum(down[:, :, None], across[:, None, :])
    return distance


def _mean_where(flips: npt.NDArray[np.bool_], where: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    rates: npt.NDArray[np.float64] = (flips & where).sum((1, 2)) / where.sum((1, 2))
    return rates
