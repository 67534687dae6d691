"""How a command's process behaves: signals and mistakes end it in one line, and it keeps to its threads."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from onepix.errors import OnepixError


@contextlib.contextmanager
def well_behaved() -> Iterator[None]:
    """End the process by a user's mistake, a full disk or SIGTERM in one line, and not in a traceback."""
    # A scheduler's SIGTERM would end Python on the spot, and leave temporary files behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("onepix: stopped by SIGTERM"))
    _keep_to_threads()
    try:
        yield
    except OnepixError as error:
        sys.exit(f"onepix: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"onepix: {where}{error.strerror or error}")


def _keep_to_threads() -> None:
    """Let dask and zarr start no more threads than OMP_NUM_THREADS, which PyTorch, NumPy and Arrow heed by themselves.

    Snakemake sets it to a job's threads. Where it is not set, all of them use all cores.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads):
        for name in ("DASK_NUM_WORKERS", "ZARR_THREADING__MAX_WORKERS"):
            os.environ.setdefault(name, threads)
