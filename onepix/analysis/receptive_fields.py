"""The stored receptive fields of a network: a table of both kinds, and gradients as zarr.

The modules that make them need torch, and are imported here for their types only.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from onepix.files.manifests import Format

if TYPE_CHECKING:
    from onepix.layers.effective_field import EffectiveField
    from onepix.layers.receptive_field import ReceptiveField

FIELDS = Format("receptive fields", 1)


def gradients_tree(effective: "Sequence[EffectiveField]") -> xr.DataTree:
    """Return the gradients of effective receptive fields as they are stored: `gradient`, dims (layer, y, x)."""
    gradients = xr.Dataset(
        {"gradient": (("layer", "y", "x"), np.stack([field.gradient.cpu().numpy() for field in effective]))},
        coords={"layer": np.array([field.name for field in effective], dtype=object)},
    )
    return xr.DataTree(gradients)


def field_table(
    effective: "Sequence[EffectiveField]", theoretical: "Mapping[str, ReceptiveField | None]"
) -> pd.DataFrame:
    """Return one row per layer: depth, layer, operator; height, width, theoretical, stride, start; effective, spread.

    Columns of geometry are missing where a position may see the whole image.
    """
    return pd.DataFrame([_row(depth, field, theoretical.get(field.name)) for depth, field in enumerate(effective)])


def _row(depth: int, effective: "EffectiveField", theoretical: "ReceptiveField | None") -> dict[str, object]:
    geometry: dict[str, object] = {"height": None, "width": None, "theoretical": None, "stride": None, "start": None}
    if theoretical:
        geometry = {
            "height": theoretical.size[0],
            "width": theoretical.size[1],
            "theoretical": math.sqrt(math.prod(theoretical.size)),
            "stride": "×".join(map(str, theoretical.jump)),
            "start": ", ".join(map(str, theoretical.start)),
        }
    return {
        "depth": depth,
        "layer": effective.name,
        "operator": effective.operator,
        **geometry,
        "effective": effective.size,
        "spread": effective.spread,
    }
