"""How a pixel change develops with depth: tables and average maps, layer by layer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy import stats

from onepix.analysis.maps import COMPARED, Floats, Measured, clean_peaks, layers_of
from onepix.analysis.statistics import (
    bootstrap_means,
    named,
    percentile_interval,
    proportion,
    q_values,
    resampled_means,
)
from onepix.config.statistics import Statistics

IDENTITY = ("depth", "layer", "operator")
MEASURES = (*COMPARED, "gain")


def layer_table(attacks: Measured, controls: Measured | None, settings: Statistics) -> pd.DataFrame:
    """Summarise the change in each layer.

    Parameters
    ----------
    attacks, controls : Measured
        Measurements on the attacks, and on the matched controls if there are any.
    settings : Statistics
        Confidence and resamples of the bootstrap over images.

    Returns
    -------
    DataFrame
        One row per layer and outcome (success, failure; control, if there are any): depth, layer, operator, stride,
        receptive_field, outcome, images; changed, the proportion of images in which the layer changes at all (Wilson's
        interval); then means over images, with bootstrap intervals (_low, _high), of share_of_peak (delta_peak /
        clean_peak); reach, reach_1pct, distance and spread (pixels of the image) as in `onepix.analysis.maps.measures`;
        energy, of the change over the clean feature map, in decibels; gain, the energy minus that of the layer before.
        Images for which a measure is not defined do not count: clean feature maps of zeros, changes that have died out,
        layers without space. Last, outside_cone: how many positions have changed outside the pixel's theoretical
        forward cone, over all images.
    """
    outcomes = {"success": attacks.of(attacks.success), "failure": attacks.of(~attacks.success)}
    if controls:
        outcomes["control"] = dict(controls.values)
    for values in outcomes.values():
        before = np.pad(values["energy"], ((0, 0), (1, 0)), constant_values=np.nan)[:, :-1]
        values["gain"] = values["energy"] - before
    estimates = {outcome: _estimates(values, settings) for outcome, values in outcomes.items()}
    rows = []
    for index, attributes in enumerate(attacks.layers):
        for outcome, values in outcomes.items():
            row = {key: attributes[key] for key in IDENTITY}
            row |= {key: _size(attributes[key]) for key in ("stride", "receptive_field")}
            row |= {"outcome": outcome, "images": len(values["changed"])}
            row |= named("changed", proportion(values["changed"][:, index], settings))
            for measure, (mean, low, high) in zip(MEASURES, estimates[outcome][:, :, index].T, strict=True):
                row |= named(measure, (mean, low, high))
            rows.append(row | {"outside_cone": int(values["outside_cone"][:, index].sum())})
    return pd.DataFrame(rows)


def _estimates(values: Mapping[str, Floats], settings: Statistics) -> Floats:
    """Return mean, lower and upper bound of each measure in each layer, (3, measures, layers)."""
    layers = values["energy"].shape[1]
    # All together: the resamples are the same, and drawing them takes most of the time.
    columns = np.concatenate([values[measure] for measure in MEASURES], 1)
    return np.stack(bootstrap_means(columns, settings)).reshape(3, len(MEASURES), layers)


def comparison_table(attacks: Measured, controls: Measured | None, settings: Statistics) -> pd.DataFrame:
    """Compare successes with failures, and with their matched controls, layer by layer.

    A matched control is the same image and colour at a position that does not flip the class.

    Parameters
    ----------
    attacks, controls : Measured
        As in `layer_table`.
    settings : Statistics
        Confidence and resamples of the bootstrap over images; 1 − confidence is the false discovery rate.

    Returns
    -------
    DataFrame
        One row per comparison, measure and layer: against (failure, control), measure, depth, layer, operator; images
        and others, the numbers of successes, and of failures or controls, that have a value; difference, the mean of
        successes minus the mean of the others, paired for controls, with its bootstrap interval (low, high);
        superiority, the probability that a success has the larger value, ties counting half; p, two-sided, of
        Wilcoxon's signed-rank test for controls and of Mann and Whitney's test for failures; q, by Benjamini and
        Hochberg over the layers; apart, whether q is at most 1 − confidence.
    """
    ours, failures = attacks.of(attacks.success), attacks.of(~attacks.success)
    compared = [("failure", measure, _unpaired(ours[measure], failures[measure], settings)) for measure in COMPARED]
    if controls:
        numbers = {key: number for number, key in enumerate(attacks.keys)}
        matched, theirs = attacks.of([numbers[key] for key in controls.keys]), controls.values
        compared += [
            ("control", measure, _paired(matched[measure] - theirs[measure], settings)) for measure in COMPARED
        ]
    identity = pd.DataFrame([{key: attributes[key] for key in IDENTITY} for attributes in attacks.layers])
    parts = []
    for against, measure, table in compared:
        part = pd.concat([identity, table], axis=1)
        part.insert(0, "against", against)
        part.insert(1, "measure", measure)
        part["q"] = q_values(part["p"])
        part["apart"] = part["q"] <= 1 - settings.confidence
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def separation_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Find the layer from which on successes differ significantly.

    Parameters
    ----------
    comparison : DataFrame
        Of `comparison_table`.

    Returns
    -------
    DataFrame
        One row per comparison and measure: against, measure; depth and layer of the first layer from which on the two
        are apart in every layer that has the measure (missing: not even in the last one); layers, how many have it.
    """
    rows = []
    for (against, measure), part in comparison.groupby(["against", "measure"], sort=False):
        tested = part.dropna(subset="p").sort_values("depth")
        since = tested["apart"].to_numpy()[::-1].cumprod().sum()  # layers at the end that are apart
        first = tested.iloc[len(tested) - since] if since else None
        found = {"depth": first["depth"], "layer": first["layer"]} if first is not None else {}
        rows.append(
            {"against": against, "measure": measure, "layers": len(tested), "depth": None, "layer": None} | found
        )
    table = pd.DataFrame(rows, columns=["against", "measure", "depth", "layer", "layers"])
    return table.astype({"depth": "Int64"})


def average_maps(trees: Sequence[xr.DataTree]) -> dict[str, Floats]:
    """Return each layer's propagation map (PM_max) in units of the clean peak, averaged over all attacked images.

    Parameters
    ----------
    trees : sequence of DataTree
        Propagation maps, one tree per chunk; read one after the other.

    Returns
    -------
    dict
        Layer name to float array (y, x); NaN if no image was attacked.
    """
    averages = {}
    for name, attributes in layers_of(trees):
        total, count = np.zeros(trees[0][name].to_dataset()["max"].shape[1:]), 0
        for maps, _, _ in _relative_maps(trees, name):
            total += maps.sum(0)
            count += len(maps)
        averages[attributes["layer"]] = total / count if count else total * np.nan
    return averages


def aligned_maps(trees: Sequence[xr.DataTree]) -> dict[str, Floats]:
    """Return each layer's average propagation map as in `average_maps`, the attacked pixel shifted to the middle.

    Parameters
    ----------
    trees : sequence of DataTree
        Propagation maps of one-pixel changes, one tree per chunk; read one after the other.

    Returns
    -------
    dict
        Layer name to float array (2 a + 1, 2 b + 1), for layers with space. The middle is the position whose receptive
        field has its centre nearest to the attacked pixel; each value is the average over the images whose map has that
        position. Positions that fewer than half of the images have are NaN, and cropped where they can be. No layers if
        no image was attacked.
    """
    aligned = {}
    for name, attributes in layers_of(trees):
        height, width = trees[0][name].to_dataset()["max"].shape[1:]
        if not attributes["spatial"]:
            continue
        total, defined = np.zeros((2, 2 * height - 1, 2 * width - 1))
        count = 0
        for maps, rows, columns in _relative_maps(trees, name):
            count += len(maps)
            for values, row, column in zip(maps, rows.tolist(), columns.tolist(), strict=True):
                window = (
                    slice(height - 1 - row, 2 * height - 1 - row),
                    slice(width - 1 - column, 2 * width - 1 - column),
                )
                total[window] += values
                defined[window] += 1
        if count:
            aligned[attributes["layer"]] = _cropped(total, defined, (count + 1) // 2)
    return aligned


def _cropped(total: Floats, defined: Floats, least: int) -> Floats:
    """Return averages over at least `least` images, cropped around the middle."""
    known = defined >= least
    average = np.divide(total, defined, out=np.full(total.shape, np.nan), where=known)
    crop = []
    for axis in (0, 1):
        middle = known.shape[axis] // 2
        reach = np.abs(np.flatnonzero(known.any(1 - axis)) - middle).max()
        crop.append(slice(middle - reach, middle + reach + 1))
    cropped: Floats = average[crop[0], crop[1]]
    return cropped


def _paired(differences: Floats, settings: Statistics) -> pd.DataFrame:
    """Summarise and test differences, (images, layers): one row per layer."""
    difference, low, high = bootstrap_means(differences, settings)
    rows = []
    for values in differences.T:
        known = values[~np.isnan(values)]
        larger = (np.sign(known) + 1) / 2
        p = float(stats.wilcoxon(known).pvalue) if known.any() else (1.0 if len(known) else np.nan)
        rows.append((len(known), len(known), float(larger.mean()) if len(known) else np.nan, p))
    return _compared(rows, difference, low, high)


def _unpaired(ours: Floats, theirs: Floats, settings: Statistics) -> pd.DataFrame:
    """Summarise and test the difference of two groups, (images, layers) each: one row per layer."""
    resamples = resampled_means(ours, settings) - resampled_means(theirs, settings, stream=1)
    low, high = percentile_interval(resamples, settings)
    rows = []
    for ours_here, theirs_here in zip(ours.T, theirs.T, strict=True):
        first, second = ours_here[~np.isnan(ours_here)], theirs_here[~np.isnan(theirs_here)]
        superiority = p = np.nan
        if len(first) and len(second):
            test = stats.mannwhitneyu(first, second)
            superiority, p = test.statistic / (len(first) * len(second)), test.pvalue
        rows.append((len(first), len(second), superiority, p))
    return _compared(rows, bootstrap_means(ours, settings)[0] - bootstrap_means(theirs, settings)[0], low, high)


def _compared(
    rows: Sequence[tuple[int, int, float, float]], difference: Floats, low: Floats, high: Floats
) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["images", "others", "superiority", "p"])
    single = (table[["images", "others"]] < 2).any(axis=1)
    for position, (name, values) in enumerate((("difference", difference), ("low", low), ("high", high)), start=2):
        table.insert(position, name, np.where(single, np.nan, values) if position > 2 else values)
    return table


def _relative_maps(
    trees: Sequence[xr.DataTree], name: str
) -> Iterator[tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield for each tree a layer's maps in units of the clean peak, and where the first attacked pixel is.

    Images whose clean feature map is zero everywhere are left out.
    """
    for tree in trees:
        layer, root = tree[name].to_dataset(), tree.to_dataset()
        peak = clean_peaks(tree, layer.attrs["layer"])
        alive = peak > 0
        maps = layer["max"].values[alive].astype(np.float64) / peak[alive, None, None]
        centres = [
            _grid_index(root[axis].values[alive, 0], layer.attrs, index, maps.shape[1 + index], extent)
            for index, (axis, extent) in enumerate(zip(("row", "column"), root.attrs["image_shape"], strict=True))
        ]
        yield maps, centres[0], centres[1]


def _grid_index(
    pixels: npt.NDArray[np.int64], attributes: Mapping[Any, Any], axis: int, positions: int, extent: int
) -> npt.NDArray[np.int64]:
    """Return, along one axis, the layer's position whose field has its centre nearest to each pixel."""
    if isinstance(attributes["stride"], str):  # fields not known: positions spread evenly over the image
        exact = (pixels + 0.5) * positions / extent - 0.5
    else:
        centre = attributes["receptive_field_start"][axis] + (attributes["receptive_field"][axis] - 1) / 2
        exact = (pixels - centre) / attributes["stride"][axis]
    nearest: npt.NDArray[np.int64] = np.clip(np.rint(exact), 0, positions - 1).astype(np.int64)
    return nearest


def _size(value: list[int] | str) -> str:
    return value if isinstance(value, str) else "×".join(map(str, value))
