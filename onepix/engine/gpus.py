"""Which GPUs a process may use, and how it claims one, so that each of several jobs at a time has its own.

It does not import torch: the workflow's profile counts GPUs, and CUDA must not look at them before one is claimed.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

LISTING = 60.0  # seconds for nvidia-smi, which may have to wake GPUs
WAIT = 0.2  # seconds between two attempts to claim a GPU

_claim: FileLock | None = None  # held until the process ends: dropping the lock would free the GPU


def visible() -> dict[str, str]:
    """Return the GPUs that this process may use, MIG devices too.

    If CUDA_VISIBLE_DEVICES is set, they are those it lists (indices, UUIDs or beginnings of UUIDs): as in CUDA, an
    entry that is not a GPU ends the list, and a repeated entry makes it empty. Otherwise all that nvidia-smi lists.

    Returns
    -------
    dict
        Name in CUDA_VISIBLE_DEVICES → UUID. Indices count in the order of nvidia-smi; on a machine with several kinds
        of GPUs, CUDA may number them differently.
    """
    present = _present()
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return {uuid: uuid for uuids in present for uuid in uuids}
    chosen: dict[str, str] = {}
    for name in wanted.split(","):
        uuid = _uuid(name.strip(), present)
        if uuid is None:
            break
        if uuid in chosen.values():
            return {}
        chosen[name.strip()] = uuid
    return chosen


def claim() -> bool:
    """Claim one of the visible GPUs for as long as this process lives, and hide the others from CUDA.

    If all are taken, it waits for one. Call it before anything asks CUDA for its devices.

    Returns
    -------
    bool
        Whether the process now has a GPU; False if none is visible.
    """
    if _claim is not None:
        return True
    gpus = visible()
    if not gpus:
        return False
    name = list(gpus)[claim_one(list(gpus.values()))]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = name
    return True


def claim_one(uuids: Sequence[str]) -> int:
    """Claim the first free GPU of a list, or wait until one is free; return its index in the list.

    A claim is a lock on a file of the user; it ends with the process, however that ends.
    """
    global _claim
    user = os.getuid() if hasattr(os, "getuid") else "user"  # on Windows, the folder is the user's own
    folder = Path(tempfile.gettempdir(), f"onepix-gpus-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    locks = [FileLock(folder / f"{uuid.replace('/', '_')}.lock", blocking=False) for uuid in uuids]
    told = False
    while True:
        for index, lock in enumerate(locks):
            try:
                lock.acquire()
            except Timeout:
                continue
            _claim = lock
            return index
        if not told:
            sys.stderr.write(f"onepix: other jobs use {_number(len(uuids))}; waiting until one ends\n")
            sys.stderr.flush()
            told = True
        time.sleep(WAIT)


def release() -> None:
    """Give up the claim, if there is one."""
    global _claim
    if _claim is not None:
        _claim.release()
        _claim = None


def _number(count: int) -> str:
    return "the only GPU" if count == 1 else f"all {count} GPUs"


def _present() -> list[list[str]]:
    """Return each GPU's UUID, in the order of nvidia-smi, or the UUIDs of its MIG devices."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], text=True, capture_output=True, check=True, timeout=LISTING, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return []
    gpus: list[list[str]] = []
    for kind, uuid in re.findall(r"^(GPU|\s+MIG)\b.*\(UUID: ([^)\s]+)\)", listed.stdout, re.MULTILINE):
        if kind == "GPU":
            gpus.append([uuid])
        else:
            gpus[-1] = [*(part for part in gpus[-1] if part.startswith("MIG-")), uuid]
    return gpus


def _uuid(name: str, present: Sequence[Sequence[str]]) -> str | None:
    """Return the UUID of a GPU that CUDA_VISIBLE_DEVICES names, None if there is no such GPU."""
    if re.fullmatch(r"\d+", name):
        return present[int(name)][0] if int(name) < len(present) else None
    matching = [uuid for uuids in present for uuid in uuids if uuid.startswith(name)]
    return matching[0] if name.startswith(("GPU-", "MIG-")) and len(matching) == 1 else None
