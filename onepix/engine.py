"""Evaluates images and pixel changes in micro-batches of one fixed shape."""

import contextlib
import ctypes
import sys

import torch
from torch import Tensor

from onepix.models.classifier import Classifier
from onepix.pixels import Perturbation

# glibc's mallopt parameters, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of handing it back and asking for it anew in every forward pass.

    On a CPU it makes float32 passes faster (ResNet-20: 1.1 to 1.6 times, measured on two cores). It holds for the
    whole process, so jobs call it and library functions do not; elsewhere than on Linux with glibc it does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, 1 << 30)
            mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def choose_device(wanted: str) -> str:
    """Return the torch device for a setting: `auto` is a GPU if there is one."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def exact_float32() -> contextlib.AbstractContextManager[None]:
    """Let cuDNN neither round float32 to TF32, as it does by default, nor add up in an order of the moment."""
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


@torch.inference_mode()
def logits(classifier: Classifier, images: Tensor, micro_batch: int) -> Tensor:
    """Classify images.

    Every forward pass has the same shape (the last is filled up), because a library picks its algorithm,
    and with it the rounding, by shape: so an image's logits do not depend on its company.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    images : Tensor
        uint8, shape (N, H, W, C), on the classifier's device.
    micro_batch : int
        Images a forward pass.

    Returns
    -------
    Tensor
        float32, shape (N, classes).
    """
    with exact_float32():
        outputs = [classifier(_filled(batch, micro_batch))[: len(batch)] for batch in torch.split(images, micro_batch)]
    return torch.cat(outputs)


@torch.inference_mode()
def candidate_logits(
    classifier: Classifier, images: Tensor, owners: Tensor, candidates: Perturbation, micro_batch: int
) -> Tensor:
    """Classify candidate pixel changes, those of several images sharing micro-batches.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    images : Tensor
        uint8, shape (B, H, W, C).
    owners : Tensor
        int64, shape (N,): the image that each candidate changes.
    candidates : Perturbation
        N candidates.
    micro_batch : int
        Images a forward pass.

    Returns
    -------
    Tensor
        float32, shape (N, classes).
    """
    outputs = []
    with exact_float32():
        for start in range(0, len(candidates), micro_batch):
            part = slice(start, start + micro_batch)
            changed = candidates[part].apply(images[owners[part]])
            outputs.append(classifier(_filled(changed, micro_batch))[: len(changed)])
    return torch.cat(outputs)


def logit_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the true class's logit minus the best other one: negative where the class flips.

    Parameters
    ----------
    logits : Tensor
        Shape (N, classes).
    labels : Tensor
        int64, shape (N,).

    Returns
    -------
    Tensor
        Shape (N,).
    """
    true = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return true - others.amax(1)


def _filled(batch: Tensor, size: int) -> Tensor:
    missing = size - len(batch)
    return batch if missing == 0 else torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])])
