"""Tables as CSV."""

from pathlib import Path

import pandas as pd

from onepix.files.atomic import replacing

TEXT = ("dataset", "network", "attack", "layer", "source", "target")  # names, even if they look like numbers


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table; names stay text, even if they look like numbers (layers of an nn.Sequential do)."""
    # A layer may be called "nan" or "None"; only an empty cell is missing.
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table; empty cells are missing numbers."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
