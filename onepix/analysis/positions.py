"""The stored position maps: of the colour of each success, and of a scan's whole set of colours.

Summaries and figures read them without torch, so the modules that make them are imported here for their types only.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from onepix.files.manifests import Format, checked_data
from onepix.files.targets import reached, targets_of
from onepix.files.trees import across, read_tree

if TYPE_CHECKING:
    from onepix.attacks.position_maps import PositionMaps
    from onepix.attacks.scan import ScanMaps

POSITIONS = Format("position maps", 1)
SCAN = Format("position maps of a scan", 2)
PART = "position_maps"  # entry in the manifest of an attack: a scan's maps lie next to its records


@dataclasses.dataclass(frozen=True)
class Positions:
    """The effect of the colour of each of N successes at every position of its image.

    Attributes
    ----------
    image, target : ndarray
        int64, shape (N,): ids, and targets as in `onepix.files.targets.targets_of`.
    rows, columns : ndarray
        int64, shape (N,): the attacked pixels.
    colours : ndarray
        uint8, shape (N, C).
    flips : ndarray
        bool, shape (N, y, x): the goal is reached.
    margin : ndarray
        float32, shape (N, y, x): the goal's logit margin, negative where it is reached.
    """

    image: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    colours: npt.NDArray[np.uint8]
    flips: npt.NDArray[np.bool_]
    margin: npt.NDArray[np.float32]


def positions_tree(maps: "PositionMaps", colours: npt.NDArray[np.uint8], successes: pd.DataFrame) -> xr.DataTree:
    """Return position maps of successes as they are stored, given their colours and records."""
    rows, columns = (successes[name].str[0].to_numpy(np.int64) for name in ("rows", "columns"))
    dataset = xr.Dataset(
        {
            "flips": (("image", "y", "x"), maps.flips),
            "margin": (("image", "y", "x"), maps.margin),
            "target": ("image", targets_of(successes)),
            "row": ("image", rows),
            "column": ("image", columns),
            "colour": (("image", "channel"), colours),
        },
        coords={"image": successes["image_id"].to_numpy(np.int64)},
    )
    return xr.DataTree(dataset)


def read_positions(manifests: Iterable[Path], most: int | None = None) -> Positions | None:
    """Read the position maps of successes; None without manifests, as for changes of several pixels.

    Parameters
    ----------
    manifests : iterable of Path
        Of chunks.
    most : int, optional
        Read only so many, the first ones; default: all.

    Raises
    ------
    OnepixError
        If they are missing, damaged or of another version.
    """
    trees = [read_tree(checked_data(manifest, POSITIONS)) for manifest in manifests]
    return positions([xr.DataTree(tree.to_dataset().isel(image=slice(most))) for tree in trees])


def positions(trees: Sequence[xr.DataTree]) -> Positions | None:
    """Join the position maps of several chunks; None without chunks."""
    if not trees:
        return None
    parts: dict[str, npt.NDArray[Any]] = {
        name: across(trees, "", name) for name in ("image", "target", "row", "column", "colour", "flips", "margin")
    }
    return Positions(*parts.values())


def scan_maps(maps: "ScanMaps", records: pd.DataFrame) -> xr.Dataset:
    """Return a scan's position maps with their coordinates, as they are stored.

    Parameters
    ----------
    maps : ScanMaps
        Of a scan.
    records : DataFrame
        Its records.

    Returns
    -------
    Dataset
        For each eligible record `flips` (bool: the goal is reached), `margin` and `seen_class`, dims (image, colour, y,
        x); `colours`, dims (image, colour, channel); `label` and `target` (−1: untargeted). `image` holds the ids.
    """
    attacked = records[records["eligible"]]
    labels, targets = attacked["label"].to_numpy(np.int64), targets_of(attacked)
    wanted = reached(maps.classes, labels[:, None, None, None], targets[:, None, None, None])
    dimensions = ("image", "colour", "y", "x")
    return xr.Dataset(
        {
            "flips": (dimensions, wanted & maps.evaluated),
            "margin": (dimensions, maps.margins),
            "seen_class": (dimensions, maps.classes),
            "colours": (("image", "colour", "channel"), maps.colours),
            "label": ("image", labels),
            "target": ("image", targets),
        },
        coords={"image": attacked["image_id"].to_numpy(np.int64)},
    )


def vulnerable(manifest: Path, scanned: bool) -> xr.DataArray:
    """Return the vulnerable positions of a chunk's images: bool, dims (image, y, x).

    Parameters
    ----------
    manifest : Path
        Of the position maps of successes, or of the attack where it is a scan.
    scanned : bool
        Which of the two. In a scan any colour counts; otherwise the colour of the success.
    """
    if not scanned:
        return read_tree(checked_data(manifest, POSITIONS)).to_dataset()["flips"]
    return read_tree(checked_data(manifest, SCAN, PART)).to_dataset()["flips"].any("colour")
