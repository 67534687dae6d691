"""The wide residual networks of Zagoruyko and Komodakis (2016)."""

from torch import Tensor, nn


class WideBlock(nn.Module):
    """Batch normalisation, ReLU and a 3 × 3 convolution, twice, and a shortcut: pre-activation.

    The shortcut is the block's input; where the number of channels changes, it is a 1 × 1 convolution of the output of
    the first ReLU.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        same = channels_in == channels_out
        self.shortcut = None if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map feature maps (N, C, H, W) to (N, C', H / stride, W / stride)."""
        activated = self.relu1(self.bn1(maps))
        residual: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return residual + (maps if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """WRN-depth-width for CIFAR: three stages of 16, 32 and 64 channels times the width.

    Parameters
    ----------
    depth : int
        28, 16, 40, or any other 6n + 4.
    width : int
        Factor by which it has more channels than a CIFAR ResNet.
    classes, channels : int
        Numbers of classes and of image channels.

    Raises
    ------
    ValueError
        If `depth` is not 6n + 4 with n ≥ 1, or `width` is less than 1.

    Notes
    -----
    Zagoruyko and Komodakis, "Wide Residual Networks" (2016), table 1 and section 3: blocks B(3, 3) without dropout.
    Millions of parameters, table 4: 40-2 has 2.2, 40-4 8.9, 16-8 11.0, 28-10 36.5.
    """

    def __init__(self, depth: int, width: int, classes: int = 10, channels: int = 3) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"a wide ResNet has depth 6n + 4 (10, 16, 22, 28, …), got {depth}")
        if width < 1:
            raise ValueError(f"a wide ResNet has a width of at least 1, got {width}")
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16 * width, blocks, stride=1)
        self.layer2 = _stage(16 * width, 32 * width, blocks, stride=2)
        self.layer3 = _stage(32 * width, 64 * width, blocks, stride=2)
        self.bn = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map scaled images (N, C, H, W) to logits (N, classes)."""
        maps = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        logits: Tensor = self.linear(self.avgpool(self.relu(self.bn(maps))).flatten(1))
        return logits


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = WideBlock(channels_in, channels_out, stride)
    rest = (WideBlock(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
