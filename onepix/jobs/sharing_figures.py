"""Draw what networks share."""

from onepix.config.base import Settings
from onepix.figures.sharing import sharing
from onepix.figures.style import paper_style, save
from onepix.files.tables import read_csv
from onepix.jobs.inputs import JsonText, Output, Table, read_settings


class SharingFiguresJob(Settings):
    """Settings of the job."""

    dataset: str
    attack: str
    dpi: int
    confidence: float


def run(settings: JsonText, table: Table, output: Output) -> None:
    """Draw the table as PNG, `output`, and as PDF next to it."""
    job = read_settings(SharingFiguresJob, settings)
    with paper_style():
        figure = sharing(read_csv(table), f"{job.dataset}, {job.attack}", job.confidence)
        save(figure, output.with_suffix(""), job.dpi)
