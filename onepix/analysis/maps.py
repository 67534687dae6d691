"""The stored propagation maps: what is measured on them, how they are written, and how they are read.

Summaries and figures read them without torch, so torch and the layers are imported here for their types only.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from onepix.files.manifests import Format, checked_data
from onepix.files.targets import Key, keys, targets_of
from onepix.files.trees import across, read_tree

if TYPE_CHECKING:
    from onepix.layers.propagation import LayerMaps
    from onepix.layers.receptive_field import ReceptiveField

Floats = npt.NDArray[np.float64]
MAPS = Format("propagation maps", 1)
LONGEST = 100  # characters of a layer's name in that of its group; the whole name is the attribute `layer`

COMPARED = ("share_of_peak", "reach", "reach_1pct", "distance", "spread", "energy")


def layers_of(trees: Sequence[xr.DataTree]) -> list[tuple[str, dict[Any, Any]]]:
    """Return group and attributes of each layer, in network order."""
    found = [(name, node.attrs) for name, node in trees[0].children.items() if "layer" in node.attrs]
    return sorted(found, key=lambda layer: layer[1]["depth"])


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements on N changes in L layers.

    Attributes
    ----------
    layers : list of dict
        Attributes of each layer, in network order.
    keys : list of Key
        Image id and target of each change.
    success : ndarray
        bool, shape (N,): whether an attack reached its goal; False for matched controls.
    values : dict of str to ndarray
        float64, shape (N, L) each, NaN where a measure is not defined: those of `measures`, changed (whether the layer
        changes at all), share_of_peak (delta_peak / clean_peak) and energy (decibels: delta_energy over
        clean_energy).
    """

    layers: list[dict[Any, Any]]
    keys: list[Key]
    success: npt.NDArray[np.bool_]
    values: dict[str, Floats]

    def of(self, chosen: npt.NDArray[np.bool_] | Sequence[int]) -> dict[str, Floats]:
        """Return the values of some of the changes, by a mask or by their numbers."""
        index = np.asarray(chosen, dtype=bool if np.asarray(chosen).dtype == bool else np.int64)
        return {name: values[index] for name, values in self.values.items()}


def read_maps(manifests: Iterable[Path]) -> list[xr.DataTree]:
    """Open the propagation maps of chunks lazily, one tree per chunk; errors as in `checked_data`."""
    return [read_tree(checked_data(manifest, MAPS)) for manifest in manifests]


def measured(trees: Sequence[xr.DataTree]) -> Measured | None:
    """Read the measurements on the changes of several chunks, each stored array once; None without chunks."""
    if not trees:
        return None
    stored = ("clean_peak", "delta_peak", "clean_energy", "delta_energy", *COMPARED[1:-1], "outside_cone")
    values = {key: across(trees, "measures", key).T.astype(np.float64) for key in stored}
    with np.errstate(divide="ignore", invalid="ignore"):
        share_of_peak = values["delta_peak"] / values["clean_peak"]
        energy = 10 * np.log10(values["delta_energy"] / values["clean_energy"])
    values |= {
        "changed": (values["delta_peak"] > 0).astype(np.float64),
        "share_of_peak": np.where(values["clean_peak"] > 0, share_of_peak, np.nan),
        "energy": np.where(np.isfinite(energy), energy, np.nan),
    }
    changes = keys_of_trees(trees)
    reached = "success" in trees[0].to_dataset()
    success = across(trees, "", "success").astype(bool) if reached else np.zeros(len(changes), bool)
    return Measured([attributes for _, attributes in layers_of(trees)], changes, success, values)


def keys_of_trees(trees: Sequence[xr.DataTree]) -> list[Key]:
    """Return image id and target of each change, chunk after chunk."""
    return keys(*(across(trees, "", name).tolist() for name in ("image", "target")))


def clean_peaks(tree: xr.DataTree, layer: str) -> Floats:
    """Return the maximum of each image's original feature map in a layer."""
    peaks: Floats = tree["measures"].to_dataset()["clean_peak"].sel(layer=layer).values.astype(np.float64)
    return peaks


def maps_of_change(trees: Sequence[xr.DataTree], key: Key) -> dict[str, Floats]:
    """Return the propagation map (PM_max) of one change in each layer, in units of the clean peak (0 if that is 0).

    Parameters
    ----------
    trees : sequence of DataTree
        Propagation maps, one tree per chunk.
    key : Key
        Image id and target of the change.

    Returns
    -------
    dict
        Layer name to float array (y, x).
    """
    tree, index = next((tree, known.index(key)) for tree in trees if key in (known := keys_of_trees([tree])))
    maps = {}
    for name, attributes in layers_of([tree]):
        largest = tree[name].to_dataset()["max"][index].values
        peak = clean_peaks(tree, attributes["layer"])[index]
        maps[attributes["layer"]] = largest / peak if peak > 0 else np.zeros(largest.shape)
    return maps


SLIGHT = 0.01  # of the clean peak: a position with a larger change counts for `reach_1pct`


def measures(
    maps: "LayerMaps",
    field: "ReceptiveField | None",
    image: tuple[int, int],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
) -> dict[str, npt.NDArray[np.float32]]:
    """Measure for each image how large the change is in one layer, and where.

    Parameters
    ----------
    maps : LayerMaps
        Of N images.
    field : ReceptiveField or None
        The layer's theoretical receptive field; None where a position may see the whole image.
    image : tuple of int
        Height and width of the images.
    rows, columns : ndarray
        int64, shape (N, P): the changed pixels.

    Returns
    -------
    dict of str to ndarray
        float32, shape (N,) each. clean_peak, clean_energy, delta_energy as in `LayerMaps`; delta_peak,
        max |FM(x) − FM(x')|; reach, the proportion of positions changed at all, and reach_1pct, by more than 1 % of the
        clean peak; distance, in pixels of the image, of the change's centre of mass (weights: mean |change| over
        channels) from the centre of the changed pixels; spread, the root-mean-square distance of the change from its
        centre of mass (distance and spread are NaN in layers without space, and without change); outside_cone, how many
        positions outside the pixels' theoretical forward cone have changed: 0, except for the rounding of algorithms
        that transform tiles.
    """
    maximum, weights = maps.maximum.numpy(), maps.mean.numpy().astype(np.float64)
    changed = maximum > 0
    peak = maps.clean_peak.numpy()
    weights = weights if maps.spatial else np.zeros_like(weights)
    distance, spread = _centre_and_spread(weights, *_grid_centres(weights.shape[1:], field, image), rows, columns)
    found = {
        **{name: getattr(maps, name).numpy() for name in ("clean_peak", "clean_energy", "delta_energy")},
        "delta_peak": maximum.max((1, 2)),
        "reach": changed.mean((1, 2)),
        "reach_1pct": (maximum > SLIGHT * peak[:, None, None]).mean((1, 2)),
        "distance": distance,
        "spread": spread,
        "outside_cone": (changed & ~_cones(field, changed.shape[1:], rows, columns)).sum((1, 2)),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def _grid_centres(
    shape: tuple[int, ...], field: "ReceptiveField | None", image: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return where in the image a layer's rows and columns lie: at the centres of their fields, or evenly spaced."""
    if field is None:
        first = [extent / n / 2 - 0.5 for n, extent in zip(shape, image, strict=True)]
        jump = [extent / n for n, extent in zip(shape, image, strict=True)]
    else:
        first = [start + (size - 1) / 2 for size, start in zip(field.size, field.start, strict=True)]
        jump = [float(step) for step in field.jump]
    y, x = (first[axis] + jump[axis] * np.arange(shape[axis], dtype=np.float64) for axis in (0, 1))
    return y, x


def _centre_and_spread(
    weights: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    total = weights.sum((1, 2))
    total = np.where(total > 0, total, np.nan)
    by_row, by_column = weights.sum(2) / total[:, None], weights.sum(1) / total[:, None]
    centre_y, centre_x = by_row @ y, by_column @ x
    variance = (by_row * (y - centre_y[:, None]) ** 2).sum(1) + (by_column * (x - centre_x[:, None]) ** 2).sum(1)
    return np.hypot(centre_y - rows.mean(1), centre_x - columns.mean(1)), np.sqrt(variance)


def _cones(
    field: "ReceptiveField | None",
    shape: tuple[int, ...],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Return which of a layer's positions see one of the pixels, (N, y, x); all of them if fields are not known."""
    if field is None:
        return np.ones((len(rows), *shape), dtype=bool)
    seen: list[npt.NDArray[np.bool_]] = []
    for n, size, jump, start, pixels in zip(shape, field.size, field.jump, field.start, (rows, columns), strict=True):
        first = start + jump * np.arange(n)
        seen.append((first <= pixels[..., None]) & (pixels[..., None] < first + size))
    cones: npt.NDArray[np.bool_] = np.any(seen[0][..., :, None] & seen[1][..., None, :], axis=1)
    return cones


def said_of_attacks(attacked: pd.DataFrame) -> xr.Dataset:
    """Return what is stored about each attack together with its maps, given the records of all attacks made."""
    pixels = {axis: [list(changed) for changed in attacked[f"{axis}s"]] for axis in ("row", "column")}
    shape = (len(attacked), -1 if len(attacked) else 1)
    return xr.Dataset(
        {
            "success": ("image", attacked["success"].to_numpy(bool)),
            "label": ("image", attacked["label"].to_numpy(np.int64)),
            "target": ("image", targets_of(attacked)),
            "adversarial_class": ("image", attacked["adversarial_class"].to_numpy(np.int64)),
            **{axis: (("image", "pixel"), np.array(found, np.int64).reshape(shape)) for axis, found in pixels.items()},
        },
        coords={"image": attacked["image_id"].to_numpy(np.int64)},
    )


def said_of_controls(
    ids: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
) -> xr.Dataset:
    """Return what is stored about each matched control together with its maps; all int64, shape (N,)."""
    return xr.Dataset(
        {
            "target": ("image", targets),
            "row": (("image", "pixel"), rows[:, None]),
            "column": (("image", "pixel"), columns[:, None]),
        },
        coords={"image": ids},
    )


def maps_tree(
    layers: "Sequence[LayerMaps]", fields: "Mapping[str, ReceptiveField | None]", root: xr.Dataset
) -> xr.DataTree:
    """Put propagation maps and their measurements into one tree; `root` is as in `onepix.jobs.propagation.follow`."""
    groups = {
        f"/{group_name(depth, layer.name)}": _group(depth, layer, fields.get(layer.name))
        for depth, layer in enumerate(layers)
    }
    height, width = root.attrs["image_shape"]
    pixels = root["row"].values, root["column"].values
    measured = [measures(layer, fields.get(layer.name), (height, width), *pixels) for layer in layers]
    by_layer = xr.Dataset(
        {name: (("layer", "image"), np.stack([values[name] for values in measured])) for name in measured[0]},
        coords={"layer": np.array([layer.name for layer in layers], dtype=object)},
    )
    return xr.DataTree.from_dict({"/": root, "/measures": by_layer, **groups})


def group_name(depth: int, layer: str) -> str:
    """Return a layer's group: its depth, by which it is unique, and as much of its name as any file system takes."""
    return f"{depth:03d}_{re.sub(r'[^A-Za-z0-9_.#@()+-]', '_', layer)[:LONGEST]}"


def _group(depth: int, layer: "LayerMaps", field: "ReceptiveField | None") -> xr.Dataset:
    attributes = {
        "layer": layer.name,
        "operator": layer.operator,
        "depth": depth,
        "output_shape": list(layer.shape),
        "spatial": layer.spatial,
        "receptive_field": list(field.size) if field else "whole image",
        "stride": list(field.jump) if field else "whole image",
        "receptive_field_start": list(field.start) if field else "whole image",
    }
    maps = {"max": layer.maximum, "mean": layer.mean}
    return xr.Dataset({name: (("image", "y", "x"), values.numpy()) for name, values in maps.items()}, attrs=attributes)
