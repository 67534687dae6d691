"""What `onepix attack` prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from onepix.study.printing import print_table, wide_console

if TYPE_CHECKING:  # it imports torch
    from onepix.study.attack_pictures import AttackedPicture

COLUMNS = ("picture", "class", "row, column", "colour", "new class", "tried")


def say(line: str) -> None:
    """Print a line as it is, however long."""
    Console(highlight=False).print(line, soft_wrap=True, markup=False)


def show(rows: Sequence["AttackedPicture"]) -> None:
    """Print a table with one row per picture, and the folders that were written."""
    print_table(wide_console(), COLUMNS, map(cells, rows))
    for row in rows:
        if row.folder:
            say(f"{row.picture}: written into {row.folder}")


def cells(row: "AttackedPicture") -> list[str]:
    """Return a row as text, one cell per column."""
    picture = Path(row.picture).name
    seen = f"{row.clean_class} {row.confidence:.1%}"
    if row.flipped is None:
        return [picture, seen, "", "", f"not attacked: the network does not classify it as {row.label}", ""]
    tried = f"{row.tried:,}"
    if not row.flipped:
        return [picture, seen, "", "", f"no flip within {tried} candidates", tried]
    colours = " → ".join(" ".join(map(str, colour)) for colour in (row.before, row.after))
    new = f"{row.new_class} {row.new_confidence:.1%}"
    return [picture, seen, f"{row.row}, {row.column}", colours, new, tried]
