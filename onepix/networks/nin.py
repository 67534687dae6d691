"""Network in Network, as attacked by Su et al. (2017)."""

from collections import OrderedDict

from torch import nn


class NetworkInNetwork(nn.Sequential):
    """Network in Network for CIFAR: three convolutions, each followed by two of 1 × 1, and no linear layer.

    Maps scaled images (N, C, H, W) to logits (N, classes). Three channels and ten classes give 966,986 parameters.

    Parameters
    ----------
    classes, channels : int
        Numbers of classes and of image channels.

    Notes
    -----
    Su, Vargas and Sakurai, "One pixel attack for fooling deep neural networks" (2017), table 2, after Lin, Chen and
    Yan, "Network In Network" (2014). These also have a ReLU after the last convolution. It is left out: with it,
    training can get stuck where all logits are zero. Pools of 3 × 3 and stride 2 round up, as the authors'
    framework (Caffe) does: 32, 16, 8.
    """

    def __init__(self, classes: int = 10, channels: int = 3) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        # For each group: kernel of the first convolution, and output channels of all three.
        groups = ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192, classes)))
        pools = (nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, ceil_mode=True), nn.AdaptiveAvgPool2d(1))
        for group, ((first, widths), pool) in enumerate(zip(groups, pools, strict=True)):
            for part, (kernel, width) in enumerate(zip((first, 1, 1), widths, strict=True)):
                number = 3 * group + part + 1
                layers[f"conv{number}"] = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
                if number < 9:
                    layers[f"relu{number}"] = nn.ReLU()
                channels = width
            layers[f"pool{group + 1}"] = pool
            if group < 2:
                layers[f"drop{group + 1}"] = nn.Dropout(0.5)
        layers["flatten"] = nn.Flatten()
        super().__init__(layers)
