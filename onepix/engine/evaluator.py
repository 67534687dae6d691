"""Evaluates images and pixel changes: fast for screening, and in float32 where the result counts."""

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from onepix.config.engine import Engine
from onepix.engine.devices import choose_micro_batch, choose_precision, exact_batch, halving
from onepix.engine.rewriting import rewrite
from onepix.engine.tracing import trace
from onepix.engine.windows import CleanMaps, WindowedNetwork
from onepix.errors import OnepixError
from onepix.networks.classifier import Classifier
from onepix.networks.gate import logits_in, out_of_memory
from onepix.pixels import Perturbation

CLEAN_BATCH = 8  # clean images per pass; their feature maps are kept as long as they are screened
FOLDING_ERROR = 1e-3  # of the largest logit: a folded network that differs by more is not the same network


def exact_float32() -> contextlib.AbstractContextManager[None]:
    """Forbid cuDNN to round float32 to TF32 (its default) and to add in varying order."""
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


@torch.inference_mode()
def logits(classifier: Classifier, images: Tensor, micro_batch: int) -> Tensor:
    """Classify images in float32.

    Every forward pass has the same shape (the last one is filled up): libraries choose their algorithm, and with it
    the rounding, by shape. So the logits of an image do not depend on the other images.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    images : Tensor
        uint8, shape (N, H, W, C), on the classifier's device.
    micro_batch : int
        Images per forward pass.

    Returns
    -------
    Tensor
        float32, shape (N, classes).
    """
    with exact_float32():
        outputs = [classifier(filled(batch, micro_batch))[: len(batch)] for batch in torch.split(images, micro_batch)]
    return joined(outputs, classifier.name)


def joined(outputs: Sequence[Tensor], name: str) -> Tensor:
    """Join the logits of several passes; OnepixError if a network gives more of them in one pass than in another."""
    widths = sorted({output.shape[1] for output in outputs})
    if len(widths) > 1:
        raise OnepixError(f"network {name} gives {widths[0]} logits in one pass and {widths[1]} in another")
    return torch.cat(list(outputs))


@torch.inference_mode()
def candidate_logits(
    classifier: Classifier, images: Tensor, owners: Tensor, candidates: Perturbation, micro_batch: int
) -> Tensor:
    """Classify candidate pixel changes in float32; several images share micro-batches.

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
        Images per forward pass.

    Returns
    -------
    Tensor
        float32, shape (N, classes).
    """
    parts = torch.split(torch.arange(len(candidates), device=images.device), micro_batch)
    outputs = [logits(classifier, candidates[part].apply(images[owners[part]]), micro_batch) for part in parts]
    return joined(outputs, classifier.name)


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

    Screening may fold batch normalisation, round to bfloat16, and recompute only what a pixel change can reach. Use its
    logits to rank candidates and to rule them out; no result may depend on them alone.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode; its device is used.
    settings : Engine
        Precision, micro-batch and the like; `device` is ignored.
    shape : tuple of int
        Height, width and channels of the images.

    Attributes
    ----------
    precision : str
        Precision of screening: `float32` or `bfloat16`. Networks in other precisions run as they are, under `float32`.
    micro_batch : int
        Candidates per forward pass when screening, `exact_batch` of it in float32. If memory runs out, it is halved for
        the rest of the evaluator's life.
    bound : float
        A screened candidate with a smaller logit margin is evaluated in float32; NaN: found for each image.
    """

    def __init__(self, classifier: Classifier, settings: Engine, shape: tuple[int, int, int]) -> None:
        self.classifier = classifier
        self.device = classifier.mean.device
        plain = classifier.dtype == torch.float32  # only these can be rounded to bfloat16 on the way
        self.precision = choose_precision(settings.precision, self.device) if plain else "float32"
        self.micro_batch = choose_micro_batch(settings.micro_batch, self.device, shape[0], shape[1])
        self.bound = math.nan if settings.bound == "auto" else settings.bound
        self._classes: int | None = None
        self._network, self.folded = _screening_network(classifier, settings.fold, shape)
        if settings.precision == "auto" and self.precision == "bfloat16" and not self._runs_in_bfloat16(shape):
            self.precision = "float32"
        height, width, channels = shape
        wanted = self.device.type == "cpu" if settings.windows == "auto" else settings.windows
        self._windowed = _windowed(self._network, (channels, height, width)) if wanted else None
        self._clean, self._indices = CleanMaps({}), dict[bytes, int]()  # of the images of the last calls

    @property
    def facts(self) -> dict[str, Any]:
        """How candidates were evaluated, as manifests record it."""
        return {
            "precision": self.precision,
            "micro_batch": self.micro_batch,
            "folded": self.folded,
            "windows": self._windowed is not None,
            "bound": "by image" if math.isnan(self.bound) else self.bound,
            "logits": self.classifier.part,
        }

    @torch.inference_mode()
    def _runs_in_bfloat16(self, shape: tuple[int, int, int]) -> bool:
        """Tell whether the network runs in lower precision: not all code outside PyTorch knows it."""
        images = _noise(shape, self.device)
        try:
            with torch.autocast(self.device.type, torch.bfloat16):
                self.classifier.logits_of(lambda: self._network(self.classifier.scaled(images)), images.shape)
        except OnepixError:
            return False
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):  # which is found again, and told, where images are classified
                raise
        return True

    def classify(self, images: Tensor) -> Tensor:
        """Classify images in float32; parameters and return value as in `logits`."""
        return self._halving(lambda size: logits(self.classifier, images, exact_batch(size)))

    def exact(self, images: Tensor, owners: Tensor, candidates: Perturbation) -> Tensor:
        """Classify candidates in float32; parameters and return value as in `candidate_logits`."""
        return self._halving(
            lambda size: candidate_logits(self.classifier, images, owners, candidates, exact_batch(size))
        )

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
            given = filled(changed, size)
            seen = self.classifier.scaled(given)
            outputs.append(self.classifier.logits_of(functools.partial(self._network, seen), given.shape)[: len(part)])
        return joined(outputs, self.classifier.name)

    def _screen_windows(self, images: Tensor, owners: Tensor, candidates: Perturbation, size: int) -> Tensor:
        assert self._windowed is not None
        clean, owners = self._clean_maps(self._windowed, images, owners)
        colours = self.classifier.scaled(candidates.values[:, None])[:, :, 0, 0]
        outputs = []
        for part in torch.split(torch.arange(len(candidates), device=self.device), size):
            whole = filled(part, size)
            rows, columns = candidates.rows[whole, 0], candidates.columns[whole, 0]
            run = functools.partial(self._windowed, clean, owners[whole], rows, columns, colours[whole])
            outputs.append(self.classifier.logits_of(run, (size, *images.shape[1:]))[: len(part)])
        return joined(outputs, self.classifier.name)

    def _clean_maps(self, windowed: WindowedNetwork, images: Tensor, owners: Tensor) -> tuple[CleanMaps, Tensor]:
        """Return clean maps, and the index in them of each candidate's image.

        The maps of the images of the last call are kept: a search screens the same images round by round. Where all
        images are known, nothing is dropped either; otherwise, the maps are those of the given images.
        """
        names = [image.tobytes() for image in images.cpu().numpy()]
        new = {name: index for index, name in enumerate(names) if name not in self._indices}
        if new:
            wanted = set(names)
            kept = {name: index for name, index in self._indices.items() if name in wanted}
            parts = [{key: maps[list(kept.values())] for key, maps in self._clean.maps.items()}] if kept else []
            for batch in torch.split(images[list(new.values())], CLEAN_BATCH):
                seen = self.classifier.scaled(filled(batch, CLEAN_BATCH))
                with self.classifier.telling(images.shape):
                    maps = windowed.clean(seen).maps
                parts.append({key: values[: len(batch)] for key, values in maps.items()})
            self._clean = CleanMaps({key: torch.cat([part[key] for part in parts]) for key in parts[0]})
            self._indices = {name: index for index, name in enumerate((*kept, *new))}
        return self._clean, torch.tensor([self._indices[name] for name in names], device=owners.device)[owners]

    def _halving(self, evaluate: Callable[[int], Tensor]) -> Tensor:
        """Call with the micro-batch, which is halved for the rest of this evaluator's life if memory runs out."""
        outputs, self.micro_batch = halving(evaluate, self.micro_batch, self.classifier.name)
        if self._classes not in (None, outputs.shape[1]):
            name = self.classifier.name
            raise OnepixError(f"network {name} gives {outputs.shape[1]} logits, before it gave {self._classes}")
        self._classes = outputs.shape[1]
        return outputs


class _Float32Linear(nn.Module):
    """The last linear layer in float32: logits in bfloat16 would be too coarse to rank candidates."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.linear(features.to(self.linear.weight.dtype))
        return logits


def _screening_network(classifier: Classifier, fold: bool, shape: tuple[int, int, int]) -> tuple[nn.Module, bool]:
    """Return a faster copy of a network, and whether its batch normalisation is folded (not always possible)."""
    network = classifier.network
    if fold:
        # torch.fx runs the network's code on placeholders, where it may raise anything.
        with contextlib.suppress(Exception, SystemExit):
            height, width, channels = shape
            folded = fuse(trace(network, (channels, height, width)), no_trace=True)
            if isinstance(folded, fx.GraphModule):
                _keep_head(folded)
                rewrite(folded, (channels, height, width))
                folded = folded.to(memory_format=torch.channels_last)
                if _agree(classifier, folded, shape):
                    return folded, True
    with contextlib.suppress(Exception):  # not every network can be copied: some hold locks, or tensors with a history
        return copy.deepcopy(network).to(memory_format=torch.channels_last), False
    return network, False


@torch.inference_mode()
def _agree(classifier: Classifier, folded: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Tell whether a folded network still answers as the network does.

    It does not where a module is called twice and normalised differently, or computes its weights at each call.
    """
    images = _noise(shape, classifier.mean.device)
    with exact_float32():
        expected = classifier(images)
        found = classifier.logits_of(lambda: folded(classifier.scaled(images)), images.shape)
    difference = (found - expected).abs().max()
    return not difference > FOLDING_ERROR * expected.abs().max()  # where logits overflow, both do


def _noise(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return two random images."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, *shape), generator=generator, dtype=torch.uint8).to(device)


def _keep_head(network: fx.GraphModule) -> None:
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    head, _ = logits_in(output.args[0], fx.Node)
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
