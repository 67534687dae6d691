"""What `onepix check` prints."""

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console

from onepix.config.study import Config
from onepix.study.check import CheckedPair
from onepix.study.printing import print_table, wide_console

UNKNOWN = "?"
MOST_CLASSES = 200  # classes that are listed
FEW = 10  # classes that are listed in one column
LONGEST = 40  # letters of a class's name
GAP = 3  # blanks between two columns of classes
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
    _print_classes(console, found)
    for text in dict.fromkeys(text for row in found for text in row.fetches):
        console.print(f"to be fetched: {text}", soft_wrap=True, markup=False)
    for row in found:
        if row.unfollowed:
            unfollowed = f"{row.dataset} × {row.network}: not followed, or not as maps: {', '.join(row.unfollowed)}"
            console.print(unfollowed, soft_wrap=True, markup=False)
        for said in notes(row):
            console.print(f"{row.dataset} × {row.network}: {said}", soft_wrap=True, markup=False, style="yellow")
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


def _print_classes(console: Console, rows: Sequence[CheckedPair]) -> None:
    """Print which output of the networks each class is, and how many images it has; one line per class if they are few.

    Networks of one dataset with the same classes are told together.
    """
    alike: dict[tuple[object, ...], list[CheckedPair]] = {}
    for row in rows:
        if row.counted:
            alike.setdefault((row.dataset, row.outputs, tuple(row.counted)), []).append(row)
    for row, *others in alike.values():
        networks = ", ".join(other.network for other in (row, *others))
        empty = (row.outputs or 0) - len(row.counted)
        rest = f"; {empty:,} more without images" if empty > 0 else ""
        console.print(f"\n{row.dataset} × {networks}: class, name, images{rest}", soft_wrap=True, markup=False)
        _print_counted(console, row.counted)
    for note in dict.fromkeys(f"{row.dataset}: {note}" for row in rows for note in row.notes):
        console.print(note, soft_wrap=True, markup=False, style="yellow")


def _print_counted(console: Console, counted: Sequence[tuple[int, str, int]]) -> None:
    """Print classes in columns, top to bottom, with as many rows as keep the table short."""
    shown = counted[:MOST_CLASSES]
    width = max(len(_of_class(*entry)) for entry in shown) + GAP
    columns = max(1, min(console.width // width, -(-len(shown) // FEW)))
    height = -(-len(shown) // columns)
    for line in range(height):
        cells = (_of_class(*entry) for entry in shown[line::height])
        console.print("".join(cell.ljust(width) for cell in cells).rstrip(), soft_wrap=True, markup=False)
    if len(counted) > len(shown):
        console.print(f"… and {len(counted) - len(shown)} more classes", soft_wrap=True, markup=False)


def _of_class(index: int, name: str, images: int) -> str:
    return f"{index:5}  {textwrap.shorten(name, LONGEST, placeholder=' …')}  {images:,}"


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
