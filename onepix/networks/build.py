"""Architectures by name."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from onepix.config.networks import TORCHVISION, factory_of
from onepix.errors import OnepixError
from onepix.names import nearest
from onepix.networks.allconv import AllConvolutional
from onepix.networks.densenet import DenseNet
from onepix.networks.factories import run_factory
from onepix.networks.keras_resnet import KerasResNet
from onepix.networks.lenet import LeNet
from onepix.networks.nin import NetworkInNetwork
from onepix.networks.resnet import CifarResNet
from onepix.networks.vgg import VGG16
from onepix.networks.vit import vit_lite
from onepix.networks.wide_resnet import WideResNet

# By family: the pattern of its names, and what builds a member from the numbers in the name, classes and channels.
FAMILIES: dict[str, tuple[re.Pattern[str], Callable[..., nn.Module]]] = {
    "lenet": (re.compile(r"lenet(?:-k(?P<kernel>\d+))?"), LeNet),
    "resnet": (re.compile(r"resnet(?P<depth>\d+)"), CifarResNet),
    "keras-resnet": (re.compile(r"keras-resnet(?P<depth>\d+)"), KerasResNet),
    "nin": (re.compile(r"nin"), NetworkInNetwork),
    "allconv": (re.compile(r"allconv"), AllConvolutional),
    "vgg": (re.compile(r"vgg16"), VGG16),
    "wrn": (re.compile(r"wrn-(?P<depth>\d+)-(?P<width>\d+)"), WideResNet),
    "densenet": (re.compile(r"densenet-bc-(?P<depth>\d+)-(?P<growth>\d+)"), DenseNet),
    "vit": (re.compile(r"vit-lite-(?P<depth>\d+)-(?P<patch>\d+)"), vit_lite),
}
DEFAULT_CHANNELS = 3
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
KINDS = (
    "lenet, lenet-k3 (or another kernel), resnet20 or keras-resnet32 (or another depth 6n + 2), nin, allconv, vgg16, "
    "wrn-28-10 (or another depth 6n + 4, any width), densenet-bc-100-12 (or another depth 6n + 4, any growth), "
    "vit-lite-7-4 (or another depth and patch), torchvision:NAME or package.module:factory"
)


def family_of(architecture: str) -> str | None:
    """Return the key in FAMILIES of an architecture of onepix; None for torchvision's, factories and unknown names."""
    return next((family for family, (name, _) in FAMILIES.items() if name.fullmatch(architecture)), None)


def default_classes(architecture: str) -> int:
    """Return the default number of classes: that of ImageNet for torchvision's networks, else that of CIFAR-10."""
    return 1000 if architecture.startswith(TORCHVISION) else 10


def channels_of(network: nn.Module, stated: Sequence[float] | float | None) -> int:
    """Return how many channels the images of a factory's network have.

    Parameters
    ----------
    network : nn.Module
        The network.
    stated : sequence of float, or float, or None
        Its `mean`. Several numbers are one per channel; otherwise the first convolution takes the image.
    """
    if isinstance(stated, Sequence) and len(stated) > 1:
        return len(stated)
    first = next((module for module in network.modules() if isinstance(module, CONVOLUTIONS)), None)
    return DEFAULT_CHANNELS if first is None or is_lazy(first.weight) else int(first.in_channels)


def build(
    architecture: str,
    classes: int | None = None,
    channels: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a network with fresh weights.

    Parameters
    ----------
    architecture : str
        One of onepix: `lenet`, `lenet-kK` for kernels of K × K in place of 5 × 5, `resnetN` for any N = 6n + 2,
        `keras-resnetN` for the same depths (pre-activation), `nin`, `allconv`, `vgg16`, `wrn-N-W` and
        `densenet-bc-N-K` for any N = 6n + 4, `vit-lite-N-P`; or `torchvision:NAME`, a classification network of
        torchvision; or `package.module:factory`, a callable that is imported from the working folder or the Python
        path; it may belong to a class, as in `package.module:Network.small`.
    classes : int, optional
        Number of classes; default: 1000 for torchvision's networks, else 10.
    channels : int, optional
        Number of image channels; default: 3. A factory sets both itself.
    arguments : mapping, optional
        Keyword arguments of a factory.

    Raises
    ------
    OnepixError
        If the name is unknown, the architecture cannot be built with such numbers, or the factory cannot be imported,
        raises, or returns no nn.Module.
    """
    if factory := factory_of(architecture):
        return run_factory(*factory, arguments or {})
    classes, channels = classes or default_classes(architecture), channels or DEFAULT_CHANNELS
    for name, constructor in FAMILIES.values():
        if match := name.fullmatch(architecture):
            numbers = {key: int(number) for key, number in match.groupdict().items() if number is not None}
            try:
                return constructor(**numbers, classes=classes, channels=channels)
            except ValueError as error:
                raise OnepixError(f"network architecture '{architecture}': {error}") from None
    if architecture.startswith(TORCHVISION):
        return _from_torchvision(architecture.removeprefix(TORCHVISION), classes, channels)
    raise OnepixError(f"network architecture '{architecture}' is unknown; expected {KINDS}")


def _from_torchvision(name: str, classes: int, channels: int) -> nn.Module:
    import torchvision  # imported here, as it takes seconds

    where = f"network architecture '{TORCHVISION}{name}'"
    known = torchvision.models.list_models(module=torchvision.models)  # its classification networks only
    if name not in known:
        raise OnepixError(f"{where} is unknown to torchvision; {nearest(name, known)}")
    if channels != 3:
        raise OnepixError(f"{where}: torchvision's networks take images of 3 channels, got {channels}")
    # These two warn unless they are told to initialise themselves.
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    if isinstance(network, torchvision.models.GoogLeNet | torchvision.models.Inception3):
        network.aux_logits = False  # in training they would return further logits, which nothing here uses
    return network
