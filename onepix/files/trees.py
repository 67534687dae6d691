"""Trees of maps as zarr."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # imported where it is used: it costs start-up time
    import xarray as xr
from onepix.files.atomic import replacing

CHUNK = 1 << 22  # bytes of a zarr chunk; zarr takes about half a millisecond per chunk, however small


def write_tree(tree: "xr.DataTree", path: Path) -> None:
    """Write a tree of maps as zarr v3, in chunks of images of about 4 MB, uncompressed."""
    encoding = {}
    for node in tree.subtree:
        arrays = {str(name): array for name, array in node.data_vars.items() if array.ndim > 1 and array.size}
        encoding[node.path] = {
            name: {"chunks": (min(len(array), max(1, CHUNK // array[:1].nbytes)), *array.shape[1:])}
            for name, array in arrays.items()
        }
    import zarr

    with replacing(path) as temporary, warnings.catch_warnings():
        # zarr warns that consolidated metadata are new in v3; with them, xarray reads a tree of groups much faster.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        # xarray would consolidate after each group, and read everything again each time.
        tree.to_zarr(temporary, zarr_format=3, encoding=encoding, consolidated=False)
        zarr.consolidate_metadata(str(temporary), zarr_format=3)


def read_tree(path: Path) -> "xr.DataTree":
    """Open a tree of maps lazily."""
    import xarray as xr

    return xr.open_datatree(path, engine="zarr", chunks={})


def across(trees: Sequence["xr.DataTree"], group: str, variable: str) -> npt.NDArray[Any]:
    """Read a variable of several chunks' trees, joined by image."""
    arrays = [tree[group or "/"].to_dataset()[variable] for tree in trees]
    return np.concatenate([array.values for array in arrays], axis=arrays[0].dims.index("image"))
