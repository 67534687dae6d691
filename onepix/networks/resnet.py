"""The residual networks for CIFAR of He et al. (2015), section 4.2."""

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions and an identity shortcut (option A: subsample, pad channels with zeros)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = channels_out - channels_in
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()

    def shortcut(self, maps: Tensor) -> Tensor:
        """Return the block's input, subsampled and padded to the block's output shape."""
        if self.stride == 1 and self.new_channels == 0:
            return maps
        before = self.new_channels // 2
        subsampled = maps[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, before, self.new_channels - before))

    def forward(self, maps: Tensor) -> Tensor:
        """Map feature maps (N, C, H, W) to (N, C', H / stride, W / stride)."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(maps)))))
        out: Tensor = self.relu2(residual + self.shortcut(maps))
        return out


class CifarResNet(nn.Module):
    """A CIFAR ResNet of depth 6n + 2 with 16, 32 and 64 channels.

    Parameters
    ----------
    depth : int
        20, 32, 44, 56, 110, or any other 6n + 2.
    classes, channels : int
        Numbers of classes and of image channels.

    Raises
    ------
    ValueError
        If `depth` is not 6n + 2 with n ≥ 1.

    Notes
    -----
    He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2015), section 4.2.
    """

    def __init__(self, depth: int, classes: int = 10, channels: int = 3) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, 32, …), got {depth}")
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Map scaled images (N, C, H, W) to logits (N, classes)."""
        maps = self.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(self.avgpool(maps).flatten(1))
        return logits


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = ResidualBlock(channels_in, channels_out, stride)
    rest = (ResidualBlock(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
