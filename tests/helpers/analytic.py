"""Networks whose answer is known by hand, and small sets of images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from onepix.images import ImageSet
from onepix.networks.classifier import Classifier


class PixelRule(nn.Module):
    """Two classes; class 1 where `margin(images)` is positive. Images are 0–255 again, (N, C, H, W)."""

    def __init__(self, margin: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, scaled: Tensor) -> Tensor:
        margin = self.margin((scaled * 255).round())
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


def rule(margin: Callable[[Tensor], Tensor], channels: int = 3) -> Classifier:
    """Wrap a rule on raw pixel values as a classifier."""
    return Classifier(PixelRule(margin), (0.0,) * channels, (1.0,) * channels).eval()


def blank(count: int, height: int, width: int, channels: int = 3, value: int = 0, label: int = 0) -> ImageSet:
    """Return images of one colour, of class 0 unless told otherwise."""
    images = np.full((count, height, width, channels), value, np.uint8)
    return ImageSet(images, np.full(count, label, np.int64), np.arange(count), ("zero", "one"), "made by a test")
