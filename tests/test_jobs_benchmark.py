"""The comparison of two jobs with one runs, on the smaller network."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_two_jobs_are_compared_with_one():
    command = [sys.executable, str(ROOT / "benchmarks" / "jobs.py"), "--quick"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    name, one, two, ratio = (cell.strip() for cell in printed.splitlines()[-1].strip("|").split("|"))
    assert name == "lenet"
    assert float(one.split()[0]) / float(two.split()[0]) == pytest.approx(float(ratio), rel=0.2)
