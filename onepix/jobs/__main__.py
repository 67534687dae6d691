"""`python -m onepix.jobs RULE`: run the job of a rule of the workflow."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from onepix.errors import OnepixError
from onepix.names import nearest
from onepix.process import well_behaved

NO_RULES = ("__init__", "__main__", "inputs")
RULES = tuple(sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in NO_RULES))


def run(arguments: Sequence[str]) -> None:
    """Run the job of a rule, given its name and options.

    Raises
    ------
    OnepixError
        If there is no such rule.
    """
    rule = arguments[0] if arguments else "--help"
    if rule in ("-h", "--help"):
        typer.echo(f"python -m onepix.jobs RULE --help\n\nRules: {', '.join(RULES)}")
        return
    if rule not in RULES:
        raise OnepixError(f"python -m onepix.jobs RULE: there is no rule '{rule}'; {nearest(rule, RULES)}")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(importlib.import_module(f"onepix.jobs.{rule}").run)
    app(list(arguments[1:]), prog_name=f"python -m onepix.jobs {rule}")


if __name__ == "__main__":
    with well_behaved():
        run(sys.argv[1:])
