"""Gather the tables of all runs, and draw what compares them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from onepix.config import Figures, Settings
from onepix.figures.distance import distance_profile
from onepix.figures.locality import CHANGES, locality_chart
from onepix.figures.style import paper_style, save
from onepix.jobs import read_settings
from onepix.jobs.summarise import read_csv, write_csv


class Gather(Settings):
    """What the job needs to know."""

    figures: Figures
    confidence: float


def run_table(tables: Sequence[Path], output: Path) -> None:
    """Write one CSV table below the other."""
    write_csv(pd.concat([read_csv(table) for table in tables], ignore_index=True), output)


def run_chart(settings: str, table: Path, output: Path) -> None:
    """Draw the locality chart of all runs: `output`.png and `output`.pdf."""
    job = read_settings(Gather, settings)
    rates = read_csv(table)
    with paper_style():
        save(locality_chart(rates[rates["change"].isin(CHANGES)], job.confidence), output, job.figures.dpi)


def run_profile(settings: str, table: Path, output: Path) -> None:
    """Draw the distance profiles of all runs: `output`.png and `output`.pdf."""
    job = read_settings(Gather, settings)
    rows = read_csv(table)
    keys = ["network", *(name for name in ("dataset", "attack") if len(rows[name].unique()) > 1)]
    profiles = {", ".join(map(str, names)): profile for names, profile in rows.groupby(keys, sort=False)}
    with paper_style():
        save(distance_profile(profiles, job.confidence), output, job.figures.dpi)
