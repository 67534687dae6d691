"""Progress on standard error: a live bar on a terminal, a line now and then in a log."""

import sys
from typing import Any

from tqdm import tqdm

LOG_INTERVAL = 5.0  # seconds between two lines where standard error is no terminal
LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _Lines(tqdm):  # type: ignore[type-arg]
    """A bar that writes lines: several jobs may share one log, where overwriting would mix them."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002 (tqdm's signature)
        if msg != "":
            self.fp.write(f"{msg or self}\n")
            self.fp.flush()

    def close(self) -> None:
        if not self.disable:
            self.display()
        super().close()


def progress_bar(total: int | None, description: str, unit: str, **options: Any) -> "tqdm[Any]":
    """Return a tqdm bar over `total` units of work; None where that is not known."""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=description, unit=unit, dynamic_ncols=True, **options)
    return _Lines(
        total=total,
        desc=description,
        unit=unit,
        mininterval=LOG_INTERVAL,
        maxinterval=LOG_INTERVAL,
        miniters=1,
        leave=False,
        bar_format=LINE,
        **options,
    )
