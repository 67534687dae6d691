"""What `onepix attack` prints."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:  # it imports torch
    from onepix.study.attack_pictures import Report, Row

WIDTH = 160  # of a table that goes to a file and not to a terminal
COLUMNS = ("picture", "class", "pixel (row, column)", "colour", "new class", "tried")


def show(report: "Report") -> None:
    """Print lines on what was chosen, a table with one row per picture, and where the rest was written."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    for note in report.notes:
        console.print(note, soft_wrap=True, markup=False)
    table = Table(*COLUMNS, box=None, header_style="bold")
    for row in report.rows:
        table.add_row(*map(escape, cells(row)))
    console.print(table)
    for row in report.rows:
        if row.folder:
            console.print(f"{row.picture}: written into {row.folder}", soft_wrap=True, markup=False)


def cells(row: "Row") -> list[str]:
    """Return a row as text, one cell per column."""
    seen = f"{row.clean_class} {row.confidence:.1%}"
    if row.flipped is None:
        return [row.picture, seen, "", "", f"not attacked: the network does not say {row.label}", ""]
    if not row.flipped:
        return [row.picture, seen, "", "", f"no flip within {row.tried:,} candidates", f"{row.tried:,}"]
    return [
        row.picture,
        seen,
        f"{row.row}, {row.column}",
        f"{_colour(row.before)} → {_colour(row.after)}",
        f"{row.new_class} {row.new_confidence:.1%}",
        f"{row.tried:,}",
    ]


def _colour(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))
