"""What this machine has: its memory, and whether other programs keep its cores busy. It does not import torch."""

import os
import time
from pathlib import Path

# What a container may use, by version 2 and 1 of Linux's control groups; the files are missing elsewhere.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
STAT = Path("/proc/stat")
WATCHED = 0.2  # seconds


def memory_mb() -> int | None:
    """Return the memory of this machine, or of the container, in MB; None where the system does not say."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # on Windows
        return None
    for limit in LIMITS:
        try:
            found.append(int(limit.read_text()))
        except (OSError, ValueError):  # "max" is no limit
            continue
    return min(found) // 2**20


def busy_cores() -> float | None:
    """Return how many cores other programs use just now; None where that is not known (only Linux tells)."""
    before = _seconds()
    if before is None:
        return None
    time.sleep(WATCHED)
    after = _seconds()
    return None if after is None else max(after[0] - before[0], 0.0) / (after[1] - before[1])


def _seconds() -> tuple[float, float] | None:
    """Return the seconds for which other programs have used cores so far, and the time."""
    try:
        user, nice, system, *_ = map(int, STAT.read_text().split("\n", 1)[0].split()[1:])
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    own = os.times()
    return (user + nice + system) / ticks - own.user - own.system, time.monotonic()
