"""Gather the tables of all runs."""

import pandas as pd

from onepix.files.tables import read_csv, write_csv
from onepix.jobs.inputs import Files, Output


def run(tables: Files, output: Output) -> None:
    """Write one CSV table below the other."""
    write_csv(pd.concat([read_csv(table) for table in tables], ignore_index=True), output)
