"""Code in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import onepix


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(onepix.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
