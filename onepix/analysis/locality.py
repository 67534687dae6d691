"""Locality: whether the neighbours of a successful pixel are vulnerable, too."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from onepix.analysis.draws import image_stream
from onepix.analysis.statistics import bootstrap_mean, resampled
from onepix.config.statistics import Statistics


def neighbour_rates(
    flips: npt.NDArray[np.bool_], rows: npt.ArrayLike, columns: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Return for each image the proportion of the attacked pixel's neighbours at which the colour flips the class.

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
    """Return for each image the proportion of all positions but the attacked one at which the colour flips the class.

    It is the exact probability of a flip at a position drawn at random; parameters as in `neighbour_rates`.
    """
    return _mean_where(flips, _distance(flips.shape, rows, columns) > 0)


def drawn_flips(
    flips: npt.NDArray[np.bool_], rows: npt.ArrayLike, columns: npt.ArrayLike, image_ids: npt.ArrayLike, seed: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Draw for each image one neighbour of the attacked pixel and one other position, and tell whether they flip.

    It is the paper's own procedure; `neighbour_rates` and `random_position_rates` are the exact probabilities.

    Parameters
    ----------
    flips : ndarray
        bool, shape (N, y, x), of at least two positions.
    rows, columns : array_like
        int, shape (N,): the attacked pixels.
    image_ids : array_like
        int, shape (N,).
    seed : int
        Seed and image id together set the image's draws, whatever the other images are.

    Returns
    -------
    tuple of ndarray
        bool, shape (N,) each: whether the colour flips the class at the neighbour (uniform among the 8, 5 or 3 in the
        image), and at the other position (uniform among all but the attacked one).

    Notes
    -----
    Vargas and Su, "Understanding the One-Pixel Attack: Propagation Maps and Locality Analysis" (2019).
    """
    distance = _distance(flips.shape, rows, columns)
    drawn = np.zeros((2, len(flips)), dtype=bool)
    for image, image_id in enumerate(np.asarray(image_ids, dtype=np.int64).tolist()):
        stream = image_stream(seed, image_id, "draws")
        for change, where in enumerate((distance[image] == 1, distance[image] > 0)):
            choices = flips[image][where]
            drawn[change, image] = choices[stream.integers(len(choices))]
    return drawn[0], drawn[1]


def distance_profile(
    flips: npt.NDArray[np.bool_], rows: npt.ArrayLike, columns: npt.ArrayLike, settings: Statistics
) -> pd.DataFrame:
    """Return how often the colour flips the class at each distance from the attacked pixel.

    Parameters
    ----------
    flips : ndarray
        bool, shape (N, y, x).
    rows, columns : array_like
        int, shape (N,): the attacked pixels.
    settings : Statistics
        Confidence, resamples and seed of the bootstrap over images.

    Returns
    -------
    DataFrame
        One row per Chebyshev distance 1, 2, … up to the largest in any image: distance; images, how many have positions
        at this distance (large distances only where the attacked pixel lies near a side); rate, the mean over these
        images of the proportion of positions at this distance that flip; chance, the mean over the same images of the
        proportion of all positions but the attacked one that flip; each with its interval (low, high, chance_low,
        chance_high; NaN for a single image). No rows without images.
    """
    proportions, chances = _proportions(flips, rows, columns)
    entries = []
    for distance, values_here in enumerate(proportions.T, start=1):
        present = ~np.isnan(values_here)
        rate, chance = (bootstrap_mean(values[present], settings) for values in (values_here, chances))
        entries.append((distance, present.sum(), *rate, *chance))
    names = ["distance", "images", "rate", "low", "high", "chance", "chance_low", "chance_high"]
    return pd.DataFrame(entries, columns=names)


def half_distance(
    flips: npt.NDArray[np.bool_], rows: npt.ArrayLike, columns: npt.ArrayLike, settings: Statistics
) -> tuple[float, float, float]:
    """Return the length scale of the distance profile, and its percentile interval by resampling images.

    It is the smallest distance at which rate − chance of `distance_profile` has fallen to half of its value at
    distance 1, linearly interpolated between distances.

    Parameters
    ----------
    flips, rows, columns, settings
        As for `distance_profile`.

    Returns
    -------
    tuple of float
        Length scale in pixels, lower and upper bound. The length scale is NaN if there is no excess at distance 1, or
        if the excess never falls by half. The bounds come from the resamples that have a length scale; they are NaN
        with fewer than two images, or if fewer resamples than the proportion `confidence` have one.
    """
    proportions, chances = _proportions(flips, rows, columns)
    count, farthest = proportions.shape
    if farthest == 0:
        return np.nan, np.nan, np.nan
    present = (~np.isnan(proportions)).astype(np.float64)
    excess = np.where(present, proportions - chances[:, None], 0.0)
    (length,) = _half_distances(np.ones((1, count)), excess, present)
    if count == 1:
        return float(length), np.nan, np.nan
    lengths = np.concatenate([_half_distances(w, excess, present) for w in resampled(count, settings)])
    known = lengths[~np.isnan(lengths)]
    if len(known) < settings.confidence * len(lengths):
        return float(length), np.nan, np.nan
    low, high = np.quantile(known, [(1 - settings.confidence) / 2, (1 + settings.confidence) / 2])
    return float(length), float(low), float(high)


def _proportions(
    flips: npt.NDArray[np.bool_], rows: npt.ArrayLike, columns: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the proportion of positions that flip, by image and distance (NaN: no such position), and of all."""
    count = len(flips)
    distance = _distance(flips.shape, rows, columns)
    farthest = int(distance.max(initial=0))
    # One bin per image and distance, so that one count serves all images.
    bins = (distance + (farthest + 1) * np.arange(count)[:, None, None]).ravel()
    size = count * (farthest + 1)
    hits = np.bincount(bins, flips.ravel(), minlength=size).reshape(count, farthest + 1)[:, 1:]
    positions = np.bincount(bins, minlength=size).reshape(count, farthest + 1)[:, 1:]
    proportions = np.divide(hits, positions, out=np.full(hits.shape, np.nan), where=positions > 0)
    return proportions, hits.sum(1) / positions.sum(1)


def _half_distances(
    weights: npt.NDArray[np.float64], excess: npt.NDArray[np.float64], present: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return each resample's length scale: weights (resamples, images), excess and presence (images, distances)."""
    images = weights @ present
    # A resample may have no image with the largest distances; infinity never counts as fallen.
    profile = np.divide(weights @ excess, images, out=np.full(images.shape, np.inf), where=images > 0)
    half = profile[:, :1] / 2
    fallen = profile <= half
    at = fallen.argmax(1)[:, None]
    known = (half > 0) & fallen.any(1, keepdims=True)
    above, below = (np.take_along_axis(profile, np.maximum(index, 0), 1) for index in (at - 1, at))
    # Index 0 is distance 1, so the distance just before index `at` is `at` pixels.
    fraction = np.divide(above - half, above - below, out=np.full(half.shape, np.nan), where=known)
    lengths: npt.NDArray[np.float64] = (at + fraction)[:, 0]
    return lengths


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
