"""Draw the charts that compare runs, from the tables of all runs."""

import pandas as pd
from matplotlib.figure import Figure

from onepix.config.base import Settings
from onepix.figures.distance import distance_profile
from onepix.figures.locality import CHANGES, locality_chart
from onepix.figures.receptive_fields import receptive_fields
from onepix.figures.style import paper_style, save
from onepix.files.tables import read_csv
from onepix.jobs.inputs import JsonText, Output, Table, read_settings


class ChartsJob(Settings):
    """Settings of the job."""

    dpi: int
    confidence: float


def run(
    settings: JsonText, locality: Table, profile: Table, fields: Table, neighbourhood: Table, output: Output
) -> None:
    """Draw every chart as PNG and PDF into the folder of one of them, `output`.

    Parameters
    ----------
    settings : str
        `ChartsJob` as JSON.
    locality, profile, fields, neighbourhood : Path
        The tables of all runs; `fields` are the receptive fields.
    output : Path
        One of the charts.
    """
    job = read_settings(ChartsJob, settings)
    rates, rows, layers, lengths = map(read_csv, (locality, profile, fields, neighbourhood))
    with paper_style():
        for name, figure in (
            ("locality_chart", locality_chart(rates[rates["change"].isin(CHANGES)], job.confidence)),
            ("distance_profile", _profile(rows, job.confidence)),
            ("receptive_fields", _fields(layers, lengths, job.confidence)),
        ):
            save(figure, output.parent / name, job.dpi)


def _profile(rows: pd.DataFrame, confidence: float) -> Figure:
    """Draw the distance profiles of all runs."""
    profiles = {", ".join(map(str, names)): profile for names, profile in rows.groupby(_named(rows), sort=False)}
    return distance_profile(profiles, confidence)


def _fields(layers: pd.DataFrame, lengths: pd.DataFrame, confidence: float) -> Figure:
    """Draw receptive fields by depth, with the length scale of locality."""
    tables, half_distances = {}, {}
    for row in lengths.to_dict("records"):
        name = ", ".join(str(row[key]) for key in _named(lengths))
        tables[name] = layers[(layers["dataset"] == row["dataset"]) & (layers["network"] == row["network"])]
        half_distances[name] = (row["half_distance"], row["half_distance_low"], row["half_distance_high"])
    return receptive_fields(tables, half_distances, "Receptive fields by depth", confidence)


def _named(runs: pd.DataFrame) -> list[str]:
    """Return the columns that identify a run: the network, and dataset or attack if there are several."""
    return ["network", *(name for name in ("dataset", "attack") if len(runs[name].unique()) > 1)]
