"""Tables of success and locality."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from onepix.analysis.locality import (
    distance_profile,
    drawn_flips,
    half_distance,
    neighbour_rates,
    random_position_rates,
)
from onepix.analysis.positions import Positions
from onepix.analysis.spatial import spatial_table
from onepix.analysis.statistics import bootstrap_mean, named, proportion
from onepix.config.statistics import Statistics
from onepix.files.records import successes

Array = npt.NDArray[Any]


def locality_table(records: pd.DataFrame, maps: Positions | None, settings: Statistics) -> pd.DataFrame:
    """Compare the attack with the same change at its neighbours and at random positions, as the paper does.

    Parameters
    ----------
    records : DataFrame
        Attack records.
    maps : Positions or None
        Position maps of the successes; None for changes of several pixels.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.

    Returns
    -------
    DataFrame
        Five rows: change, images, rate, low, high. "original attack": over all attacks (Wilson's interval). The others
        are over the successful ones. "one neighbour" and "one position": the change moved to one drawn at random, as in
        the paper (Wilson). "neighbours" and "random position": means over images of the exact proportion of neighbours,
        and of all other positions, that reach the attack's goal (bootstrap).
        Without position maps (only one-pixel attacks have them) there is only the first row.

    Notes
    -----
    Vargas and Su (2019), locality analysis.
    """
    attacked = records[records["eligible"]]
    fallen = len(successes(attacked))
    entries = [("original attack", len(attacked), *proportion(attacked["success"], settings))]
    if maps:
        for change, rates in (("neighbours", neighbour_rates), ("random position", random_position_rates)):
            entries.append((change, fallen, *bootstrap_mean(rates(maps.flips, maps.rows, maps.columns), settings)))
        drawn = drawn_flips(maps.flips, maps.rows, maps.columns, maps.image, settings.seed)
        for change, hits in zip(("one neighbour", "one position"), drawn, strict=True):
            entries.append((change, fallen, *proportion(hits, settings)))
    return pd.DataFrame(entries, columns=["change", "images", "rate", "low", "high"])


def profile_table(maps: Positions | None, settings: Statistics) -> pd.DataFrame:
    """Show how the weakness fades with distance: `onepix.analysis.locality.distance_profile` of all position maps.

    Parameters
    ----------
    maps : Positions or None
        Position maps of the successes; None for changes of several pixels.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.
    """
    return distance_profile(*_positions(maps), settings)


def cluster_table(maps: Positions | None, settings: Statistics) -> pd.DataFrame:
    """Test each position map for clusters: `onepix.analysis.spatial.spatial_table` of all position maps.

    Parameters
    ----------
    maps : Positions or None
        Position maps of the successes; None for changes of several pixels.
    settings : Statistics
        Permutations of each map.
    """
    if maps is None:
        return spatial_table([], np.zeros((0, 1, 1), bool), np.zeros((0, 1, 1)), settings)
    return spatial_table(maps.image, maps.flips, maps.margin, settings)


def neighbourhood_table(clusters: pd.DataFrame, maps: Positions | None, settings: Statistics) -> pd.DataFrame:
    """Summarise over images whether the weakness belongs to neighbourhoods.

    Parameters
    ----------
    clusters : DataFrame
        Of `cluster_table`.
    maps : Positions or None
        Position maps of the successes; None for changes of several pixels.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.

    Returns
    -------
    DataFrame
        One row: images; half_distance, at which the excess over chance has fallen to half of that at the neighbours;
        moran_flips and moran_margin, mean Moran's I over images; each with its interval (_low, _high). tested, the
        number of images that can be tested (some positions flip, not all); moran_significant and region_significant:
        the proportion of these with clustered flips, and with a larger connected region than by chance, at a false
        discovery rate of 1 − confidence.
    """
    row: dict[str, float] = {"images": len(clusters)}
    row |= named("half_distance", half_distance(*_positions(maps), settings))
    for name in ("moran_flips", "moran_margin"):
        row |= named(name, bootstrap_mean(clusters[name].dropna().to_numpy(), settings))
    tested = clusters.dropna(subset="moran_flips_q")
    row["tested"] = len(tested)
    for name, column in (("moran_significant", "moran_flips_q"), ("region_significant", "largest_region_q")):
        row[name] = float((tested[column] <= 1 - settings.confidence).mean()) if len(tested) else np.nan
    return pd.DataFrame([row])


def _positions(maps: Positions | None) -> tuple[Array, Array, Array]:
    """Return flips, rows and columns; empty where there are no position maps."""
    if maps is None:
        return np.zeros((0, 1, 1), bool), np.zeros(0, np.int64), np.zeros(0, np.int64)
    return maps.flips, maps.rows, maps.columns
