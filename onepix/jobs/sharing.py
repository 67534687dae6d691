"""Summarise what networks share: vulnerable positions, and successes that also flip another network."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd
import xarray as xr

from onepix.analysis.positions import vulnerable
from onepix.analysis.sharing import sharing_table
from onepix.config.base import Settings
from onepix.config.statistics import Intervals
from onepix.files.layout import result_of
from onepix.files.tables import read_csv, write_csv
from onepix.jobs.inputs import Files, JsonText, Output, read_settings


class SharingJob(Settings):
    """Settings of the job."""

    dataset: str
    attack: str
    statistics: Intervals


def run(settings: JsonText, files: Files, output: Output) -> None:
    """Write the table of all pairs of networks as CSV.

    Parameters
    ----------
    settings : str
        `SharingJob` as JSON.
    files : list of Path
        CSV files that `onepix.jobs.transfer` wrote, one per network; and manifests of position maps of successes, or of
        whole scans, grouped by network.
    output : Path
        The table.
    """
    job = read_settings(SharingJob, settings)
    tried = pd.concat([read_csv(path) for path in files if path.suffix == ".csv"], ignore_index=True)
    maps = dict(_vulnerable([path for path in files if path.suffix == ".json"]))
    table = sharing_table(maps, tried, job.statistics)
    table.insert(0, "dataset", job.dataset)
    table.insert(1, "attack", job.attack)
    write_csv(table, output)


def _vulnerable(manifests: Sequence[Path]) -> Iterator[tuple[str, xr.DataArray]]:
    """Yield each network and its vulnerable positions: of any colour in a scan, else of the successful colour."""
    for network, chunks in groupby(manifests, key=lambda manifest: str(result_of(manifest).network)):
        parts = [vulnerable(manifest, scanned=result_of(manifest).kind == "attack") for manifest in chunks]
        yield network, xr.concat(parts, dim="image").load()
