"""What `onepix check` prints."""

from collections.abc import Iterable, Sequence

from onepix.config.study import Config
from onepix.study.check import CheckedPair
from onepix.study.printing import print_table, wide_console

UNKNOWN = "?"
COLUMNS = (
    "dataset",
    "network",
    "images",
    "size",
    "classes",
    "correct",
    "mean / std of the input",
    "memory",
    "passes/s",
    "weights",
)


def show(config: Config, rows: Iterable[CheckedPair]) -> int:
    """Print a table, what would be fetched, and all mistakes; return how many rows have a fault."""
    console = wide_console()
    found = []
    with console.status("checking …") as status:
        for row in rows:
            status.update(f"checked {row.dataset} × {row.network}")
            found.append(row)
    print_table(console, COLUMNS, map(cells, found))
    for text in dict.fromkeys(f"weights of {row.network}: {row.taken}" for row in found if row.taken):
        console.print(text, soft_wrap=True, markup=False)
    for text in dict.fromkeys(text for row in found for text in row.fetches):
        console.print(f"to be fetched: {text}", soft_wrap=True, markup=False)
    for row in found:
        for said in notes(row):
            console.print(f"{row.dataset} × {row.network}: {said}", soft_wrap=True, markup=False, style="yellow")
        if row.unfollowed:
            unfollowed = f"{row.dataset} × {row.network}: not followed, or not as maps: {', '.join(row.unfollowed)}"
            console.print(unfollowed, soft_wrap=True, markup=False)
    for row in found:
        if row.fault:
            console.print(f"{row.dataset} × {row.network}: {row.fault}", soft_wrap=True, markup=False, style="red")
    unused = [name for name in config.networks if all(name != row.network for row in found)]
    if unused:
        console.print(f"in no run, and not checked: {', '.join(unused)}", soft_wrap=True, markup=False)
    return sum(bool(row.fault) for row in found)


def notes(row: CheckedPair) -> list[str]:
    """Return what should be known of a row, though it does not stop the run."""
    part = f"{row.logits} is taken as its logits" if row.logits not in ("", "output") else ""
    return [*filter(None, [part]), *row.warnings]


def cells(row: CheckedPair) -> list[str]:
    """Return a row as text, one cell per column."""
    shape = "×".join(map(str, row.shape)) if row.shape else UNKNOWN
    correct, of = row.accuracy or (0, 0)
    return [
        row.dataset,
        row.network,
        UNKNOWN if row.selected is None else f"{row.selected} of {row.images}",
        shape,
        UNKNOWN if row.classes is None else str(row.classes),
        f"{correct} of {of} ({correct / of:.1%})" if of else UNKNOWN,
        f"{_numbers(row.scaling['mean'])} / {_numbers(row.scaling['std'])}" if row.scaling else UNKNOWN,
        UNKNOWN if row.memory is None else f"{row.memory / 1e6:,.0f} MB",
        UNKNOWN if row.passes is None else f"{row.passes:,.0f}",
        ", ".join(filter(None, [row.weights.rpartition("/")[2], row.verified])),
    ]


def _numbers(values: Sequence[float] | float) -> str:
    """Write one number per channel, or one for all channels."""
    return " ".join(f"{value:.4g}" for value in (values if isinstance(values, Sequence) else [values]))
