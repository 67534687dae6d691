"""Patience with the network: how often, after which wait, and when a connection is given up."""

import contextlib
import logging
import socket
import textwrap
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

from onepix.errors import OnepixError

ATTEMPTS = 3


WAIT = tenacity.wait_exponential(multiplier=2)  # 2 s, then 4 s


STALLED = 60.0  # seconds without a byte after which a connection is given up


T = TypeVar("T")


logger = logging.getLogger(__name__)


def patiently(attempt: Callable[[], T]) -> T:
    """Try a download anew after a failure, unless the failure is the user's to mend."""
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=WAIT,
        retry=tenacity.retry_if_exception_type(Exception) & tenacity.retry_if_not_exception_type(OnepixError),
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
