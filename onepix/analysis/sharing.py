"""Sharing between networks: whether the same positions are vulnerable, and whether a flip transfers."""

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy.stats import hypergeom

from onepix.analysis.statistics import bootstrap_mean, named, proportion
from onepix.config.statistics import Intervals
from onepix.errors import OnepixError

Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

TAIL = 20.0  # The sum leaves out overlaps with a probability of at most 2 exp(−2 TAIL), less than rounding.
ESTIMATES = (("successes", ("transfer", "moved")), ("images", ("jaccard", "chance")))
COLUMNS = ["source", "target"] + [
    column
    for count, names in ESTIMATES
    for column in (count, *(f"{name}{end}" for name in names for end in ("", "_low", "_high")))
]


def jaccard(first: Booleans, second: Booleans) -> Floats:
    """Return how far two sets of positions overlap: the proportion of the positions in either that are in both.

    Parameters
    ----------
    first, second : ndarray
        bool, shape (N, y, x).

    Returns
    -------
    ndarray
        float64, shape (N,), from 0 to 1; NaN where both are empty.

    Notes
    -----
    Jaccard, "The distribution of the flora in the alpine zone" (1912).
    """
    either = (first | second).sum((1, 2))
    proportions: Floats = np.divide(
        (first & second).sum((1, 2)), either, out=np.full(len(first), np.nan), where=either > 0
    )
    return proportions


def expected_jaccard(first: Booleans, second: Booleans) -> Floats:
    """Return the Jaccard index expected if each map had as many positions, at independent random places.

    Parameters
    ----------
    first, second : ndarray
        bool, shape (N, y, x); of each map only the number of positions matters.

    Returns
    -------
    ndarray
        float64, shape (N,); NaN where both are empty.

    Notes
    -----
    The overlap k of a and b positions is hypergeometric; the result is the expectation of k / (a + b − k). Real,
    "Tables of significant values of Jaccard's index of similarity" (1999), tests the same null hypothesis.
    """
    positions = first[0].size if len(first) else 1
    a, b = (maps.sum((1, 2), dtype=np.int64)[:, None] for maps in (first, second))
    # Hoeffding's bound (1963), for the map or complement with the fewest positions, keeps the sum short.
    fewest = np.minimum(np.minimum(a, b), positions - np.maximum(a, b))
    reach = int(np.sqrt(TAIL * fewest.max(initial=0))) + 2
    k = a * b // positions + np.arange(-reach, reach + 1)
    # Not `pmf`: for an ImageNet image it takes 0.1 ms per value.
    probability = np.exp(hypergeom.logpmf(k, positions, a, b))
    # Outside the support, where the probability is 0, the union may be empty.
    expected: Floats = (probability * k / np.maximum(a + b - k, 1)).sum(1)
    expected[(a + b == 0)[:, 0]] = np.nan
    return expected


def sharing_table(maps: Mapping[str, xr.DataArray], transfers: pd.DataFrame, settings: Intervals) -> pd.DataFrame:
    """Return for each pair of networks how far vulnerable positions overlap, and how often a success transfers.

    Parameters
    ----------
    maps : mapping
        Network to a bool array (image, y, x): the positions at which the network's class flips. The coordinate `image`
        holds image ids, each once. Two networks are compared on the images that both have.
    transfers : DataFrame
        One row per image, source network and target network (another one), where the attack on the source succeeded and
        the target classifies the original image correctly: image_id (int), source and target (str), flips (bool: the
        target misclassifies the attacked image) and moved (bool: it misclassifies the image with the same colour at
        another position, drawn at random).
    settings : Intervals
        Confidence, resamples and seed of the intervals.

    Returns
    -------
    DataFrame
        One row per ordered pair of networks: source; target; successes, the number of rows in `transfers`; transfer and
        moved, the proportions of these that flip the target (Wilson's interval); images, the number of images that both
        networks have and for which at least one map is not empty; jaccard and chance, the means over these images of
        `jaccard` and `expected_jaccard` (bootstrap), the same for both orders. Intervals are _low and _high. NaN where
        nothing is known. No rows for fewer than two networks.

    Raises
    ------
    OnepixError
        If two networks' maps differ in height or width.
    """
    networks = list(dict.fromkeys([*maps, *transfers["source"], *transfers["target"]]))
    overlaps = {
        frozenset(pair): _overlap([maps[network] for network in pair if network in maps], pair, settings)
        for pair in itertools.combinations(networks, 2)
    }
    rows = []
    for source, target in itertools.permutations(networks, 2):
        tried = transfers[(transfers["source"] == source) & (transfers["target"] == target)]
        row = {"source": source, "target": target, "successes": len(tried)}
        row |= named("transfer", proportion(tried["flips"], settings)) | named(
            "moved", proportion(tried["moved"], settings)
        )
        rows.append(row | overlaps[frozenset((source, target))])
    return pd.DataFrame(rows, columns=COLUMNS)


def _overlap(maps: list[xr.DataArray], networks: tuple[str, str], settings: Intervals) -> dict[str, float]:
    """Return the columns that do not depend on the order of a pair; NaN unless both networks have maps."""
    observed = chance = np.zeros(0)
    if len(maps) == 2:
        first, second = (common.sortby("image") for common in xr.align(*maps, join="inner", exclude=("y", "x")))
        if first.shape != second.shape:
            sizes = " and ".join(f"{y}×{x}" for _, y, x in (first.shape, second.shape))
            raise OnepixError(f"sharing: maps of {' and '.join(networks)} must be of one size, got {sizes}")
        observed, chance = jaccard(first.values, second.values), expected_jaccard(first.values, second.values)
    known = ~np.isnan(observed)
    row: dict[str, float] = {"images": int(known.sum())}
    row |= named("jaccard", bootstrap_mean(observed[known], settings))
    return row | named("chance", bootstrap_mean(chance[known], settings))
