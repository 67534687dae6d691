"""Progress on standard error: a live bar on a terminal, one line every few seconds in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

LOG_INTERVAL = 5.0  # seconds between two lines where standard error is no terminal
PREFIXES = ("", "k", "M", "G", "T")


class Bar:
    """How much of some work is done.

    Attributes
    ----------
    n, total : int
        Units done, and units in all; None if not known.
    """

    def __init__(self, total: int | None, unit: str, initial: int) -> None:
        self.n, self.total = initial, total
        self._unit, self._initial, self._start = unit, initial, time.monotonic()
        self._notes = ""
        self.show: Callable[[], None] = lambda: None

    def update(self, count: int = 1, total: int | None = None, **notes: object) -> None:
        """Add units done; set a new total, and values to show after the bar."""
        self.n += count
        self.total = self.total if total is None else total
        self._notes = "".join(f", {name}={value}" for name, value in notes.items()) or self._notes
        self.show()

    def __str__(self) -> str:
        seconds = time.monotonic() - self._start
        rate = (self.n - self._initial) / seconds if seconds else 0.0
        done, times, total = "", _clock(seconds), "?"
        if self.total is not None:
            done = f"{self.n / self.total if self.total else 1:4.0%} "
            times += f"<{_clock((self.total - self.n) / rate) if rate else '?'}"
            total = _short(self.total)
        return f"{done}{_short(self.n)}/{total} {self._unit} [{times}, {_short(rate)} {self._unit}/s{self._notes}]"


class _Words(ProgressColumn):
    """The text that a log would show, next to the bar."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self._bar = bar

    def render(self, task: Task) -> Text:  # noqa: ARG002 (rich's signature)
        return Text(str(self._bar))


@contextlib.contextmanager
def progress_bar(total: int | None, description: str, unit: str, initial: int = 0) -> Iterator[Bar]:
    """Show the progress of some work.

    Parameters
    ----------
    total : int or None
        Units of work; None if not known.
    description : str
        Names the work.
    unit : str
        Name of one unit.
    initial : int
        Units done before the start.

    Yields
    ------
    Bar
        Call its `update` after each piece of work.
    """
    bar = Bar(total, unit, initial)
    with _live(bar, description) if sys.stderr.isatty() else _lines(bar, description):
        yield bar


@contextlib.contextmanager
def _live(bar: Bar, description: str) -> Iterator[None]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), _Words(bar))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=bar.total, completed=bar.n)
        bar.show = lambda: progress.update(task, total=bar.total, completed=bar.n)
        yield


@contextlib.contextmanager
def _lines(bar: Bar, description: str) -> Iterator[None]:
    """Write whole lines: several jobs may write into one log, and overwriting a line would mix them."""
    written = 0.0

    def write() -> None:
        nonlocal written
        written = time.monotonic()
        sys.stderr.write(f"{description}: {bar}\n")
        sys.stderr.flush()

    def show() -> None:
        if time.monotonic() - written >= LOG_INTERVAL:
            write()

    bar.show = show
    write()
    try:
        yield
    finally:
        write()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _short(number: float) -> str:
    """Write a number in three digits: 1.5k, 28M."""
    for prefix in PREFIXES[:-1]:
        if number < 999.5:
            return f"{number:.3g}{prefix}"
        number /= 1000
    return f"{number:.3g}{PREFIXES[-1]}"
