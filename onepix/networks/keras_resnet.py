"""The pre-activation residual networks of Hyperparticle's one-pixel-attack-keras, as Keras computes them."""

import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-3  # Keras's, of batch normalisation


class SamePadding(nn.Module):
    """Pad for a 3 × 3 convolution of stride 2 by TensorFlow's rule for `same`.

    One row is always added at the end, and one at the beginning if the height is odd; the same for columns. PyTorch's
    symmetric padding would shift maps of even size by one pixel.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Pad maps (N, C, H, W) to (N, C, H + 1 + H mod 2, W + 1 + W mod 2)."""
        return F.pad(maps, (maps.shape[3] % 2, 1, maps.shape[2] % 2, 1))


class PreactivationBlock(nn.Module):
    """Batch normalisation, ReLU and 3 × 3 convolution, twice; the shortcut starts from the block's input.

    Where the number of channels changes, the shortcut is a 1 × 1 convolution of stride 2.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in, EPSILON)
        self.relu1 = nn.ReLU()
        self.pad = SamePadding() if stride == 2 else nn.Identity()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=0 if stride == 2 else 1)
        self.bn2 = nn.BatchNorm2d(channels_out, EPSILON)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride) if stride == 2 else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Map feature maps (N, C, H, W) to (N, C', H / stride, W / stride), rounded up."""
        residual = self.conv1(self.pad(self.relu1(self.bn1(maps))))
        residual = self.conv2(self.relu2(self.bn2(residual)))
        out: Tensor = residual + self.shortcut(maps)
        return out


class KerasResNet(nn.Module):
    """A pre-activation CIFAR ResNet of depth 6n + 2 with 16, 32 and 64 channels and biases in its convolutions.

    Parameters
    ----------
    depth : int
        32 for the published weights, or any other 6n + 2.
    classes, channels : int
        Numbers of classes and of image channels.

    Raises
    ------
    ValueError
        If `depth` is not 6n + 2 with n ≥ 1.

    Notes
    -----
    He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks" (2016), as in
    github.com/Hyperparticle/one-pixel-attack-keras, networks/resnet.py. The final softmax is left out: the output is
    logits.
    """

    def __init__(self, depth: int, classes: int = 10, channels: int = 3) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, 32, …), got {depth}")
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.bn = nn.BatchNorm2d(64, EPSILON)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Map scaled images (N, C, H, W) to logits (N, classes)."""
        maps = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        logits: Tensor = self.linear(self.avgpool(self.relu(self.bn(maps))).flatten(1))
        return logits


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreactivationBlock(channels_in, channels_out, stride)
    rest = (PreactivationBlock(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
