"""Propagation maps: how a pixel change travels through the layers of a network."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onepix.engine import exact_float32
from onepix.layers import EXTRA, feature_maps, watching
from onepix.models.classifier import Classifier
from onepix.progress import progress_bar
from onepix.receptive_field import ReceptiveField

SLIGHT = 0.01  # share of the clean peak above which a position counts for `reach_1pct`


@dataclasses.dataclass(frozen=True)
class LayerMaps:
    """What N pixel changes do to one layer's feature maps FM; maps of layers without space are 1 × 1.

    Attributes
    ----------
    name : str
        Dotted; the second call of a module is `name#2`, tokens without a place in the image are `name@extra`.
    operator : str
        As of `onepix.layers.operator_of`.
    shape : tuple of int
        Of one image's output.
    maximum, mean : Tensor
        float32, shape (N, y, x): over channels of |FM(x) − FM(x')|.
    clean_peak : Tensor
        float32, shape (N,): max |FM(x)|.
    clean_energy, delta_energy : Tensor
        float32, shape (N,): sum over channels and positions of FM(x)², and of (FM(x) − FM(x'))².
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    maximum: Tensor
    mean: Tensor
    clean_peak: Tensor
    clean_energy: Tensor
    delta_energy: Tensor

    @property
    def spatial(self) -> bool:
        """Whether positions of this layer have a place in the image."""
        return self.maximum.shape[1:] != (1, 1) and not self.name.endswith(EXTRA)


BY_IMAGE = ("maximum", "mean", "clean_peak", "clean_energy", "delta_energy")


@torch.inference_mode()
def propagation_maps(
    classifier: Classifier,
    clean: Tensor,
    attacked: Tensor,
    layers: Literal["auto"] | Sequence[str] = "auto",
    micro_batch: int = 64,
    description: str = "propagate",
) -> list[LayerMaps]:
    """Follow pixel changes through every layer, reducing each feature map inside its hook.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    clean, attacked : Tensor
        uint8, shape (N, H, W, C), on the classifier's device: images before and after.
    layers : "auto" or sequence of str
        Glob patterns of the layer names wanted, or "auto": see `onepix.layers.watching`.
    micro_batch : int
        Images a forward pass, clean and attacked together; of fixed shape, so that maps do not depend on company.

    Returns
    -------
    list of LayerMaps
        In the order in which the layers run. A layer whose output's first axis is not the images is left out.

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
    whole: list[LayerMaps] = []
    with progress_bar(len(clean), description, "image") as bar:
        for start in range(0, max(len(clean), 1), pairs):  # without images too, the layers are wanted
            before, after = clean[start : start + pairs], attacked[start : start + pairs]
            blank = clean.new_zeros(pairs - len(before), *clean.shape[1:])
            parts = _followed(classifier, torch.cat([before, blank, after, blank]), len(before), layers)
            whole = whole or [_empty(part, len(clean)) for part in parts]
            for layer, part in zip(whole, parts, strict=True):
                for name in BY_IMAGE:
                    getattr(layer, name)[start : start + pairs] = getattr(part, name)
            bar.update(len(before))
    return whole


def _followed(
    classifier: Classifier, batch: Tensor, images: int, layers: Literal["auto"] | Sequence[str]
) -> list[LayerMaps]:
    """Return reduced maps of a batch whose first half is clean and whose second half is attacked."""
    recorded: list[LayerMaps] = []
    size = (batch.shape[1], batch.shape[2])

    def see(name: str, operator: str, output: Tensor) -> None:
        if len(output) != len(batch):
            return
        for suffix, maps in feature_maps(operator, output, size).items():
            recorded.append(_reduced(name + suffix, operator, tuple(output.shape[1:]), maps, images))

    with exact_float32(), watching(classifier.network, layers, see):
        classifier(batch)
    return recorded


def _reduced(name: str, operator: str, shape: tuple[int, ...], maps: Tensor, images: int) -> LayerMaps:
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
    )


def _empty(part: LayerMaps, images: int) -> LayerMaps:
    """Return maps like those of a part, to be filled for all images: joining parts would take twice the memory."""
    blank: dict[str, Any] = {name: torch.empty(images, *getattr(part, name).shape[1:]) for name in BY_IMAGE}
    return dataclasses.replace(part, **blank)


def measures(
    maps: LayerMaps,
    field: ReceptiveField | None,
    image: tuple[int, int],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
) -> dict[str, npt.NDArray[np.float32]]:
    """Measure by image how far pixel changes have come in one layer.

    Parameters
    ----------
    maps : LayerMaps
        Of N images.
    field : ReceptiveField or None
        The layer's theoretical receptive field; None where a position may see the whole image.
    image : tuple of int
        Height and width of the images.
    rows, columns : ndarray
        int64, shape (N, P): the changed pixels.

    Returns
    -------
    dict of str to ndarray
        float32, shape (N,) each. clean_peak, clean_energy, delta_energy as in `LayerMaps`; delta_peak,
        max |FM(x) − FM(x')|; reach, the share of positions changed at all, and reach_1pct, by more than 1 % of the
        clean peak; distance, in pixels of the image, of the change's centre of mass (weights: mean |change| over
        channels) from the changed pixels' centre, and spread, the root-mean-square distance of the change from its
        centre of mass (both NaN in layers without space, and without change); outside_cone, how many positions have
        changed that the pixels' theoretical forward cone does not hold: 0, but for the rounding of algorithms that
        transform tiles.
    """
    maximum, weights = maps.maximum.numpy(), maps.mean.numpy().astype(np.float64)
    changed = maximum > 0
    peak = maps.clean_peak.numpy()
    weights = weights if maps.spatial else np.zeros_like(weights)
    distance, spread = _centre_and_spread(weights, *_grid_centres(weights.shape[1:], field, image), rows, columns)
    found = {
        **{name: getattr(maps, name).numpy() for name in BY_IMAGE[2:]},
        "delta_peak": maximum.max((1, 2)),
        "reach": changed.mean((1, 2)),
        "reach_1pct": (maximum > SLIGHT * peak[:, None, None]).mean((1, 2)),
        "distance": distance,
        "spread": spread,
        "outside_cone": (changed & ~_cones(field, changed.shape[1:], rows, columns)).sum((1, 2)),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def _grid_centres(
    shape: tuple[int, ...], field: ReceptiveField | None, image: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return where in the image a layer's rows and columns lie: the centres of their fields, or evenly spaced."""
    if field is None:
        first = [extent / n / 2 - 0.5 for n, extent in zip(shape, image, strict=True)]
        jump = [extent / n for n, extent in zip(shape, image, strict=True)]
    else:
        first = [start + (size - 1) / 2 for size, start in zip(field.size, field.start, strict=True)]
        jump = [float(step) for step in field.jump]
    y, x = (first[axis] + jump[axis] * np.arange(shape[axis], dtype=np.float64) for axis in (0, 1))
    return y, x


def _centre_and_spread(
    weights: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    total = weights.sum((1, 2))
    total = np.where(total > 0, total, np.nan)
    by_row, by_column = weights.sum(2) / total[:, None], weights.sum(1) / total[:, None]
    centre_y, centre_x = by_row @ y, by_column @ x
    variance = (by_row * (y - centre_y[:, None]) ** 2).sum(1) + (by_column * (x - centre_x[:, None]) ** 2).sum(1)
    return np.hypot(centre_y - rows.mean(1), centre_x - columns.mean(1)), np.sqrt(variance)


def _cones(
    field: ReceptiveField | None,
    shape: tuple[int, ...],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Return which of a layer's positions see one of the pixels, (N, y, x); all where fields are not known."""
    if field is None:
        return np.ones((len(rows), *shape), dtype=bool)
    seen: list[npt.NDArray[np.bool_]] = []
    for n, size, jump, start, pixels in zip(shape, field.size, field.jump, field.start, (rows, columns), strict=True):
        first = start + jump * np.arange(n)
        seen.append((first <= pixels[..., None]) & (pixels[..., None] < first + size))
    cones: npt.NDArray[np.bool_] = np.any(seen[0][..., :, None] & seen[1][..., None, :], axis=1)
    return cones
