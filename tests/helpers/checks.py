"""`onepix check` in the process of the test."""

from concurrent.futures import Future

import pytest


class InThisProcess:
    """In place of a process of its own, which takes seconds to start."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


def check_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check without further processes, and count passes for a moment only."""
    monkeypatch.setattr("onepix.study.check.ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr("onepix.study.check.TRIED", 0.01)
    monkeypatch.setenv("ONEPIX_OFFLINE", "")  # set by a check; this takes it back
