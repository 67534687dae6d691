"""Effective receptive fields: how strongly each pixel acts on the middle of a layer, by gradient."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from onepix.engine.devices import halving
from onepix.engine.evaluator import exact_float32
from onepix.errors import OnepixError
from onepix.layers.plan import Plan, plan
from onepix.layers.watching import feature_maps, watching
from onepix.networks.classifier import Classifier
from onepix.networks.gate import refuse_script, telling
from onepix.progress import progress_bar

THRESHOLD = 1 - 0.9545  # of the largest gradient: pixels above it count; two standard deviations
PIXELS_PER_PASS = 1 << 14  # by default: 16 images of 32 × 32, or one of 224 × 224


@dataclasses.dataclass(frozen=True)
class EffectiveField:
    """What the middle of one layer's output depends on, in pixels of the image.

    Attributes
    ----------
    name, operator : str
        As in `onepix.layers.propagation.LayerMaps`.
    gradient : Tensor
        float32, shape (H, W): root mean square of the gradient over images and their channels, in units of its largest
        value; zero everywhere if no pixel has a gradient.
    size : float
        Side in pixels of a square with the same area as the pixels where the gradient is at least 4.55 % of its largest
        value; NaN without gradient, or if it is not finite.
    spread : float
        Root-mean-square distance in pixels from the centre of mass, with the squared gradient as mass; NaN as `size`.
        A Gaussian gradient of standard deviation s along both axes has spread s and size 4.41 s.
    """

    name: str
    operator: str
    gradient: Tensor
    size: float
    spread: float


def effective_fields(
    classifier: Classifier,
    images: Tensor,
    layers: Literal["auto"] | Sequence[str] = "auto",
    seed: int = 0,
    micro_batch: int | None = None,
    description: str = "effective fields",
) -> list[EffectiveField]:
    """Find the effective receptive field of each layer, at the middle position of its feature maps.

    The channels at that position are summed with random signs, so that they do not cancel; the sum is differentiated
    with respect to the network's input. Over many images, the mean square approaches the sum over channels of squared
    gradients. For layers without space, and tokens without a position in the image, the whole output is summed.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode. It is left as it was.
    images : Tensor
        uint8, shape (N, H, W, C), on the classifier's device.
    layers : "auto" or sequence of str
        Glob patterns of the layer names wanted, or "auto": see `onepix.layers.plan.plan`.
    seed : int
        Sets the signs, together with the layer's name and the image's index; they depend neither on other layers nor on
        the micro-batch.
    micro_batch : int or None
        Images per pass, whose activations are all in memory at once; None: 16,384 pixels in all. If memory runs out,
        it is halved.
    description : str
        Names the progress bar.

    Returns
    -------
    list of EffectiveField
        In the order in which the layers run. A layer whose output has no axis of images is left out.

    Raises
    ------
    OnepixError
        If there is no image, a pattern fits no layer, or the network cannot run, forward or backward.

    Notes
    -----
    Luo, Li, Urtasun and Zemel, "Understanding the effective receptive field in deep convolutional neural networks"
    (2016). Their peak is the value at the centre, here it is the largest value. Signs: Hutchinson, "A stochastic
    estimator of the trace of the influence matrix" (1990).

    A gradient is local: it shows the effect of an infinitely small change of these images. ReLU and max-pooling pass it
    on only where they pass on the image, so a pixel without gradient may still have an effect when it changes a lot, as
    in an attack; outside the theoretical field (`onepix.layers.receptive_field`) it never has. The gradient tells
    nothing about other positions of the layer, and the border of the image cuts the field off.
    """
    if not len(images):
        raise OnepixError("effective receptive fields: no images, expected at least one")
    height, width = images.shape[1:3]
    size = max(PIXELS_PER_PASS // (height * width), 1) if micro_batch is None else micro_batch
    refuse_script(classifier.network, classifier.name)
    what = "effective receptive fields"
    planned = plan(classifier.network, (images.shape[3], height, width), layers, what).required()
    sums, _ = halving(
        lambda size: _sums(classifier, images, layers, seed, size, description, planned), size, classifier.name
    )
    return [_field(name, operator, total) for (name, operator), total in sums.items()]


def _sums(
    classifier: Classifier,
    images: Tensor,
    layers: Literal["auto"] | Sequence[str],
    seed: int,
    size: int,
    description: str,
    planned: Plan,
) -> dict[tuple[str, str], Tensor]:
    """Return what `_squared_gradients` returns, summed over batches of one size."""
    sums: dict[tuple[str, str], Tensor] = {}
    what = (
        f"effective receptive fields: network {classifier.name} has no gradient on images of (height, width, channels) "
        f"{tuple(images.shape[1:])}"
    )
    with progress_bar(len(images), description, "image") as bar:
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            with telling(what):
                squares = _squared_gradients(classifier, batch, start, layers, seed, planned)
            for layer, square in squares.items():
                sums[layer] = sums[layer] + square if layer in sums else square
            bar.update(len(batch))
    return sums


def _squared_gradients(
    classifier: Classifier,
    images: Tensor,
    first: int,
    layers: Literal["auto"] | Sequence[str],
    seed: int,
    planned: Plan,
) -> dict[tuple[str, str], Tensor]:
    """Return squared gradients by layer (name and operator), float64, (H, W): sums over images and image channels."""
    middles: dict[tuple[str, str], Tensor] = {}
    steps = {step.name: step for step in planned.followed.values()}

    def see(name: str, operator: str, output: Tensor) -> Tensor:
        for suffix, maps in feature_maps(output, steps[name].grid).items():
            middle = maps.flatten(1) if suffix else maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
            entry = planned.with_suffix(name, suffix)
            signs = _signs(seed, entry, range(first, first + len(maps)), middle.shape[1])
            middles[entry, operator] = (middle * signs.to(middle)).sum()
        return output.clone()  # A later operation in place would overwrite what this layer's gradient needs.

    with torch.inference_mode(False), torch.enable_grad(), exact_float32():
        seen = classifier.scaled(images).detach().requires_grad_()
        with watching(classifier.network, layers, see, planned):
            classifier.follow(seen.clone())  # The network may write into its input, which a leaf tensor forbids.
        return {layer: _squared_gradient(middle, seen) for layer, middle in middles.items()}


def _squared_gradient(middle: Tensor, seen: Tensor) -> Tensor:
    gradient = None
    if middle.requires_grad:
        (gradient,) = torch.autograd.grad(middle, seen, retain_graph=True, allow_unused=True)
    if gradient is None:  # The layer does not depend on the image, like a learnt token.
        return torch.zeros(seen.shape[2:], dtype=torch.float64)
    return gradient.cpu().double().square().sum((0, 1))


def _signs(seed: int, name: str, images: range, channels: int) -> Tensor:
    """Return 1 or −1 at random, shape (images, channels)."""
    key = zlib.crc32(name.encode())
    draws = [np.random.default_rng([seed, key, image]).integers(0, 2, channels) for image in images]
    return torch.from_numpy(2 * np.stack(draws) - 1)


def _field(name: str, operator: str, squares: Tensor) -> EffectiveField:
    peak = squares.max()
    gradient = (squares / peak if peak != 0 else squares).sqrt().float()
    area = int((gradient >= THRESHOLD).sum())
    return EffectiveField(
        name=name,
        operator=operator,
        gradient=gradient,
        size=area**0.5 if area else float("nan"),
        spread=_spread(squares / squares.sum()),
    )


def _spread(mass: Tensor) -> float:
    variance = torch.zeros((), dtype=mass.dtype)
    for by_position in (mass.sum(1), mass.sum(0)):
        position = torch.arange(len(by_position), dtype=mass.dtype)
        variance += by_position @ (position - by_position @ position) ** 2
    return float(variance.sqrt())
