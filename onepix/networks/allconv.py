"""The all-convolutional network, as attacked by Su et al. (2017)."""

from collections import OrderedDict

from torch import nn

# Kernel, stride, padding and output channels of each convolution but the last.
CONVOLUTIONS = (
    *((3, 1, 1, 96), (3, 1, 1, 96), (3, 2, 1, 96)),
    *((3, 1, 1, 192), (3, 1, 1, 192), (3, 2, 1, 192)),
    *((3, 1, 0, 192), (1, 1, 0, 192)),
)
DROPOUT = {3: 0.5, 6: 0.3}  # after these convolutions


class AllConvolutional(nn.Sequential):
    """All-CNN-C for CIFAR: nine convolutions, two of them with stride 2 in place of pooling, and a global average.

    Maps scaled images (N, C, H, W) to logits (N, classes). Three channels and ten classes give 1,369,738 parameters.

    Parameters
    ----------
    classes, channels : int
        Numbers of classes and of image channels.

    Notes
    -----
    Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity: The All Convolutional Net" (2015),
    tables 1 and 2, with the dropout of Su, Vargas and Sakurai, "One pixel attack for fooling deep neural networks"
    (2017), table 1. The former also have a ReLU after the last convolution. It is left out: with it, training can
    get stuck where all logits are zero.
    """

    def __init__(self, classes: int = 10, channels: int = 3) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (kernel, stride, padding, width) in enumerate((*CONVOLUTIONS, (1, 1, 0, classes)), start=1):
            layers[f"conv{number}"] = nn.Conv2d(channels, width, kernel, stride, padding)
            if number <= len(CONVOLUTIONS):
                layers[f"relu{number}"] = nn.ReLU()
            if number in DROPOUT:
                layers[f"drop{number}"] = nn.Dropout(DROPOUT[number])
            channels = width
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        super().__init__(layers)
