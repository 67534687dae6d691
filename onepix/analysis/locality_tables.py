"""Tables of success and locality."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from onepix.analysis.locality import (
    distance_profile,
    drawn_flips,
    half_distance,
    neighbour_rates,
    random_position_rates,
)
from onepix.analysis.maps import positions
from onepix.analysis.spatial import spatial_table
from onepix.analysis.statistics import bootstrap_mean, named, proportion
from onepix.config.statistics import Statistics
from onepix.files.trees import across


def locality_table(records: pd.DataFrame, trees: Sequence[xr.DataTree], settings: Statistics) -> pd.DataFrame:
    """Compare the attack with the same change at its neighbours and at random positions, as the paper does.

    Parameters
    ----------
    records : DataFrame
        Attack records.
    trees : sequence of DataTree
        Position maps of the successes, one tree a chunk.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.

    Returns
    -------
    DataFrame
        Five rows: change, images, rate, low, high. "original attack": over all attacks (Wilson's interval). The others
        are over the successful ones. "one neighbour" and "one position": the change moved to one drawn at random, as in
        the paper (Wilson). "neighbours" and "random position": means over images of the exact share of neighbours, and
        of all other positions, that reach the attack's goal (bootstrap).
        Without position maps, which are made of one-pixel attacks, there is only the first row.

    Notes
    -----
    Vargas and Su (2019), locality analysis.
    """
    attacked = records[records["eligible"]]
    successes = int(attacked["success"].sum())
    entries = [("original attack", len(attacked), *proportion(attacked["success"], settings))]
    if trees:
        flips, rows, columns = positions(trees)
        for change, rates in (("neighbours", neighbour_rates), ("random position", random_position_rates)):
            entries.append((change, successes, *bootstrap_mean(rates(flips, rows, columns), settings)))
        drawn = drawn_flips(flips, rows, columns, across(trees, "", "image"), settings.seed)
        for change, hits in zip(("one neighbour", "one position"), drawn, strict=True):
            entries.append((change, successes, *proportion(hits, settings)))
    return pd.DataFrame(entries, columns=["change", "images", "rate", "low", "high"])


def profile_table(trees: Sequence[xr.DataTree], settings: Statistics) -> pd.DataFrame:
    """Tell how the weakness fades with distance: `onepix.analysis.locality.distance_profile` of all position maps.

    Parameters
    ----------
    trees : sequence of DataTree
        Position maps of the successes, one tree a chunk.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.
    """
    return distance_profile(*positions(trees), settings)


def cluster_table(trees: Sequence[xr.DataTree], settings: Statistics) -> pd.DataFrame:
    """Test each position map for clusters: `onepix.analysis.spatial.spatial_table` of all position maps.

    Parameters
    ----------
    trees : sequence of DataTree
        Position maps of the successes, one tree a chunk.
    settings : Statistics
        Permutations of each map.
    """
    flips, _, _ = positions(trees)
    ids, margins = (across(trees, "", name) if trees else np.zeros(0) for name in ("image", "margin"))
    return spatial_table(ids, flips, margins.reshape(flips.shape), settings)


def neighbourhood_table(clusters: pd.DataFrame, trees: Sequence[xr.DataTree], settings: Statistics) -> pd.DataFrame:
    """Summarise over images whether the weakness belongs to neighbourhoods.

    Parameters
    ----------
    clusters : DataFrame
        Of `cluster_table`.
    trees : sequence of DataTree
        Position maps of the successes, one tree a chunk.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.

    Returns
    -------
    DataFrame
        One row: images; half_distance, at which the excess over chance has fallen to half of that at the neighbours;
        moran_flips and moran_margin, mean Moran's I over images; each with its interval (_low, _high). Of the images
        that can be tested (tested: some positions flip, not all), moran_significant and region_significant: the share
        with clustered flips, and with a larger connected region than by chance, at a false discovery rate of
        1 − confidence.
    """
    row: dict[str, float] = {"images": len(clusters)}
    row |= named("half_distance", half_distance(*positions(trees), settings))
    for name in ("moran_flips", "moran_margin"):
        row |= named(name, bootstrap_mean(clusters[name].dropna().to_numpy(), settings))
    tested = clusters.dropna(subset="moran_flips_q")
    row["tested"] = len(tested)
    for name, column in (("moran_significant", "moran_flips_q"), ("region_significant", "largest_region_q")):
        row[name] = float((tested[column] <= 1 - settings.confidence).mean()) if len(tested) else np.nan
    return pd.DataFrame([row])
