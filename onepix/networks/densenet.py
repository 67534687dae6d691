"""The densely connected networks for CIFAR of Huang et al. (2017), with bottlenecks and compression."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """A 1 × 1 and a 3 × 3 convolution, each after batch normalisation and ReLU; its maps are appended to the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map feature maps (N, C, H, W) to (N, C + growth, H, W)."""
        new = self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(maps))))))
        return torch.cat([maps, new], dim=1)


class DenseNet(nn.Module):
    """DenseNet-BC for CIFAR: three dense blocks, and between them convolutions that halve channels, height and width.

    Parameters
    ----------
    depth : int
        100, 190, 250, or any other 6n + 4.
    growth : int
        Channels that each layer of a block adds (k).
    classes, channels : int
        Numbers of classes and of image channels.

    Raises
    ------
    ValueError
        If `depth` is not 6n + 4 with n ≥ 1, or `growth` is less than 1.

    Notes
    -----
    Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks" (2017), section 3: bottlenecks
    of 4k channels, compression 0.5, a first convolution of 2k channels, no dropout. Millions of parameters, table 2:
    BC-100-12 has 0.8, BC-250-24 15.3, BC-190-40 25.6.
    """

    def __init__(self, depth: int, growth: int, classes: int = 10, channels: int = 3) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"a DenseNet-BC has depth 6n + 4 (10, 16, 22, …, 100, …), got {depth}")
        if growth < 1:
            raise ValueError(f"a DenseNet-BC has a growth of at least 1, got {growth}")
        super().__init__()
        layers = (depth - 4) // 6
        width = 2 * growth
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.block1, width = _block(width, growth, layers)
        self.transition1, width = _transition(width)
        self.block2, width = _block(width, growth, layers)
        self.transition2, width = _transition(width)
        self.block3, width = _block(width, growth, layers)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map scaled images (N, C, H, W) to logits (N, classes)."""
        maps = self.transition1(self.block1(self.conv1(images)))
        maps = self.block3(self.transition2(self.block2(maps)))
        logits: Tensor = self.linear(self.avgpool(self.relu(self.bn(maps))).flatten(1))
        return logits


def _block(channels: int, growth: int, layers: int) -> tuple[nn.Sequential, int]:
    """Return a dense block and the number of its output channels."""
    return (
        nn.Sequential(*(DenseLayer(channels + index * growth, growth) for index in range(layers))),
        channels + layers * growth,
    )


def _transition(channels: int) -> tuple[nn.Sequential, int]:
    """Return the layers after a dense block, and the number of their output channels."""
    layers = OrderedDict[str, nn.Module](
        bn=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
        conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
        pool=nn.AvgPool2d(2),
    )
    return nn.Sequential(layers), channels // 2
