"""Tables: success, growth by depth, locality."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from onepix.config import Statistics
from onepix.locality import neighbour_rates, random_position_rates
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
        **_rate("success_rate", attacked["success"], settings),
        **_rate("class_flip_rate", by_image["flipped"].any(), settings),
        **_rate("any_target_rate", by_image["success"].any() if targeted else attacked["success"][:0], settings),
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
            row |= _with_interval("share_of_peak", delta[alive] / clean[alive], settings)
            row |= _with_interval("reach", reach[chosen], settings)
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
        Three rows: change (original attack, neighbours, random position), images, rate, low, high. The original
        attack's rate is over all attacked images (Wilson's interval); the other two are means over the successful
        ones of the exact share of neighbours, and of all other positions, that reach the attack's goal (bootstrap).
        Without position maps, which are made of one-pixel attacks, there is only the first row.

    Notes
    -----
    Vargas and Su (2019), locality analysis.
    """
    attacked = records[records["eligible"]]
    successes = int(attacked["success"].sum())
    original = (
        successes / len(attacked) if len(attacked) else np.nan,
        *wilson(successes, len(attacked), settings.confidence),
    )
    entries = [("original attack", len(attacked), *original)]
    if trees:
        flips, rows, columns = (_across(trees, "", name) for name in ("flips", "row", "column"))
        for change, rates in (("neighbours", neighbour_rates), ("random position", random_position_rates)):
            entries.append((change, successes, *bootstrap_mean(rates(flips, rows, columns), settings)))
    return pd.DataFrame(entries, columns=["change", "images", "rate", "low", "high"])


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


def _with_interval(name: str, values: Array, settings: Statistics) -> dict[str, float]:
    mean, low, high = bootstrap_mean(values, settings)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _rate(name: str, hits: pd.Series, settings: Statistics) -> dict[str, float]:
    low, high = wilson(int(hits.sum()), len(hits), settings.confidence)
    return {name: float(hits.mean()) if len(hits) else np.nan, f"{name}_low": low, f"{name}_high": high}


def _median(values: pd.Series) -> float:
    return float(values.median()) if len(values) else np.nan


def _size(value: list[int] | str) -> str:
    return value if isinstance(value, str) else "×".join(map(str, value))
