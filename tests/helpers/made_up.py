"""Records and maps of made-up attacks whose rates are known."""

import numpy as np
import pandas as pd
import xarray as xr

from onepix.files.records import read_records, write_records


def made_up() -> pd.DataFrame:
    """Five images: one not eligible, two successes, two failures."""
    return pd.DataFrame(
        {
            "image_id": [4, 1, 0, 3, 2],
            "label": [0, 1, 2, 0, 1],
            "classes": 3,
            "clean_class": [0, 1, 2, 0, 2],
            "clean_confidence": [0.9] * 5,
            "eligible": [True, True, True, True, False],
            "method": "differential_evolution",
            "stop": "flip",
            "budget": 1200,
            "target": pd.array([None] * 5, dtype="Int64"),
            "success": [True, False, True, False, None],
            "rows": [[3], [0], [1], [2], None],
            "columns": [[5], [1], [0], [4], None],
            "values": [[[255, 0, 7]], [[1, 2, 3]], [[0, 0, 0]], [[9, 9, 9]], None],
            "adversarial_class": pd.array([1, 1, 0, 0, None], dtype="Int64"),
            "true_probability_before": [0.9] * 5,
            "true_probability_after": [0.1, 0.8, 0.2, 0.7, np.nan],
            "target_probability_after": np.nan,
            "adversarial_confidence": [0.6, 0.8, 0.7, 0.7, np.nan],
            "queries": [400, 1200, 800, 1200, 0],
            "probability_classes": [[0, 1, 2]] * 5,
            "probabilities_before": [[0.9, 0.05, 0.05]] * 5,
            "probabilities_after": [[0.1, 0.6, 0.3], [0.1, 0.8, 0.1], [0.7, 0.1, 0.2], [0.7, 0.2, 0.1], None],
            "queries_to_success": pd.array([100, None, 500, None, None], dtype="Int64"),
            **{f"flip_{name}": [[3], None, [1], None, None] for name in ("rows", "columns")},
            "flip_values": [[[255, 0, 7]], None, [[0, 0, 0]], None, None],
            "queries_to_threshold": pd.array([None] * 5, dtype="Int64"),
            **{f"threshold_{name}": [None] * 5 for name in ("rows", "columns", "values")},
            "backward_passes": 0,
            "rechecked": [64, 70, 64, 64, 0],
            "generations": [0, 2, 1, 2, 0],
            "seed": 0,
        }
    )


def stored(tmp_path) -> pd.DataFrame:
    write_records(made_up(), tmp_path / "records.parquet")
    return read_records([tmp_path / "records.parquet"])


def chunk(flips, rows, columns) -> xr.DataTree:
    flips = np.array(flips, bool).reshape(-1, 3, 4)
    data = {
        "flips": (("image", "y", "x"), flips),
        "margin": (("image", "y", "x"), np.where(flips, -1.0, 1.0)),
        "row": ("image", np.array(rows, int)),
        "column": ("image", np.array(columns, int)),
        "target": ("image", np.full(len(flips), -1)),
        "colour": (("image", "channel"), np.zeros((len(flips), 3), np.uint8)),
    }
    return xr.DataTree(xr.Dataset(data, {"image": np.arange(len(flips))}))


def random_maps(seed, count=40, shape=(6, 9), share=0.3):
    generator = np.random.default_rng(seed)
    flips = generator.random((count, *shape)) < share
    rows, columns = (generator.integers(0, side, count) for side in shape)
    flips[np.arange(count), rows, columns] = True
    return flips, rows, columns
