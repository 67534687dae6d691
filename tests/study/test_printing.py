"""Tables as people see them."""

import io

from rich.console import Console

from onepix.study.printing import print_table


def test_brackets_are_no_markup():
    """A file may be called [red]: rich would take it for a colour, and leave it out."""
    written = io.StringIO()
    print_table(Console(file=written, width=40), ("file", "why"), [("[red]a.pth", "layers: [bold]")])
    assert [line.split() for line in written.getvalue().splitlines()] == [
        ["file", "why"],
        ["[red]a.pth", "layers:", "[bold]"],
    ]
