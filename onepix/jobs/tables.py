"""Gather the tables of all runs."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from onepix.files.tables import read_csv, write_csv


def run(tables: Sequence[Path], output: Path) -> None:
    """Write one CSV table below the other."""
    write_csv(pd.concat([read_csv(table) for table in tables], ignore_index=True), output)
