"""Tables: success, growth by depth, locality."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from onepix.config import Statistics
from onepix.locality import distance_profile, drawn_flips, half_distance, neighbour_rates, random_position_rates
from onepix.spatial import spatial_table
from onepix.statistics import bootstrap_mean, wilson

Array = npt.NDArray[Any]


def success_table(records: pd.DataFrame, settings: Statistics) -> pd.DataFrame:
    """Summarise the attacks of one run.

    Parameters
    ----------
    records : DataFrame
        Attack records.
    settings : Statistics
        Confidence of the intervals.

    Returns
    -------
    DataFrame
        One row: images, correct (classified correctly), accuracy, attacks (an image and target each; untargeted, one a
        correct image), successes and success_rate of the attacks; the two readings of "untargeted", by image:
        class_flip_rate, the share of attacked images whose class changed in any attack, and any_target_rate, the share
        of which any targeted attack succeeded (missing where none was made); each with Wilson's interval (_low, _high).
        queries_total, queries_median over all attacks, queries_to_success_median over the successes.
    """
    attacked = records[records["eligible"]]
    by_image = attacked.assign(flipped=attacked["adversarial_class"] != attacked["label"]).groupby("image_id")
    targeted = by_image["target"].count().sum() > 0
    correct = records[records["clean_class"] == records["label"]]["image_id"].nunique()
    row = {
        "images": records["image_id"].nunique(),
        "correct": correct,
        "accuracy": correct / records["image_id"].nunique(),
        "attacks": len(attacked),
        "successes": int(attacked["success"].sum()),
        **_named("success_rate", _share(attacked["success"], settings)),
        **_named("class_flip_rate", _share(by_image["flipped"].any(), settings)),
        **_named("any_target_rate", _share(by_image["success"].any() if targeted else np.zeros(0, bool), settings)),
        "queries_total": int(attacked["queries"].sum()),
        "queries_median": _median(attacked["queries"]),
        "queries_to_success_median": _median(attacked.loc[attacked["success"].astype(bool), "queries_to_success"]),
    }
    return pd.DataFrame([row])


def layer_table(trees: Sequence[xr.DataTree], settings: Statistics) -> pd.DataFrame:
    """Summarise how far the change grows in each layer.

    Parameters
    ----------
    trees : sequence of DataTree
        Propagation maps, one tree a chunk.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.

    Returns
    -------
    DataFrame
        One row a layer and outcome (success, failure): depth, layer, operator, stride, receptive_field, outcome,
        images; share_of_peak, the mean over images of delta_peak / clean_peak, and reach, the mean share of
        positions changed, each with its interval (_low, _high). Images whose clean feature map is zero everywhere
        are left out of share_of_peak.
    """
    success = _across(trees, "", "success").astype(bool)
    rows = []
    for name in trees[0].children:
        attributes = trees[0][name].attrs
        clean, delta, reach = (_across(trees, name, variable) for variable in ("clean_peak", "delta_peak", "reach"))
        for outcome, chosen in (("success", success), ("failure", ~success)):
            alive = chosen & (clean > 0)
            row = {key: attributes[key] for key in ("depth", "layer", "operator")}
            row |= {key: _size(attributes[key]) for key in ("stride", "receptive_field")}
            row |= {"outcome": outcome, "images": int(chosen.sum())}
            row |= _named("share_of_peak", bootstrap_mean(delta[alive] / clean[alive], settings))
            row |= _named("reach", bootstrap_mean(reach[chosen], settings))
            rows.append(row)
    return pd.DataFrame(rows)


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
    entries = [("original attack", len(attacked), *_share(attacked["success"], settings))]
    if trees:
        flips, rows, columns = _positions(trees)
        for change, rates in (("neighbours", neighbour_rates), ("random position", random_position_rates)):
            entries.append((change, successes, *bootstrap_mean(rates(flips, rows, columns), settings)))
        drawn = drawn_flips(flips, rows, columns, _across(trees, "", "image"), settings.seed)
        for change, hits in zip(("one neighbour", "one position"), drawn, strict=True):
            entries.append((change, successes, *_share(hits, settings)))
    return pd.DataFrame(entries, columns=["change", "images", "rate", "low", "high"])


def profile_table(trees: Sequence[xr.DataTree], settings: Statistics) -> pd.DataFrame:
    """Tell how the weakness fades with distance: `onepix.locality.distance_profile` of all position maps.

    Parameters
    ----------
    trees : sequence of DataTree
        Position maps of the successes, one tree a chunk.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.
    """
    return distance_profile(*_positions(trees), settings)


def cluster_table(trees: Sequence[xr.DataTree], settings: Statistics) -> pd.DataFrame:
    """Test each position map for clusters: `onepix.spatial.spatial_table` of all position maps.

    Parameters
    ----------
    trees : sequence of DataTree
        Position maps of the successes, one tree a chunk.
    settings : Statistics
        Permutations of each map.
    """
    flips, _, _ = _positions(trees)
    ids, margins = (_across(trees, "", name) if trees else np.zeros(0) for name in ("image", "margin"))
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
    row |= _named("half_distance", half_distance(*_positions(trees), settings))
    for name in ("moran_flips", "moran_margin"):
        row |= _named(name, bootstrap_mean(clusters[name].dropna().to_numpy(), settings))
    tested = clusters.dropna(subset="moran_flips_q")
    row["tested"] = len(tested)
    for name, column in (("moran_significant", "moran_flips_q"), ("region_significant", "largest_region_q")):
        row[name] = float((tested[column] <= 1 - settings.confidence).mean()) if len(tested) else np.nan
    return pd.DataFrame([row])


def average_maps(trees: Sequence[xr.DataTree]) -> dict[str, Array]:
    """Return each layer's propagation map (PM_max) in units of the clean peak, averaged over all attacked images.

    Parameters
    ----------
    trees : sequence of DataTree
        Propagation maps, one tree a chunk; read one after the other.

    Returns
    -------
    dict
        Layer name to float array (y, x); NaN if no image was attacked.
    """
    averages = {}
    for name in trees[0].children:
        total, count = np.zeros(trees[0][name].to_dataset()["max"].shape[1:]), 0
        for tree in trees:
            layer = tree[name].to_dataset()
            peak = layer["clean_peak"].values
            alive = peak > 0
            total += (layer["max"].values[alive] / peak[alive, None, None]).sum(0)
            count += int(alive.sum())
        averages[trees[0][name].attrs["layer"]] = total / count if count else total * np.nan
    return averages


def _across(trees: Sequence[xr.DataTree], group: str, variable: str) -> Array:
    return np.concatenate([tree[group or "/"].to_dataset()[variable].values for tree in trees])


def _positions(trees: Sequence[xr.DataTree]) -> tuple[Array, Array, Array]:
    """Return flips, rows and columns of all position maps."""
    if not trees:
        return np.zeros((0, 1, 1), bool), np.zeros(0, np.int64), np.zeros(0, np.int64)
    flips, rows, columns = (_across(trees, "", name) for name in ("flips", "row", "column"))
    return flips, rows, columns


def _named(name: str, estimate: tuple[float, float, float]) -> dict[str, float]:
    """Return the columns of an estimate and its interval."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))


def _share(hits: pd.Series | Array, settings: Statistics) -> tuple[float, float, float]:
    """Return the share of hits with Wilson's interval; NaN without any trial."""
    interval = wilson(int(hits.sum()), len(hits), settings.confidence)
    return float(hits.mean()) if len(hits) else np.nan, *interval


def _median(values: pd.Series) -> float:
    return float(values.median()) if len(values) else np.nan


def _size(value: list[int] | str) -> str:
    return value if isinstance(value, str) else "×".join(map(str, value))
