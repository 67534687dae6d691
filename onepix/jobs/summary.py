"""Summarise all chunks of one run."""

from onepix.analysis.claims import claim_table
from onepix.analysis.depth import comparison_table, layer_table, separation_table
from onepix.analysis.locality_tables import cluster_table, locality_table, neighbourhood_table, profile_table
from onepix.analysis.maps import measured, read_maps
from onepix.analysis.positions import read_positions
from onepix.analysis.success import success_table
from onepix.config.base import Settings
from onepix.config.statistics import Statistics
from onepix.errors import OnepixError
from onepix.files.layout import by_stage
from onepix.files.records import stored_records, write_records
from onepix.files.tables import write_csv
from onepix.jobs.inputs import Files, JsonText, Output, read_settings


class SummaryJob(Settings):
    """Settings of the job."""

    dataset: str
    network: str
    attack: str
    statistics: Statistics


def run(settings: JsonText, manifests: Files, output: Output) -> None:
    """Write the attack records of a run, `output`, and all its tables as CSV next to them.

    The `manifests` are those of all chunks, of all stages.
    """
    job, stages = read_settings(SummaryJob, settings), by_stage(manifests)
    records = stored_records(stages["attack"])
    attacks, controls = (measured(read_maps(stages[stage])) for stage in ("propagation", "controls"))
    if attacks is None:
        raise OnepixError(f"{output}: no propagation maps to summarise")
    positions = read_positions(stages["locality"])
    write_records(records, output)
    clusters = cluster_table(positions, job.statistics)
    comparison = comparison_table(attacks, controls, job.statistics)
    tables = {
        "success": success_table(records, job.statistics),
        "layers": layer_table(attacks, controls, job.statistics),
        "comparison": comparison,
        "separation": separation_table(comparison),
        "locality": locality_table(records, positions, job.statistics),
        "profile": profile_table(positions, job.statistics),
        "clusters": clusters,
        "neighbourhood": neighbourhood_table(clusters, positions, job.statistics),
        "claims": claim_table(attacks, positions, clusters, job.statistics),
    }
    for name, table in tables.items():
        for position, key in enumerate(("dataset", "network", "attack")):
            table.insert(position, key, getattr(job, key))
        write_csv(table, output.with_name(f"{name}.csv"))
