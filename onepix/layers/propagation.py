"""Propagation maps: how a pixel change travels through the layers of a network."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from onepix.engine.devices import halving
from onepix.engine.evaluator import exact_float32
from onepix.errors import OnepixError
from onepix.layers.plan import Plan, plan
from onepix.layers.watching import EXTRA, feature_maps, watching
from onepix.networks.classifier import Classifier
from onepix.networks.gate import refuse_script
from onepix.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class LayerMaps:
    """The effect of N pixel changes on one layer's feature maps FM; maps of layers without space are 1 × 1.

    Attributes
    ----------
    name : str
        As in `onepix.layers.steps.Steps`; tokens without a position in the image are `name@extra`.
    operator : str
        As in `onepix.layers.plan.Step`.
    shape : tuple of int
        Shape of one image's output.
    maximum, mean : Tensor
        float32, shape (N, y, x): maximum and mean over channels of |FM(x) − FM(x')|.
    clean_peak : Tensor
        float32, shape (N,): max |FM(x)|.
    clean_energy, delta_energy : Tensor
        float32, shape (N,): sum over channels and positions of FM(x)², and of (FM(x) − FM(x'))².
    extra : bool
        Whether these are tokens without a position in the image.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    maximum: Tensor
    mean: Tensor
    clean_peak: Tensor
    clean_energy: Tensor
    delta_energy: Tensor
    extra: bool = False

    @property
    def spatial(self) -> bool:
        """Whether positions of this layer correspond to positions in the image."""
        return self.maximum.shape[1:] != (1, 1) and not self.extra


BY_IMAGE = ("maximum", "mean", "clean_peak", "clean_energy", "delta_energy")


@torch.inference_mode()
def propagation_maps(
    classifier: Classifier,
    clean: Tensor,
    attacked: Tensor,
    layers: Literal["auto"] | Sequence[str] = "auto",
    micro_batch: int = 64,
    description: str = "propagation",
    planned: Plan | None = None,
) -> list[LayerMaps]:
    """Follow pixel changes through every layer; each feature map is reduced at once, to save memory.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    clean, attacked : Tensor
        uint8, shape (N, H, W, C), on the classifier's device: images before and after.
    layers : "auto" or sequence of str
        Glob patterns of the layer names wanted, or "auto": see `onepix.layers.plan.plan`.
    micro_batch : int
        Images per forward pass, clean and attacked together; its shape is fixed, so that no image influences another.
        If memory runs out, it is halved, and all images are followed again.
    planned : Plan, optional
        The plan of this network, for images of this shape and these layers; default: it is made.

    Returns
    -------
    list of LayerMaps
        In the order in which the layers run. Left out are layers whose output has no axis of images, and layers that do
        not run for all images.

    Raises
    ------
    OnepixError
        If a pattern fits no layer, the network cannot run on such images, or none of its layers can be followed.

    Notes
    -----
    Vargas and Su, "Understanding the One-Pixel Attack: Propagation Maps and Locality Analysis" (2019):
    PM_max and PM_avg.
    """
    refuse_script(classifier.network, classifier.name)
    found = planned or plan(classifier.network, (clean.shape[3], *clean.shape[1:3]), layers)
    maps, _ = halving(
        lambda size: _maps(classifier, clean, attacked, layers, size, description, found), micro_batch, classifier.name
    )
    if not maps:
        raise OnepixError(f"network {classifier.name}: none of its layers can be followed")
    return maps


def _maps(
    classifier: Classifier,
    clean: Tensor,
    attacked: Tensor,
    layers: Literal["auto"] | Sequence[str],
    micro_batch: int,
    description: str,
    planned: Plan,
) -> list[LayerMaps]:
    """Follow pixel changes in batches of one size; parameters and return value as in `propagation_maps`."""
    pairs = max(micro_batch // 2, 1)
    whole: dict[str, LayerMaps] = {}
    with progress_bar(len(clean), description, "image") as bar:
        for start in range(0, max(len(clean), 1), pairs):  # without images, too, the layers are needed
            before, after = clean[start : start + pairs], attacked[start : start + pairs]
            blank = clean.new_zeros(pairs - len(before), *clean.shape[1:])
            parts = _followed(classifier, torch.cat([before, blank, after, blank]), len(before), layers, planned)
            if not start:
                whole = {name: _empty(part, len(clean)) for name, part in parts.items()}
            whole = {name: layer for name, layer in whole.items() if name in parts}
            for name, layer in whole.items():
                for values in BY_IMAGE:
                    getattr(layer, values)[start : start + pairs] = getattr(parts[name], values)
            bar.update(len(before))
    return list(whole.values())


def _followed(
    classifier: Classifier, batch: Tensor, images: int, layers: Literal["auto"] | Sequence[str], planned: Plan
) -> dict[str, LayerMaps]:
    """Return reduced maps of a batch whose first half is clean and whose second half is attacked."""
    recorded: dict[str, LayerMaps] = {}
    steps = {step.name: step for step in planned.followed.values()}

    def see(name: str, operator: str, output: Tensor) -> None:
        for suffix, maps in feature_maps(output, steps[name].grid).items():
            entry = planned.with_suffix(name, suffix)
            recorded[entry] = _reduced(entry, operator, tuple(output.shape[1:]), maps, images, suffix == EXTRA)

    with exact_float32(), watching(classifier.network, layers, see, planned):
        classifier.follow(classifier.scaled(batch))
    return recorded


def _reduced(name: str, operator: str, shape: tuple[int, ...], maps: Tensor, images: int, extra: bool) -> LayerMaps:
    half = len(maps) // 2
    clean, attacked = maps[:images].float(), maps[half : half + images].float()
    change = (clean - attacked).abs_()
    every = (1, 2, 3)
    return LayerMaps(
        name=name,
        operator=operator,
        shape=shape,
        maximum=change.amax(1).cpu(),
        mean=change.mean(1).cpu(),
        clean_peak=clean.abs().amax(every).cpu(),
        clean_energy=torch.linalg.vector_norm(clean, 2, every).square().cpu(),
        delta_energy=torch.linalg.vector_norm(change, 2, every).square().cpu(),
        extra=extra,
    )


def _empty(part: LayerMaps, images: int) -> LayerMaps:
    """Return maps like those of a part, to be filled for all images: joining the parts would need twice the memory."""
    blank: dict[str, Any] = {name: torch.empty(images, *getattr(part, name).shape[1:]) for name in BY_IMAGE}
    return dataclasses.replace(part, **blank)
