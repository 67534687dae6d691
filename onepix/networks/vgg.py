"""VGG-16 for CIFAR, with batch normalisation."""

from collections import OrderedDict

from torch import Tensor, nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # output channels


class VGG16(nn.Module):
    """VGG-16 for 32 × 32 images: 13 convolutions of 3 × 3 in five stages, and two linear layers, 512 and classes.

    Parameters
    ----------
    classes : int
        Number of classes; 10 gives 14,987,722 parameters with three channels.
    channels : int
        Number of image channels.

    Notes
    -----
    Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015),
    configuration D, as Liu and Deng, "Very Deep Convolutional Neural Network Based Image Classification Using Small
    Training Sample Size" (2015), adapt it to CIFAR, and as Li et al., "Pruning Filters for Efficient ConvNets" (2017),
    use it: batch normalisation after every layer except the last, and no dropout.
    """

    def __init__(self, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, widths in enumerate(STAGES, start=1):
            for number, width in enumerate(widths, start=1):
                layers[f"conv{stage}_{number}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                layers[f"bn{stage}_{number}"] = nn.BatchNorm2d(width)
                layers[f"relu{stage}_{number}"] = nn.ReLU()
                channels = width
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        self.features = nn.Sequential(layers)
        self.fc1 = nn.Linear(512, 512)
        self.bn = nn.BatchNorm1d(512)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map scaled images (N, C, 32, 32) to logits (N, classes)."""
        hidden = self.relu(self.bn(self.fc1(self.features(images).flatten(1))))
        logits: Tensor = self.fc2(hidden)
        return logits
