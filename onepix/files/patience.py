"""Patience with the web, the same whatever is fetched: how often, after which wait, when a connection is given up."""

import contextlib
import logging
import socket
import textwrap
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

from onepix.errors import OnepixError

ATTEMPTS = 4
WAIT = tenacity.wait_exponential(multiplier=2)  # 2 s, 4 s, then 8 s
STALLED = 60.0  # seconds without a byte after which a connection is given up

T = TypeVar("T")
logger = logging.getLogger(__name__)


def not_the_users(error: BaseException) -> bool:
    """Tell whether a failure is none that the user must mend."""
    return isinstance(error, Exception) and not isinstance(error, OnepixError)


def patiently(attempt: Callable[[], T], may_pass: Callable[[BaseException], bool] = not_the_users) -> T:
    """Return what an attempt brings; after a failure it is made anew, `ATTEMPTS` times in all.

    Parameters
    ----------
    attempt : callable
        Takes nothing.
    may_pass : callable
        Tells of an error whether another attempt may succeed. Any other error is raised at once, and this one
        after the last attempt.
    """
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=WAIT,
        retry=tenacity.retry_if_exception(may_pass),
        before_sleep=tenacity.before_sleep_log(logger, logging.INFO),
        reraise=True,
    )
    return retrying(attempt)


def reason(error: Exception) -> str:
    """Return what an error says, in one line."""
    kind = "" if isinstance(error, OnepixError) else f"{type(error).__name__}: "
    return textwrap.shorten(kind + str(error), 300, placeholder=" …")


@contextlib.contextmanager
def stall_limit() -> Iterator[None]:
    """Give up connections that stall: torchvision sets no limit, and would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
