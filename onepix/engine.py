"""Evaluates images and pixel changes: fast for screening, and in float32 for whatever counts."""

import contextlib
import copy
import ctypes
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from onepix import gpus
from onepix.config import Engine
from onepix.errors import OnepixError
from onepix.models.classifier import Classifier
from onepix.pixels import Perturbation
from onepix.windows import CleanMaps, WindowedNetwork

# glibc's mallopt parameters, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Pixels a forward pass, and the fewest and most images, for `micro_batch: auto`: CPUs are fastest where the feature
# maps of a pass stay near their caches, GPUs where all their cores have work.
PIXELS_A_PASS = {"cpu": (1 << 17, 8, 128), "cuda": (1 << 22, 32, 4096)}
CLEAN_BATCH = 8  # clean images a pass; all their feature maps are kept for a round


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
    """Return the torch device for a setting: `auto` is a GPU if there is one.

    Raises
    ------
    OnepixError
        If a GPU is wanted that PyTorch does not find.
    """
    count = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if wanted != "cpu" and int(wanted.partition(":")[2] or 0) >= count:
        raise OnepixError(f"engine.device: {wanted}, but PyTorch finds {count} GPUs; expected auto, cpu or one of them")
    return wanted


def claimed_device(wanted: str) -> str:
    """Return the torch device for a job's setting; for `auto` and `cuda`, a GPU that no other job has meanwhile.

    It is the job's until its process ends. If all are taken, it waits for one. `cuda:1` and the like are not claimed.
    Parameters, return value and errors as in `choose_device`.
    """
    if wanted not in ("auto", "cuda"):
        return choose_device(wanted)
    claimed = gpus.claim()  # first: it hides the other GPUs, which CUDA takes note of only once
    device = choose_device(wanted)
    if device == "cpu":
        gpus.release()  # this PyTorch cannot use it
    elif not claimed:  # there is no nvidia-smi that names them
        places = range(torch.cuda.device_count())
        torch.cuda.set_device(gpus.claim_one([str(torch.cuda.get_device_properties(place).uuid) for place in places]))
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
    """Return the images a forward pass for a setting: `auto` goes by the kind of device and the size of the images."""
    if isinstance(wanted, int):
        return wanted
    pixels, fewest, most = PIXELS_A_PASS.get(torch.device(device).type, PIXELS_A_PASS["cuda"])
    fitting = max(pixels // (height * width), 1)
    return min(max(1 << (fitting.bit_length() - 1), fewest), most)


def exact_float32() -> contextlib.AbstractContextManager[None]:
    """Let cuDNN neither round float32 to TF32, as it does by default, nor add up in an order of the moment."""
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


@torch.inference_mode()
def logits(classifier: Classifier, images: Tensor, micro_batch: int) -> Tensor:
    """Classify images in float32.

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
        outputs = [classifier(filled(batch, micro_batch))[: len(batch)] for batch in torch.split(images, micro_batch)]
    return torch.cat(outputs)


@torch.inference_mode()
def candidate_logits(
    classifier: Classifier, images: Tensor, owners: Tensor, candidates: Perturbation, micro_batch: int
) -> Tensor:
    """Classify candidate pixel changes in float32, those of several images sharing micro-batches.

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
    parts = torch.split(torch.arange(len(candidates), device=images.device), micro_batch)
    return torch.cat([logits(classifier, candidates[part].apply(images[owners[part]]), micro_batch) for part in parts])


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


def filled(batch: Tensor, size: int) -> Tensor:
    """Return a batch of `size` rows, filled up by repeating its last row."""
    missing = size - len(batch)
    return batch if missing == 0 else torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])])


class Evaluator:
    """Evaluates candidates of many images together: `screen` is fast, `exact` is float32 on the network as given.

    Screening may fold batch normalisation, round to bfloat16, and recompute only what a pixel change can reach. Its
    logits serve to rank candidates and to rule them out; no result may rest on them alone.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode; its device is used.
    settings : Engine
        Precision, micro-batch and the like. `device` is not looked at.
    shape : tuple of int
        Height, width and channels of the images.

    Attributes
    ----------
    precision : str
        Of screening: `float32` or `bfloat16`.
    micro_batch : int
        Candidates a forward pass. Out of GPU memory it is halved, for this evaluator's life.
    bound : float
        Logit margin below which a candidate screened is evaluated in float32; NaN: to be found for each image.
    """

    def __init__(self, classifier: Classifier, settings: Engine, shape: tuple[int, int, int]) -> None:
        self.classifier = classifier
        self.device = classifier.mean.device
        self.precision = choose_precision(settings.precision, self.device)
        self.micro_batch = choose_micro_batch(settings.micro_batch, self.device, shape[0], shape[1])
        self.bound = math.nan if settings.bound == "auto" else settings.bound
        self._network, self.folded = _screening_network(classifier.network, settings.fold)
        height, width, channels = shape
        wanted = self.device.type == "cpu" if settings.windows == "auto" else settings.windows
        self._windowed = _windowed(self._network, (channels, height, width)) if wanted else None

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of how candidates were evaluated."""
        return {
            "precision": self.precision,
            "micro_batch": self.micro_batch,
            "folded": self.folded,
            "windows": self._windowed is not None,
            "bound": "by image" if math.isnan(self.bound) else self.bound,
        }

    def classify(self, images: Tensor) -> Tensor:
        """Classify images in float32; parameters and return value as in `logits`."""
        return self._halving(lambda size: logits(self.classifier, images, size))

    def exact(self, images: Tensor, owners: Tensor, candidates: Perturbation) -> Tensor:
        """Classify candidates in float32; parameters and return value as in `candidate_logits`."""
        return self._halving(lambda size: candidate_logits(self.classifier, images, owners, candidates, size))

    @torch.inference_mode()
    def screen(self, images: Tensor, owners: Tensor, candidates: Perturbation) -> Tensor:
        """Classify candidates fast; parameters and return value as in `candidate_logits`."""
        one_pixel = candidates.rows.shape[1] == 1
        evaluate = self._screen_windows if self._windowed is not None and one_pixel else self._screen_whole
        lower = self.precision == "bfloat16"
        with exact_float32(), torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            return self._halving(lambda size: evaluate(images, owners, candidates, size)).float()

    def _screen_whole(self, images: Tensor, owners: Tensor, candidates: Perturbation, size: int) -> Tensor:
        outputs = []
        for part in torch.split(torch.arange(len(candidates), device=self.device), size):
            changed = candidates[part].apply(images[owners[part]])
            outputs.append(self._network(self.classifier.scaled(filled(changed, size)))[: len(part)])
        return torch.cat(outputs)

    def _screen_windows(self, images: Tensor, owners: Tensor, candidates: Perturbation, size: int) -> Tensor:
        assert self._windowed is not None
        batches = [self.classifier.scaled(filled(batch, CLEAN_BATCH)) for batch in torch.split(images, CLEAN_BATCH)]
        parts = [self._windowed.clean(batch).maps for batch in batches]
        clean = CleanMaps({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        colours = self.classifier.scaled(candidates.values[:, None])[:, :, 0, 0]
        outputs = []
        for part in torch.split(torch.arange(len(candidates), device=self.device), size):
            whole = filled(part, size)
            rows, columns = candidates.rows[whole, 0], candidates.columns[whole, 0]
            outputs.append(self._windowed(clean, owners[whole], rows, columns, colours[whole])[: len(part)])
        return torch.cat(outputs)

    def _halving(self, evaluate: Callable[[int], Tensor]) -> Tensor:
        """Call with the micro-batch; out of GPU memory, halve it and go on."""
        while True:
            try:
                return evaluate(self.micro_batch)
            except torch.OutOfMemoryError:
                if self.micro_batch == 1:
                    raise OnepixError("out of GPU memory with a single image a forward pass") from None
            self.micro_batch //= 2
            torch.cuda.empty_cache()
            warnings.warn(f"out of GPU memory: going on with micro-batches of {self.micro_batch}", stacklevel=2)


class _Float32Linear(nn.Module):
    """The last linear layer in float32: logits of bfloat16 would be too coarse to rank candidates by."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.linear(features.float())
        return logits


def _screening_network(network: nn.Module, fold: bool) -> tuple[nn.Module, bool]:
    """Return a faster copy of a network, and whether its batch normalisation is folded; some networks cannot be."""
    if fold:
        # torch.fx raises whatever the network's own code does when it is run on stand-ins for tensors.
        with contextlib.suppress(Exception):
            folded = fuse(network)
            if isinstance(folded, fx.GraphModule):
                _keep_head(folded)
                return folded.to(memory_format=torch.channels_last), True
    return copy.deepcopy(network).to(memory_format=torch.channels_last), False


def _keep_head(network: fx.GraphModule) -> None:
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    head = output.args[0]
    if isinstance(head, fx.Node) and head.op == "call_module":
        linear = network.get_submodule(str(head.target))
        if isinstance(linear, nn.Linear):
            network.set_submodule(str(head.target), _Float32Linear(linear))


def _windowed(network: nn.Module, shape: tuple[int, int, int]) -> WindowedNetwork | None:
    """Return the network's windowed form, if it can be traced and has layers where windows pay."""
    with contextlib.suppress(OnepixError):
        windowed = WindowedNetwork(network, shape)
        if windowed.worthwhile:
            return windowed
    return None
