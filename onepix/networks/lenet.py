"""LeNet-5 with ReLU and max-pooling, as used in one-pixel attack studies."""

from torch import Tensor, nn


class LeNet(nn.Module):
    """LeNet-5 for 32 × 32 images: conv 6@5×5, pool, conv 16@5×5, pool, 120, 84, classes.

    Other kernels make the same network with smaller or larger receptive fields.

    Parameters
    ----------
    classes : int
        Number of classes; 10 gives 62,006 parameters with three channels.
    channels : int
        Number of image channels.
    kernel : int
        Height and width of the kernels of both convolutions.

    Raises
    ------
    ValueError
        If the kernel is too large for the image.

    Notes
    -----
    LeCun et al., "Gradient-based learning applied to document recognition" (1998), with the ReLU
    and max-pooling that later studies use instead of the scaled tanh and trainable subsampling.
    """

    def __init__(self, classes: int = 10, channels: int = 3, kernel: int = 5) -> None:
        side = ((32 - kernel + 1) // 2 - kernel + 1) // 2
        if kernel < 1 or side < 1:
            raise ValueError(f"a LeNet for 32 × 32 images has kernels of 1 to 10, got {kernel}")
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, kernel)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, kernel)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map scaled images (N, C, 32, 32) to logits (N, classes)."""
        maps = self.pool1(self.relu1(self.conv1(images)))
        maps = self.pool2(self.relu2(self.conv2(maps)))
        hidden = self.relu3(self.fc1(maps.flatten(1)))
        logits: Tensor = self.fc3(self.relu4(self.fc2(hidden)))
        return logits
