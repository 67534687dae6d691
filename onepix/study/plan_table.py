"""What `onepix plan` prints."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from onepix.study.estimates import ATTACK, CONTROLS, FOLLOW, LOCALITY, TRIED, Estimate, Part
from onepix.study.plan import Workflow, in_short

UNKNOWN, NOTHING = "?", "–"
WIDTH = 180  # of a table that goes to a file and not to a terminal
COLUMNS = {ATTACK: "attacks ≤", FOLLOW: "propagation maps", LOCALITY: "position maps", CONTROLS: "controls"}
HEADER = ("dataset", "network", "attack", "images", "passes ≤", *COLUMNS.values(), "rates")
TIMES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
NOT_COUNTED = ("training", "receptive_fields", "transfer")
BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))


def show(workflow: Workflow, estimates: Iterable[Estimate]) -> None:
    """Print a table of rules and one of runs, each with what would be done; one line if that is nothing."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    if not workflow.to_run():
        console.print("nothing would run: all results are there, made as the configuration says")
        return
    _print_table(console, ("rule", "jobs", "why"), rule_rows(workflow))
    found = []
    with console.status("measuring …") as status:
        for estimate in estimates:
            found.append(estimate)
            status.update(f"measured {' × '.join(estimate.run)}")
    console.print()
    _print_table(console, HEADER, [*map(cells, found), sums(found)])
    console.print()
    for line in notes(workflow, found):
        console.print(line, soft_wrap=True, markup=False)


def _print_table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)


def rule_rows(workflow: Workflow) -> list[list[str]]:
    """Return a row a rule: its jobs, and why they would run, each reason once and the most telling first."""
    rows = []
    for rule in dict.fromkeys(job.rule for job in workflow.to_run()):
        jobs = workflow.to_run(rule)
        depth = max(len(job.why) for job in jobs)
        why = dict.fromkeys(job.why[rank] for rank in range(depth) for job in jobs if rank < len(job.why))
        rows.append([rule, str(len(jobs)), "; ".join(why)])
    return rows


def cells(estimate: Estimate) -> list[str]:
    """Return a run as text, a cell a column."""
    if estimate.images is None:
        return [*estimate.run, *[UNKNOWN] * (len(HEADER) - 4), NOTHING]
    return [
        *estimate.run,
        f"{estimate.images} of {estimate.of}",
        _number(estimate.parts[ATTACK].units),
        *(amount(estimate.parts[rule]) for rule in COLUMNS),
        estimate.source or NOTHING,
    ]


def sums(estimates: Sequence[Estimate]) -> list[str]:
    """Return the sums of all runs, a cell a column; unknown is the sum of what is unknown in one."""
    if any(estimate.images is None for estimate in estimates):
        return ["sum", "", "", *[UNKNOWN] * (len(HEADER) - 4), ""]
    whole = {rule: added(estimate.parts[rule] for estimate in estimates) for rule in COLUMNS}
    images, of = (sum(getattr(estimate, name) or 0 for estimate in estimates) for name in ("images", "of"))
    return ["sum", "", "", f"{images} of {of}", _number(whole[ATTACK].units), *map(amount, whole.values()), ""]


def added(parts: Iterable[Part]) -> Part:
    """Return several parts as one."""
    listed = list(parts)

    def whole(name: str) -> float | None:
        values = [getattr(part, name) for part in listed]
        return None if None in values else sum(values)

    return Part(sum(part.jobs for part in listed), whole("units"), whole("seconds"), whole("bytes"))


def notes(workflow: Workflow, estimates: Sequence[Estimate]) -> Iterator[str]:
    """Yield the lines below the tables: what the numbers mean, what is not known, and advice."""
    if any(estimate.parts and estimate.parts[ATTACK].jobs for estimate in estimates):
        yield (
            "Passes and hours of attacks are the most there can be: images classified wrongly are not attacked, and "
            "attacks may end at a success."
        )
    yield from _shares(estimates)
    if any(TRIED in estimate.source for estimate in estimates):
        yield (
            "What was tried now is screening alone, on a machine as busy as it is: what attacks check in float32 comes "
            "on top."
        )
    whole = added(estimate.parts[rule] for estimate in estimates for rule in COLUMNS if rule in estimate.parts)
    if all(estimate.parts for estimate in estimates) and whole.seconds:
        yield f"In all {amount(whole)}, one job at a time: divide by the number of jobs at a time."
    left_out = [rule for rule in NOT_COUNTED if workflow.to_run(rule)]
    yield f"Not counted: {', '.join([*left_out, 'fetching, records, tables and figures'])}."
    yield from dict.fromkeys(estimate.unknown for estimate in estimates if estimate.unknown)
    yield from (estimate.advice for estimate in estimates if estimate.advice)


def _shares(estimates: Sequence[Estimate]) -> Iterator[str]:
    """Say on which share of successes the numbers of maps rest, where attacks are still to come."""
    to_come = [estimate for estimate in estimates if estimate.parts and estimate.parts[ATTACK].jobs]
    for estimate in to_come:
        if (shares := estimate.shares).records:
            yield (
                f"{' × '.join(estimate.run)}: maps are counted as its {shares.records} earlier records tell: "
                f"{shares.attacked:.0%} could be attacked, {shares.success:.0%} of those fell."
            )
    if new := [" × ".join(estimate.run) for estimate in to_come if not estimate.shares.records]:
        yield f"No earlier records of {in_short(new)}: maps are counted as if all images were attacked, and all fell."


def amount(part: Part) -> str:
    """Return time and bytes as text; of what would not run, nothing."""
    if not part.jobs:
        return NOTHING
    if part.seconds is None and part.bytes is None:
        return UNKNOWN
    return ", ".join([duration(part.seconds), *([] if part.bytes == 0 else [size(part.bytes)])])


def duration(seconds: float | None) -> str:
    """Return a time as text, in a unit that suits it."""
    if seconds is None:
        return UNKNOWN
    return next((f"{seconds / unit:.1f} {name}" for unit, name in TIMES if seconds >= unit), f"{seconds:.0f} s")


def size(number: float | None) -> str:
    """Return a number of bytes as text, in a unit that suits it."""
    if number is None:
        return UNKNOWN
    return next((f"{number / unit:.1f} {name}" for unit, name in BYTES if number >= unit), f"{number / 1e3:.0f} kB")


def _number(count: float | None) -> str:
    return UNKNOWN if count is None else f"{count:,.0f}"
