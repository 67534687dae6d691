"""Summarise all chunks of one run."""

from collections.abc import Sequence
from pathlib import Path

from onepix.claims import claim_table
from onepix.config import Settings, Statistics
from onepix.depth import comparison_table, layer_table, separation_table
from onepix.jobs import read_settings
from onepix.jobs.tables import write_csv
from onepix.records import read_records, write_records
from onepix.store import checked_data, read_tree
from onepix.summary import cluster_table, locality_table, neighbourhood_table, profile_table, success_table


class Summarise(Settings):
    """What the job needs to know."""

    dataset: str
    network: str
    attack: str
    statistics: Statistics


def run(
    settings: str,
    attack: Sequence[Path],
    propagation: Sequence[Path],
    locality: Sequence[Path],
    controls: Sequence[Path],
    output: Path,
) -> None:
    """Write `attacks.parquet` and all tables of the run as CSV into the folder `output`."""
    job = read_settings(Summarise, settings)
    records = read_records([checked_data(manifest) for manifest in attack])
    followed, positions, matched = (
        [read_tree(checked_data(manifest)) for manifest in manifests] for manifests in (propagation, locality, controls)
    )
    write_records(records, output / "attacks.parquet")
    clusters = cluster_table(positions, job.statistics)
    comparison = comparison_table(followed, matched, job.statistics)
    tables = {
        "success": success_table(records, job.statistics),
        "layers": layer_table(followed, matched, job.statistics),
        "comparison": comparison,
        "separation": separation_table(comparison),
        "locality": locality_table(records, positions, job.statistics),
        "profile": profile_table(positions, job.statistics),
        "clusters": clusters,
        "neighbourhood": neighbourhood_table(clusters, positions, job.statistics),
        "claims": claim_table(followed, positions, clusters, job.statistics),
    }
    for name, table in tables.items():
        for position, key in enumerate(("dataset", "network", "attack")):
            table.insert(position, key, getattr(job, key))
        write_csv(table, output / f"{name}.csv")
