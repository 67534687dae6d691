"""A network with its input scaling: uint8 images in, logits out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onepix.errors import OnepixError


class Classifier(nn.Module):
    """Wrap a network so that it takes 8-bit images; the input is scaled here and nowhere else.

    Parameters
    ----------
    network : nn.Module
        Maps scaled float images (N, C, H, W) to logits (N, classes).
    mean, std : sequence of float, or float
        Per channel, in units of the full 8-bit range: the network sees (image / 255 − mean) / std. One number is
        used for all channels, however many there are.

    Attributes
    ----------
    scaling : dict
        `mean` and `std` as given.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float] | float = 0.0, std: Sequence[float] | float = 1.0
    ) -> None:
        super().__init__()
        self.network = network
        self.training = network.training
        self.scaling = {
            name: tuple(value) if isinstance(value, Sequence) else value
            for name, value in (("mean", mean), ("std", std))
        }
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Parameters
        ----------
        images : Tensor
            uint8, shape (N, H, W, C).

        Returns
        -------
        Tensor
            Logits, shape (N, classes).

        Raises
        ------
        TypeError
            If `images` are not uint8.
        OnepixError
            If the number of channels differs from that of the scaling.
        """
        logits: Tensor = self.network(self.scaled(images))
        return logits

    def scaled(self, images: Tensor) -> Tensor:
        """Return what the network sees of 8-bit images: float32, shape (N, C, H, W); errors as in `forward`."""
        if images.dtype != torch.uint8:
            raise TypeError(f"a Classifier takes uint8 images (N, H, W, C), got {images.dtype}")
        channels = {len(given) for given in self.scaling.values() if isinstance(given, tuple)}
        if channels - {images.shape[3]}:  # one channel would silently be broadcast to three
            raise OnepixError(f"the network takes images of {len(self.mean)} channels, got {images.shape[3]}")
        # NHWC viewed as NCHW is the channels-last memory format, in which convolutions are faster.
        return (images.permute(0, 3, 1, 2) / 255 - self.mean) / self.std
