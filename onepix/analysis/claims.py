"""Tests each claim of Vargas and Su (2019) with a number and its interval."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from onepix.analysis.locality import neighbour_rates, random_position_rates
from onepix.analysis.maps import Measured
from onepix.analysis.positions import Positions
from onepix.analysis.statistics import bootstrap_mean, proportion
from onepix.config.statistics import Statistics

Array = npt.NDArray[Any]
SLIGHT = 0.01  # of a feature map's maximum: a smaller change does not count as arrived
MOST = 0.9  # of the attacks
CLOSE = 0.8  # of a feature map's maximum: counts as close to it
WIDE = 0.5  # of a layer's positions: counts as global; of the position maps: counts as the rule


def claim_table(
    attacks: Measured, maps: Positions | None, clusters: pd.DataFrame, settings: Statistics
) -> pd.DataFrame:
    """Test each claim of the paper on one run.

    Parameters
    ----------
    attacks : Measured
        Measurements on the attacks.
    maps : Positions or None
        Position maps of the successes; None for changes of several pixels.
    clusters : DataFrame
        Of `onepix.analysis.locality_tables.cluster_table`.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.

    Returns
    -------
    DataFrame
        One row per claim: claim; measure, what the estimate is; images; estimate with its interval (low, high); bound;
        verdict: confirmed if the whole interval lies above the bound, refuted if all of it lies below, otherwise (and
        without an interval) undecided.

    Notes
    -----
    The paper gives no bounds. Here, a change reaches the last layer if it exceeds 1 % of the layer's maximum; the claim
    holds if that is so in nine of ten attacks. A change is global from half of the positions on, and close to the
    maximum from 80 % of it. Successes change the last layer by definition, so the first claim is tested on all attacks.
    The next two are tested in the last spatial layer: in the first layer, a bright pixel is large by itself.
    """
    success, values, layers = attacks.success, attacks.values, attacks.layers
    relative_peak = np.where(
        np.isnan(values["share_of_peak"]) & (values["delta_peak"] == 0), 0, values["share_of_peak"]
    )
    spatial = [index for index, attributes in enumerate(layers) if attributes["spatial"]]
    last_spatial = layers[spatial[-1]]["layer"] if spatial else "no layer"
    tested = clusters.dropna(subset="moran_flips_q")["moran_flips_q"].to_numpy()
    claims: list[tuple[str, str, Array, float]] = [
        (
            "the change reaches the last layer",
            f"share of all attacks that change {layers[-1]['layer']} by more than {SLIGHT:.0%} of its maximum",
            relative_peak[:, -1] > SLIGHT,
            MOST,
        ),
        (
            "it grows from local to global",
            f"share of the positions of {last_spatial} changed by more than {SLIGHT:.0%} of its maximum, successes",
            values["reach_1pct"][success, spatial[-1]] if spatial else np.zeros(0),
            WIDE,
        ),
        (
            "it comes close to the maximum of the layer's original feature map",
            f"share of the maximum of {last_spatial} that the change reaches, successes",
            relative_peak[success, spatial[-1]] if spatial else np.zeros(0),
            CLOSE,
        ),
        (
            "neighbours of a successful pixel share the vulnerability",
            "share of neighbours minus share of all other positions at which the colour flips the class too",
            _advantage_of_neighbours(maps),
            0.0,
        ),
        (
            "the vulnerability lies in regions, not in single pixels",
            "share of position maps whose flips cluster (Moran's I, false discovery rate controlled)",
            tested <= 1 - settings.confidence,
            WIDE,
        ),
    ]
    return pd.DataFrame([_judged(*claim, settings) for claim in claims])


def _judged(claim: str, measure: str, values: Array, bound: float, settings: Statistics) -> dict[str, object]:
    known = values if values.dtype == bool else values[~np.isnan(values)]
    estimate, low, high = proportion(known, settings) if known.dtype == bool else bootstrap_mean(known, settings)
    verdict = "confirmed" if low > bound else "refuted" if high < bound else "undecided"
    return {
        "claim": claim,
        "measure": measure,
        "images": len(known),
        "estimate": estimate,
        "low": low,
        "high": high,
        "bound": bound,
        "verdict": verdict,
    }


def _advantage_of_neighbours(maps: Positions | None) -> Array:
    if maps is None:
        return np.zeros(0)
    where = maps.flips, maps.rows, maps.columns
    return neighbour_rates(*where) - random_position_rates(*where)
