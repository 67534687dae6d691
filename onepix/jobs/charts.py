"""Draw what compares runs, from the gathered tables."""

from pathlib import Path

from onepix.config.base import Settings
from onepix.figures.distance import distance_profile
from onepix.figures.locality import CHANGES, locality_chart
from onepix.figures.receptive_fields import receptive_fields
from onepix.figures.style import paper_style, save
from onepix.files.tables import read_csv
from onepix.jobs.inputs import read_settings


class ChartsJob(Settings):
    """What the job needs to know."""

    dpi: int
    confidence: float


def run_chart(settings: str, table: Path, output: Path) -> None:
    """Draw the locality chart of all runs as PNG, `output`, and beside it as PDF."""
    job = read_settings(ChartsJob, settings)
    rates = read_csv(table)
    with paper_style():
        save(locality_chart(rates[rates["change"].isin(CHANGES)], job.confidence), output.with_suffix(""), job.dpi)


def run_profile(settings: str, table: Path, output: Path) -> None:
    """Draw the distance profiles of all runs as PNG, `output`, and beside it as PDF."""
    job = read_settings(ChartsJob, settings)
    rows = read_csv(table)
    keys = ["network", *(name for name in ("dataset", "attack") if len(rows[name].unique()) > 1)]
    profiles = {", ".join(map(str, names)): profile for names, profile in rows.groupby(keys, sort=False)}
    with paper_style():
        save(distance_profile(profiles, job.confidence), output.with_suffix(""), job.dpi)


def run_receptive_fields(settings: str, table: Path, neighbourhood: Path, output: Path) -> None:
    """Draw receptive fields by depth beside the length scale of locality as PNG, `output`, and beside it as PDF."""
    job = read_settings(ChartsJob, settings)
    fields, lengths = read_csv(table), read_csv(neighbourhood)
    named = ["network", *(name for name in ("dataset", "attack") if len(lengths[name].unique()) > 1)]
    tables, half_distances = {}, {}
    for row in lengths.to_dict("records"):
        name = ", ".join(str(row[key]) for key in named)
        tables[name] = fields[(fields["dataset"] == row["dataset"]) & (fields["network"] == row["network"])]
        half_distances[name] = (row["half_distance"], row["half_distance_low"], row["half_distance_high"])
    with paper_style():
        figure = receptive_fields(tables, half_distances, "Receptive fields by depth", job.confidence)
        save(figure, output.with_suffix(""), job.dpi)
