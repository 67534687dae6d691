"""A network with its input scaling: uint8 images in, logits out."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from onepix.errors import OnepixError
from onepix.networks.gate import checked_logits, logits_in, refuse_uninitialised, telling

# Means and standard deviations of pictures that are stated in units of 0–1 lie within these bounds.
MEANS, LARGEST_STD = (-1.0, 2.0), 10.0

Numbers = Sequence[float] | float | npt.NDArray[Any] | Tensor


class Classifier(nn.Module):
    """Wrap a network so that it takes 8-bit images; the input is scaled here and nowhere else.

    Parameters
    ----------
    network : nn.Module
        Maps scaled images (N, C, H, W) to logits (N, classes): as a tensor, as `.logits` or `["logits"]` of its output,
        or as the first of a tuple. The images have the dtype of its weights, and are on their device.
    mean, std : sequence of float, array, tensor, or float
        Per channel, in units of the full 8-bit range: the network sees (image / 255 − mean) / std. One number is
        used for all channels, however many there are.
    name : str, optional
        Of the network, in messages; default: the name of its class.

    Attributes
    ----------
    scaling : dict
        `mean` and `std` as given: a float, or a tuple of floats.
    name : str
        As given.
    part : str
        Which part of the network's output was taken as its logits when it last ran; empty before.

    Raises
    ------
    OnepixError
        If mean and std are not numbers, differ in length, or are in units of 0–255; if `network` is not a module, or
        has lazy layers without weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Numbers = 0.0, std: Numbers = 1.0, name: str | None = None) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise OnepixError(f"expected a torch.nn.Module, got {type(network).__name__}")
        self.name = name or type(network).__name__
        refuse_uninitialised(network, self.name)
        self.network = network
        self.training = network.training
        self.part = ""
        self.scaling = _scaling(mean, std, self.name)
        device = next((tensor.device for tensor in _tensors(network)), None)
        for key, value in self.scaling.items():
            numbers = torch.tensor(value, dtype=torch.float32, device=device).reshape(-1, 1, 1)
            self.register_buffer(key, numbers, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Parameters
        ----------
        images : Tensor
            uint8, shape (N, H, W, C).

        Returns
        -------
        Tensor
            Logits, float32, shape (N, classes).

        Raises
        ------
        TypeError
            If `images` are not uint8.
        OnepixError
            If the number of channels differs from that of the scaling; if the network raises anything, or does not
            return logits.
        """
        seen = self.scaled(images)
        return self.logits_of(lambda: self.network(seen), images.shape)

    def logits_of(self, run: Callable[[], Any], images: Sequence[int]) -> Tensor:
        """Run the network, or another form of it, on images of this shape (N, H, W, C); see `forward`."""
        with self.telling(images):
            output = run()
        logits, self.part = logits_in(output)
        return checked_logits(logits, output, images[0], self.name)

    def follow(self, seen: Tensor) -> None:
        """Run the network on scaled images for the sake of its layers; its output need not be logits."""
        count, channels, height, width = seen.shape
        with self.telling((count, height, width, channels)):
            self.network(seen)

    def telling(self, images: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Return a context in which what the network raises is told, with the shape (N, H, W, C) of its images."""
        shape = "×".join(map(str, images[1:]))
        return telling(f"network {self.name} cannot take images of {shape} (height, width, channels)")

    def scaled(self, images: Tensor) -> Tensor:
        """Return what the network sees of 8-bit images: shape (N, C, H, W), in its dtype; errors as in `forward`."""
        if images.dtype != torch.uint8:
            raise TypeError(f"a Classifier takes uint8 images (N, H, W, C), got {images.dtype}")
        channels = {len(given) for given in self.scaling.values() if isinstance(given, tuple)}
        if channels - {images.shape[3]}:  # one channel would silently be broadcast to three
            raise OnepixError(f"network {self.name} takes images of {len(self.mean)} channels, got {images.shape[3]}")
        # NHWC viewed as NCHW is the channels-last memory format, in which convolutions are faster.
        return ((images.permute(0, 3, 1, 2) / 255 - self.mean) / self.std).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's first weights of floating point; float32 if it has none."""
        floats = (tensor.dtype for tensor in self.network.parameters() if tensor.is_floating_point())
        return next(floats, torch.float32)

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode, as of any module; OnepixError if the network's own `train` raises."""
        with telling(f"network {self.name}: its {'train' if mode else 'eval'}() failed"):
            super().train(mode)
        return self


def _tensors(network: nn.Module) -> itertools.chain[Tensor]:
    return itertools.chain(network.parameters(), network.buffers())


def _scaling(mean: Numbers, std: Numbers, name: str) -> dict[str, float | tuple[float, ...]]:
    """Return mean and std as Python numbers, which JSON can hold."""
    scaling = {key: _numbers(value, f"network {name}: {key}") for key, value in (("mean", mean), ("std", std))}
    lengths = {len(value) for value in scaling.values() if isinstance(value, tuple)}
    if len(lengths) > 1:
        counts = " and ".join(f"{key} has {len(value)}" for key, value in scaling.items() if isinstance(value, tuple))
        raise OnepixError(f"network {name}: {counts} numbers, expected as many, one for each channel")
    means, stds = (np.atleast_1d(scaling[key]) for key in ("mean", "std"))
    if stds.min() <= 0:
        raise OnepixError(f"network {name}: std must be positive, got {_written(stds)}")
    if means.min() < MEANS[0] or means.max() > MEANS[1] or stds.max() > LARGEST_STD:
        raise OnepixError(_units(means, stds, name))
    return scaling


def _numbers(value: Numbers, what: str) -> float | tuple[float, ...]:
    try:
        numbers = np.asarray(value.detach().cpu().double() if isinstance(value, Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError):
        raise OnepixError(f"{what}: expected a number, or one for each channel, got {value!r}") from None
    along = [extent for extent in numbers.shape if extent != 1]
    if len(along) > 1 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise OnepixError(f"{what}: expected a number, or one for each channel, got {numbers.tolist()}")
    return float(numbers) if numbers.ndim == 0 else tuple(numbers.flatten().tolist())


def _units(means: npt.NDArray[np.float64], stds: npt.NDArray[np.float64], name: str) -> str:
    """Say that a scaling is in units of 0–255, and which numbers to write instead."""
    mean = means / 255 if means.min() < MEANS[0] or means.max() > MEANS[1] else means
    std = stds / 255 if stds.min() >= 1 else stds
    return (
        f"network {name}: mean {_written(means)} and std {_written(stds)} are in units of 0–255; onepix divides "
        f"images by 255 first: write mean {_written(mean)} and std {_written(std)}"
    )


def _written(numbers: npt.NDArray[np.float64]) -> str:
    return f"[{', '.join(f'{number:.4g}' for number in numbers)}]"
