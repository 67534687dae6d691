"""Sum up what networks share: vulnerable positions, and successes that flip another network too."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd
import xarray as xr

from onepix.config import Figures, Settings, Statistics
from onepix.figures.sharing import sharing
from onepix.figures.style import paper_style, save
from onepix.jobs import read_settings
from onepix.jobs.tables import read_csv, write_csv
from onepix.sharing import sharing_table
from onepix.store import checked_data, read_tree


class Share(Settings):
    """What the job needs to know."""

    dataset: str
    attack: str
    statistics: Statistics


class DrawSharing(Settings):
    """What drawing needs to know."""

    dataset: str
    attack: str
    figures: Figures
    confidence: float


def run(settings: str, transfer: Sequence[Path], locality: Sequence[Path], scan: Sequence[Path], output: Path) -> None:
    """Write the table of all pairs of networks as CSV.

    Parameters
    ----------
    settings : str
        `Share` as JSON.
    transfer : sequence of Path
        What `onepix.jobs.transfer` wrote, one file a network.
    locality, scan : sequence of Path
        Manifests of position maps of successes, or of the records of whole scans, in …/NETWORK/ATTACK/STAGE/.
    output : Path
        The table.
    """
    job = read_settings(Share, settings)
    maps = dict(_vulnerable([*locality, *scan]))
    table = sharing_table(maps, pd.concat([read_csv(path) for path in transfer], ignore_index=True), job.statistics)
    table.insert(0, "dataset", job.dataset)
    table.insert(1, "attack", job.attack)
    write_csv(table, output)


def run_draw(settings: str, table: Path, output: Path) -> None:
    """Draw the table: `output`.png and `output`.pdf."""
    job = read_settings(DrawSharing, settings)
    with paper_style():
        figure = sharing(read_csv(table), f"{job.dataset}, {job.attack}", job.confidence)
        save(figure, output, job.figures.dpi)


def _vulnerable(manifests: Sequence[Path]) -> Iterator[tuple[str, xr.DataArray]]:
    """Yield network and its vulnerable positions: of a scan those of any colour, else those of the successful one."""
    for network, chunks in groupby(manifests, key=lambda manifest: manifest.parents[2].name):
        parts = []
        for manifest in chunks:
            scanned = manifest.parent.name == "attack"
            flips = read_tree(checked_data(manifest, "position_maps" if scanned else None)).to_dataset()["flips"]
            parts.append(flips.any("colour") if scanned else flips)
        yield network, xr.concat(parts, dim="image").load()
