"""Where networks are evaluated: device, precision, micro-batch and memory."""

import ctypes
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from onepix.engine import gpus
from onepix.errors import OnepixError
from onepix.networks.gate import out_of_memory

T = TypeVar("T")

# glibc's mallopt parameters, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


# Pixels per forward pass, and the fewest and most images, for `micro_batch: auto`: CPUs are fastest while the feature
# maps of a pass fit into their caches, GPUs when all their cores have work.
PIXELS_PER_PASS = {"cpu": (1 << 17, 8, 128), "cuda": (1 << 22, 32, 4096)}


FEWEST_EXACT = 8  # images per forward pass in float32: fewer take longer, each


def keep_memory() -> None:
    """Tell glibc to keep freed memory: by default, each forward pass returns it and asks for it again.

    On a CPU this makes float32 passes faster (ResNet-20: 1.1 to 1.6 times, measured on two cores). It changes the
    whole process, so jobs call it and library functions do not. Without Linux and glibc it does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, 1 << 30)
            mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def choose_device(wanted: str) -> str:
    """Return the torch device for a setting: `auto` is a GPU if there is one.

    Raises
    ------
    OnepixError
        If PyTorch does not find the wanted GPU.
    """
    count = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if wanted != "cpu" and int(wanted.partition(":")[2] or 0) >= count:
        raise OnepixError(f"engine.device: {wanted}, but PyTorch finds {count} GPUs; expected auto, cpu or one of them")
    return wanted


def claimed_device(wanted: str) -> str:
    """Return the torch device for a job's setting; for `auto` and `cuda`, a GPU that no other job uses.

    The claim lasts until the process ends. If all GPUs are taken, it waits. `cuda:1` and the like are not claimed.
    Parameters, return value and errors as in `choose_device`.
    """
    if wanted not in ("auto", "cuda"):
        return choose_device(wanted)
    claimed = gpus.claim()  # first, because it hides the other GPUs, and CUDA looks only once
    device = choose_device(wanted)
    if device == "cpu":
        gpus.release()  # this PyTorch cannot use it
    elif not claimed:  # there is no nvidia-smi to list them
        indices = range(torch.cuda.device_count())
        torch.cuda.set_device(gpus.claim_one([str(torch.cuda.get_device_properties(index).uuid) for index in indices]))
    return device


def choose_precision(wanted: str, device: str | torch.device) -> str:
    """Return the precision of screening for a setting: `auto` is bfloat16 where the device has instructions for it."""
    if wanted != "auto":
        return wanted
    if torch.device(device).type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        able = torch.cpu.get_capabilities()
        fast = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bfloat16" if fast else "float32"


def choose_micro_batch(wanted: int | str, device: str | torch.device, height: int, width: int) -> int:
    """Return the images per forward pass for a setting: `auto` depends on kind of device and size of images."""
    if isinstance(wanted, int):
        return wanted
    pixels, fewest, most = PIXELS_PER_PASS.get(torch.device(device).type, PIXELS_PER_PASS["cuda"])
    fitting = max(pixels // (height * width), 1)
    return min(max(1 << (fitting.bit_length() - 1), fewest), most)


def exact_batch(micro_batch: int) -> int:
    """Return the images per forward pass in float32, for a micro-batch of screening.

    A round evaluates few candidates again, and the last pass is filled up to its one size: a quarter of the micro-batch
    is less to fill, and takes 1.03 times as long per image (ResNet-20 on a CPU; an eighth: 1.1, LeNet 1.4 and 1.6).
    """
    return min(micro_batch, max(micro_batch // 4, FEWEST_EXACT))


def halving(evaluate: Callable[[int], T], size: int, name: str) -> tuple[T, int]:
    """Call with a micro-batch; if memory runs out, halve the micro-batch and begin again.

    Parameters
    ----------
    evaluate : callable
        Takes the number of images per forward pass.
    size : int
        The first number to try.
    name : str
        Of the network, in messages.

    Returns
    -------
    result : object
        What `evaluate` returned. All of it was made with the same micro-batch, so its rounding is that of one shape.
    size : int
        The number that fitted.

    Raises
    ------
    OnepixError
        If there is not enough memory for one image.
    """
    while True:
        try:
            return evaluate(size), size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                raise OnepixError(f"network {name}: out of memory, even with one image per forward pass") from None
        size //= 2
        torch.cuda.empty_cache()
        warnings.warn(f"network {name}: out of memory; continuing with micro-batches of {size}", stacklevel=2)
