"""The one policy for retries: how many attempts, how long to wait, when to give up a connection."""

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
STALLED = 60.0  # seconds without a byte before a connection is given up

T = TypeVar("T")
logger = logging.getLogger(__name__)


def not_the_users(error: BaseException) -> bool:
    """Tell whether an error is not a mistake of the user, so that another attempt may help."""
    return isinstance(error, Exception) and not isinstance(error, OnepixError)


def patiently(attempt: Callable[[], T], may_pass: Callable[[BaseException], bool] = not_the_users) -> T:
    """Return the result of an attempt; after a failure try again, `ATTEMPTS` times in all.

    Parameters
    ----------
    attempt : callable
        Has no parameters.
    may_pass : callable
        Tells whether another attempt may succeed after an error. If not, the error is raised at once; otherwise
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
    """Return the message of an error, in one line."""
    kind = "" if isinstance(error, OnepixError) else f"{type(error).__name__}: "
    return textwrap.shorten(kind + str(error), 300, placeholder=" …")


@contextlib.contextmanager
def stall_limit() -> Iterator[None]:
    """Give up connections that stall: torchvision sets no limit, and would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
