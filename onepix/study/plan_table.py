"""What `onepix plan` prints."""

from collections.abc import Iterable, Iterator, Sequence

from onepix.study.plan import ATTACK, Estimate, Workflow, wall_time
from onepix.study.printing import print_table, wide_console

UNKNOWN, NOTHING = "?", "–"
HEADER = ("dataset", "network", "attack", "images", "per image ≤", "passes ≤", "passes/s", "time ≤")
TIMES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def show(workflow: Workflow, estimates: Iterable[Estimate]) -> None:
    """Print a table of rules and a table of runs, with what would be done; one line if nothing would run."""
    console = wide_console()
    if not workflow.to_run():
        console.print("nothing would run: all results exist and match the configuration")
        return
    print_table(console, ("rule", "jobs", "why"), rule_rows(workflow))
    found = []
    with console.status("measuring …") as status:
        for estimate in estimates:
            found.append(estimate)
            status.update(f"measured {' × '.join(estimate.run[:2])}")
    console.print()
    print_table(console, HEADER, [*map(cells, found), sums(found)])
    console.print()
    for line in notes(workflow, found):
        console.print(line, soft_wrap=True, markup=False)


def rule_rows(workflow: Workflow) -> list[list[str]]:
    """Return one row per rule: number of jobs, and each reason once, most important first."""
    rows = []
    for rule in dict.fromkeys(job.rule for job in workflow.to_run()):
        jobs = workflow.to_run(rule)
        depth = max(len(job.why) for job in jobs)
        why = dict.fromkeys(job.why[rank] for rank in range(depth) for job in jobs if rank < len(job.why))
        rows.append([rule, str(len(jobs)), "; ".join(why)])
    return rows


def cells(estimate: Estimate) -> list[str]:
    """Return a run as text, one cell per column."""
    idle = estimate.images == 0
    return [
        *estimate.run,
        UNKNOWN if estimate.images is None else f"{estimate.images} of {estimate.of}",
        NOTHING if idle else _number(estimate.each),
        _number(estimate.passes),
        NOTHING if idle else _number(estimate.rate),
        NOTHING if idle else duration(estimate.seconds),
    ]


def sums(estimates: Sequence[Estimate]) -> list[str]:
    """Return the sums over all runs, one cell per column; unknown if any run's value is unknown."""
    images, of, passes, seconds = (
        None if None in values else sum(values)
        for values in zip(*((run.images, run.of, run.passes, run.seconds) for run in estimates), strict=True)
    )
    counted = UNKNOWN if images is None else f"{images} of {of}"
    return ["sum", "", "", counted, "", _number(passes), "", duration(seconds)]


def notes(workflow: Workflow, estimates: Sequence[Estimate]) -> Iterator[str]:
    """Yield the lines below the tables: what the numbers mean, and why some are not known."""
    if any(estimate.images for estimate in estimates):
        yield "≤: at most. Images classified wrongly are not attacked, and attacks may end at a success."
    if any(estimate.rate for estimate in estimates):
        yield (
            "Passes per second were measured just now, without the checks in float32 that attacks add. Times are for "
            "one job at a time."
        )
    yield from dict.fromkeys(_budget(estimate) for estimate in estimates if estimate.images and estimate.whole)
    jobs, at_once = len(workflow.to_run(ATTACK)), workflow.at_once
    if min(jobs, at_once) > 1 and (seconds := wall_time(workflow, estimates)):
        together = min(jobs, at_once)
        yield f"Here, {together} of {jobs} attack jobs run at once: all attacks take {duration(seconds)} at most."
    if 0 < jobs < at_once:
        yield f"{at_once} attack jobs could run at once; a smaller images_per_job makes more, shorter jobs."
    if any(job.rule != ATTACK for job in workflow.to_run()):
        yield "Only attacks are counted; the jobs of other rules take time, too."
    yield from dict.fromkeys(estimate.unknown for estimate in estimates if estimate.unknown)


def _budget(estimate: Estimate) -> str:
    """Say what a budget leaves out."""
    budget, whole = _number(estimate.budget), _number(estimate.whole)
    return (
        f"{estimate.run[2]}: its budget ends each attack after {budget} of {whole} candidates; what these do not find "
        f'is "not found within {budget} candidates".'
    )


def duration(seconds: float | None) -> str:
    """Return a time as text, in a suitable unit."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 1:
        return "< 1 s"
    return next((f"{seconds / unit:.1f} {name}" for unit, name in TIMES if seconds >= unit), f"{seconds:.0f} s")


def _number(count: float | None) -> str:
    """Return a count or a rate as text; slow rates get a decimal."""
    return UNKNOWN if count is None else f"{count:,.0f}" if count == int(count) or count >= 10 else f"{count:.1f}"
