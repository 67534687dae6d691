"""Summarise all chunks of one run."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from onepix.config import Settings, Statistics
from onepix.jobs import read_settings
from onepix.records import read_records, write_records
from onepix.store import checked_data, read_tree, replacing
from onepix.summary import (
    cluster_table,
    layer_table,
    locality_table,
    neighbourhood_table,
    profile_table,
    success_table,
)


class Summarise(Settings):
    """What the job needs to know."""

    dataset: str
    network: str
    attack: str
    statistics: Statistics


def run(
    settings: str, attack: Sequence[Path], propagation: Sequence[Path], locality: Sequence[Path], output: Path
) -> None:
    """Write `attacks.parquet` and all tables of the run as CSV into the folder `output`."""
    job = read_settings(Summarise, settings)
    records = read_records([checked_data(manifest) for manifest in attack])
    followed = [read_tree(checked_data(manifest)) for manifest in propagation]
    positions = [read_tree(checked_data(manifest)) for manifest in locality]
    write_records(records, output / "attacks.parquet")
    clusters = cluster_table(positions, job.statistics)
    tables = {
        "success": success_table(records, job.statistics),
        "layers": layer_table(followed, job.statistics),
        "locality": locality_table(records, positions, job.statistics),
        "profile": profile_table(positions, job.statistics),
        "clusters": clusters,
        "neighbourhood": neighbourhood_table(clusters, positions, job.statistics),
    }
    for name, table in tables.items():
        for position, key in enumerate(("dataset", "network", "attack")):
            table.insert(position, key, getattr(job, key))
        write_csv(table, output / f"{name}.csv")


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table; names stay text, also those that look like numbers (the layers of an nn.Sequential do)."""
    return pd.read_csv(path, dtype=dict.fromkeys(("dataset", "network", "attack", "layer"), str))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table; empty cells are missing numbers."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
