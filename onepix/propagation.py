"""Propagation maps: how a pixel change travels through the layers of a network."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules import activation, conv, pooling

from onepix.config import nearest
from onepix.engine import exact_float32
from onepix.errors import OnepixError
from onepix.models.classifier import Classifier
from onepix.progress import progress_bar

# PyTorch's activations have no base class in common; the module that defines them is what tells them apart.
OPERATORS = {conv.__name__: "convolution", activation.__name__: "activation", pooling.__name__: "pooling"}


@dataclasses.dataclass(frozen=True)
class LayerMaps:
    """What N pixel changes do to one layer's feature maps FM; maps of layers without space are 1 × 1.

    Attributes
    ----------
    name : str
        Dotted; the second call of a module is `name#2`.
    operator : str
        convolution, activation, pooling, linear or block.
    shape : tuple of int
        Of one image's output.
    maximum, mean : Tensor
        float32, shape (N, y, x): over channels of |FM(x) − FM(x')|.
    clean_peak, delta_peak : Tensor
        float32, shape (N,): max |FM(x)| and max |FM(x) − FM(x')|.
    reach : Tensor
        float32, shape (N,): share of positions whose maximum is not zero.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    maximum: Tensor
    mean: Tensor
    clean_peak: Tensor
    delta_peak: Tensor
    reach: Tensor


@torch.inference_mode()
def propagation_maps(
    classifier: Classifier,
    clean: Tensor,
    attacked: Tensor,
    layers: Sequence[str] = ("*",),
    micro_batch: int = 64,
    description: str = "propagate",
) -> list[LayerMaps]:
    """Follow pixel changes through every layer, reducing each feature map inside its hook.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode. Its convolutions, activations, pooling and linear layers are followed, and
        blocks whose output is none of these (normalisation is not followed).
    clean, attacked : Tensor
        uint8, shape (N, H, W, C), on the classifier's device: images before and after.
    layers : sequence of str
        Glob patterns of the layer names wanted.
    micro_batch : int
        Images a forward pass, clean and attacked together; of fixed shape, so that maps do not depend on company.

    Returns
    -------
    list of LayerMaps
        In the order in which the layers run.

    Raises
    ------
    OnepixError
        If a pattern fits no layer.

    Notes
    -----
    Vargas and Su, "Understanding the One-Pixel Attack: Propagation Maps and Locality Analysis" (2019):
    PM_max and PM_avg.
    """
    pairs = max(micro_batch // 2, 1)
    parts: list[list[LayerMaps]] = []
    with progress_bar(len(clean), description, "image") as bar:
        for start in range(0, max(len(clean), 1), pairs):  # without images too, the layers are wanted
            before, after = clean[start : start + pairs], attacked[start : start + pairs]
            blank = clean.new_zeros(pairs - len(before), *clean.shape[1:])
            with exact_float32(), _recording(classifier.network, len(before)) as recorded:
                classifier(torch.cat([before, blank, after, blank]))
            parts.append(_wanted(recorded, layers))
            bar.update(len(before))
    return [_joined(same_layer) for same_layer in zip(*parts, strict=True)]


def operator_of(module: nn.Module) -> str | None:
    """Return a module's kind of layer; `block` for a module with children; None for one that is not followed."""
    if isinstance(module, nn.Linear):
        return "linear"
    for base in type(module).__mro__:
        if base.__module__ in OPERATORS:
            return OPERATORS[base.__module__]
    container = isinstance(module, nn.Sequential | nn.ModuleList)
    return "block" if any(module.children()) and not container else None


@contextmanager
def _recording(network: nn.Module, images: int) -> Iterator[list[LayerMaps]]:
    """Collect reduced maps of a batch whose first half is clean and whose second half is attacked."""
    recorded: list[LayerMaps] = []
    calls: Counter[str] = Counter()
    latest: list[Tensor] = []

    def watch(name: str, operator: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim < 2:
                return
            if operator == "block" and latest and output is latest[0]:
                return  # the block's last layer has given this very tensor already
            calls[name] += 1
            entry = name if calls[name] == 1 else f"{name}#{calls[name]}"
            recorded.append(_reduced(entry, operator, output, images))
            latest[:] = [output]

        return network.get_submodule(name).register_forward_hook(hook)

    watched = [(name, operator_of(module)) for name, module in network.named_modules() if name]
    handles = [watch(name, operator) for name, operator in watched if operator]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _reduced(name: str, operator: str, output: Tensor, images: int) -> LayerMaps:
    half = len(output) // 2
    clean, attacked = output[:images].float(), output[half : half + images].float()
    shape = tuple(clean.shape[1:])
    if clean.ndim != 4:
        clean, attacked = (t.flatten(1)[:, :, None, None] for t in (clean, attacked))
    change = (clean - attacked).abs()
    maximum = change.amax(1)
    return LayerMaps(
        name=name,
        operator=operator,
        shape=shape,
        maximum=maximum.cpu(),
        mean=change.mean(1).cpu(),
        clean_peak=clean.abs().amax((1, 2, 3)).cpu(),
        delta_peak=maximum.amax((1, 2)).cpu(),
        reach=(maximum > 0).float().mean((1, 2)).cpu(),
    )


def _wanted(recorded: list[LayerMaps], patterns: Sequence[str]) -> list[LayerMaps]:
    names = [layer.name for layer in recorded]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise OnepixError(
                f"propagation.layers: '{pattern}' fits no layer of the network; {nearest(pattern, names)}"
            )
    return [layer for layer in recorded if any(fnmatchcase(layer.name, pattern) for pattern in patterns)]


def _joined(parts: Sequence[LayerMaps]) -> LayerMaps:
    def join(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return dataclasses.replace(
        parts[0],
        maximum=join("maximum"),
        mean=join("mean"),
        clean_peak=join("clean_peak"),
        delta_peak=join("delta_peak"),
        reach=join("reach"),
    )
