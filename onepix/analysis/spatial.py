"""Spatial statistics of position maps: whether positions that flip cluster more than by chance."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from onepix.analysis.draws import image_stream
from onepix.analysis.statistics import q_values
from onepix.config.statistics import Statistics

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

CHUNK = 2**20  # Positions permuted at once; limits the memory, and changes no result.
ROUNDING = 1e-12  # Values of Moran's I that differ by less are equal; float64 computes it to about 1e-15.
QUEEN = np.zeros((3, 3, 3), dtype=bool)  # Joins the 8 neighbours within a map, but never two maps.
QUEEN[1] = True


def spatial_table(
    image_ids: npt.ArrayLike, flips: npt.NDArray[np.bool_], margin: npt.NDArray[np.floating], settings: Statistics
) -> pd.DataFrame:
    """Test each position map for clusters.

    Parameters
    ----------
    image_ids : array_like
        int, shape (N,): seed and id together set the permutations of an image.
    flips : ndarray
        bool, shape (N, y, x).
    margin : ndarray
        Float, shape (N, y, x); finite.
    settings : Statistics
        Number of permutations and seed.

    Returns
    -------
    DataFrame
        One row per image, in the given order: image_id; flips, the number of positions that flip; moran_flips and
        moran_margin, Moran's I of each map; regions, the number of connected regions of positions that flip;
        largest_region, the number of positions in the largest. Moran's I and largest_region have a permutation p-value
        (_p) and a q-value over these images (_q). I, p and q are NaN where a map is constant.

    Notes
    -----
    The null hypothesis: a map's values are in random order. One permutation of the positions
    serves all three tests of an image. Cliff and Ord, "Spatial Processes: Models and Applications" (1981).
    """
    ids = np.asarray(image_ids, dtype=np.int64)
    number, largest = regions(flips)
    images = zip(ids.tolist(), flips, margin, strict=True)
    p_values = np.array([_p_values(*image, settings) for image in images], dtype=np.float64).reshape(-1, 3)
    columns = {
        "image_id": ids,
        "flips": flips.sum((1, 2)),
        **_tested("moran_flips", morans_i(flips), p_values[:, 0]),
        **_tested("moran_margin", morans_i(margin), p_values[:, 1]),
        "regions": number,
        **_tested("largest_region", largest, p_values[:, 2]),
    }
    return pd.DataFrame(columns)


def morans_i(maps: npt.NDArray[np.bool_] | npt.NDArray[np.floating]) -> Floats:
    """Return Moran's I of each map: at most about 1; −1 / (positions − 1) is expected without spatial order.

    Parameters
    ----------
    maps : ndarray
        bool or float, shape (N, y, x).

    Returns
    -------
    ndarray
        float64, shape (N,); NaN where a map is constant.

    Notes
    -----
    I = (n / Σ w_ij) · Σ w_ij z_i z_j / Σ z_i², with z a map's deviations from its mean. Contiguity is the queen's: w_ij
    is 1 if i is one of the up to 8 neighbours of j, else 0. The weights are binary, not row-standardised, so that a
    position at the edge counts less. Moran, "Notes on continuous stochastic phenomena" (1950); Cliff and
    Ord, "Spatial Processes: Models and Applications" (1981).
    """
    return _lagged_mean(_standardised(maps))


def regions(flips: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Return for each map the number of 8-connected regions of positions that flip, and the size of the largest.

    Parameters
    ----------
    flips : ndarray
        bool, shape (N, y, x).

    Returns
    -------
    tuple of ndarray
        int64, shape (N,) each; 0 without flips.
    """
    labels, count = ndimage.label(flips, QUEEN)
    sizes = np.bincount(labels.ravel(), minlength=1)
    sizes[0] = 0  # The positions that do not flip.
    owners = np.zeros(count + 1, dtype=np.int64)
    owners[labels] = np.arange(len(flips))[:, None, None]
    number = np.bincount(owners[1:], minlength=len(flips))
    return number, sizes[labels].max((1, 2), initial=0)


def _tested(name: str, values: Floats | Integers, p_values: Floats) -> dict[str, Floats | Integers]:
    return {name: values, f"{name}_p": p_values, f"{name}_q": q_values(p_values)}


def _p_values(
    image_id: int, flips: npt.NDArray[np.bool_], margin: npt.NDArray[np.floating], settings: Statistics
) -> Floats:
    """Return the one-sided p-values of Moran's I of the flips and of the margin, and of the largest region.

    Each is (1 + number of permutations that reach the observed value) / (1 + permutations): the map counts as one.
    """
    deviations = _standardised(np.stack([flips, margin])).reshape(2, -1)
    observed = _lagged_mean(deviations.reshape(2, *flips.shape))
    (largest,) = regions(flips[None])[1]
    reached = np.zeros(3, dtype=np.int64)
    for order in _permutations(flips.size, image_id, settings):
        shape = (len(order), *flips.shape)
        for n in range(2):
            reached[n] += (_lagged_mean(deviations[n, order].reshape(shape)) >= observed[n] - ROUNDING).sum()
        reached[2] += (regions(flips.ravel()[order].reshape(shape))[1] >= largest).sum()
    p_values = (1 + reached) / (1 + settings.permutations)
    p_values[np.isnan(observed[[0, 1, 0]])] = np.nan
    return p_values


def _permutations(positions: int, image_id: int, settings: Statistics) -> Iterator[Integers]:
    """Yield random orders of the positions, chunk by chunk."""
    stream = image_stream(settings.seed, image_id, "permutations")
    most = max(1, CHUNK // positions)
    for first in range(0, settings.permutations, most):
        rows = min(most, settings.permutations - first)
        yield stream.permuted(np.tile(np.arange(positions), (rows, 1)), axis=1)


def _standardised(maps: npt.NDArray[np.bool_] | npt.NDArray[np.floating]) -> Floats:
    """Return each map with mean 0 and variance 1; NaN where it is constant."""
    values = maps.astype(np.float64)
    constant = (values == values[:, :1, :1]).all((1, 2), keepdims=True)
    values[constant[:, 0, 0]] = np.nan
    values -= values.mean((1, 2), keepdims=True)
    values /= values.std((1, 2), keepdims=True)
    return values


def _lagged_mean(deviations: Floats) -> Floats:
    """Return each map's mean product of neighbours; for standardised maps, (N, y, x), this is Moran's I."""
    upper, lower = deviations[:, :-1], deviations[:, 1:]
    # Each pair of neighbours once: to the right, below, below right and below left.
    pairs = [
        (deviations[:, :, :-1], deviations[:, :, 1:]),
        (upper, lower),
        (upper[:, :, :-1], lower[:, :, 1:]),
        (upper[:, :, 1:], lower[:, :, :-1]),
    ]
    number = sum(math.prod(one.shape[1:]) for one, _ in pairs)
    total: Floats = np.sum([np.einsum("nyx,nyx->n", one, other) for one, other in pairs], axis=0)
    with np.errstate(invalid="ignore"):  # A single position has no neighbours; its map is constant, hence NaN.
        total /= number
    return total
