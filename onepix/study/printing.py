"""Tables for people, on a terminal or in a file."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 180  # characters per line, if the output is not a terminal


def wide_console() -> Console:
    """Return a console that does not break tables where the output is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def print_table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text, one cell per column, as they are: brackets in a user's names are no markup."""
    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
