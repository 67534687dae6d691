"""EfficientNet-Lite0 as the package efficientnet-lite-pytorch builds it, for `config/imagenet.yaml`."""

from torch import nn

from onepix.errors import OnepixError


def lite0() -> nn.Module:
    """Return EfficientNet-Lite0 for 224 × 224 images and 1000 classes, with fresh weights.

    Raises
    ------
    OnepixError
        If the package efficientnet-lite-pytorch is not installed.

    Notes
    -----
    Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019); the Lite variants
    leave out squeeze-and-excitation and use ReLU6 instead of swish.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise OnepixError("the package efficientnet-lite-pytorch is missing; install it with pip") from None
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return network
