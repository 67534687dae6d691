"""How a command's process behaves: a signal or a mistake ends it with one line, and its threads disturb no others."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator

from onepix.errors import OnepixError


@contextlib.contextmanager
def well_behaved() -> Iterator[None]:
    """Print one line instead of a traceback when a user's mistake, a full disk or SIGTERM ends the process."""
    # Without a handler, SIGTERM ends Python at once, and temporary files stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("onepix: stopped by SIGTERM"))
    _keep_to_threads()
    wait_passively()
    # If a file of a zarr store cannot be written, the first error ends the process in one line; asyncio would add a
    # traceback for each further file.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        yield
    except OnepixError as error:
        sys.exit(f"onepix: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"onepix: {where}{error.strerror or error}")


def _keep_to_threads() -> None:
    """Let dask and zarr start no more threads than OMP_NUM_THREADS; PyTorch, NumPy and Arrow obey it by themselves.

    Snakemake sets it to the job's number of threads. Where it is not set, all libraries use all cores.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads):
        for name in ("DASK_NUM_WORKERS", "ZARR_THREADING__MAX_WORKERS"):
            os.environ.setdefault(name, threads)


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has set how they wait.

    By default they keep their cores busy for a while after each parallel loop, and there are many loops in a forward
    pass. Beside any other program that makes passes 2 to 3 times as slow, and once 30 times; on an idle machine,
    sleeping costs a few percent (measured on two cores). Call it before PyTorch is loaded: OpenMP looks only then.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
