"""Progress: whole lines in a log, the last one complete; one line that changes on a terminal."""

import os
import pty
import re
import subprocess
import sys

import pytest
from studies import ROOT

from onepix import progress
from onepix.progress import Bar, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """Time stands still unless it is moved on."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_in_a_log(capsys, clock):
    """One line at the beginning, one at the end, and between them one after each five seconds."""
    with progress_bar(3000, "attack", "pass", initial=500) as bar:
        for evaluated, left in ((500, 4), (500, 3), (1, 2)):
            clock[0] += 4
            bar.update(evaluated, 2000, left=left)
    assert capsys.readouterr().err.splitlines() == [
        "attack:  17% 500/3k pass [0:00<?, 0 pass/s]",
        "attack:  75% 1.5k/2k pass [0:08<0:04, 125 pass/s, left=3]",
        "attack:  75% 1.5k/2k pass [0:12<0:06, 83.4 pass/s, left=2]",
    ]


def test_a_failure_still_ends_in_a_whole_line(capsys):
    with pytest.raises(ZeroDivisionError), progress_bar(3, "[attack]", "pass") as bar:
        bar.update()
        bar.update(1 // 0)
    assert capsys.readouterr().err.splitlines()[-1].startswith("[attack]:  33% 1/3 pass")


def test_nothing_to_do_is_done(capsys):
    with progress_bar(0, "attack", "pass"):
        pass
    assert "attack: 100% 0/0 pass" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [
        (999, 0, "999/? B [0:00, 0 B/s]"),
        (999_600, 60, "1M/? B [1:00, 16.7k B/s]"),
        (123_456_789, 3725, "123M/? B [1:02:05, 33.1k B/s]"),
        (1, 8, "1/? B [0:08, 0.125 B/s]"),
    ],
)
def test_numbers_have_three_digits(clock, done, seconds, text):
    bar = Bar(None, "B", 0)
    clock[0] += seconds
    bar.update(done)
    assert str(bar) == text


def test_a_bar_on_a_terminal():
    """The line is overwritten, and ends complete."""
    program = (
        "from onepix.progress import progress_bar\n"
        "with progress_bar(3, '[attack]', 'pass') as bar:\n"
        "    for left in (2, 1, 0):\n"
        "        bar.update(left=left)\n"
    )
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=follower, check=False, env=environment)
    os.close(follower)
    said = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert done.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    *_, last = filter(None, re.split(r"[\r\n]+", plain))
    assert re.fullmatch(r"\[attack\] ━+ 100% 3/3 pass \[0:00<0:00, [\d.]+[kM]? pass/s, left=0\] *", last)
    assert plain.count("\n") == 1, "it takes one line, whatever it shows on the way"
