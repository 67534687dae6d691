"""Architectures by name."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from onepix.errors import OnepixError
from onepix.names import nearest
from onepix.networks.allconv import AllConvolutional
from onepix.networks.densenet import DenseNet
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
TORCHVISION = "torchvision:"
FACTORY = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
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


def build(architecture: str, classes: int | None = None, channels: int = 3) -> nn.Module:
    """Return a network with fresh weights.

    Parameters
    ----------
    architecture : str
        One of onepix: `lenet`, `lenet-kK` for kernels of K × K in place of 5 × 5, `resnetN` for any N = 6n + 2,
        `keras-resnetN` for the same depths (pre-activation), `nin`, `allconv`, `vgg16`, `wrn-N-W` and
        `densenet-bc-N-K` for any N = 6n + 4, `vit-lite-N-P`; or `torchvision:NAME`, a classification network of
        torchvision; or `package.module:factory`, a callable without arguments that is imported from the working
        folder or the Python path.
    classes : int, optional
        Number of classes; default: 1000 for torchvision's networks, else 10.
    channels : int
        Number of image channels. A factory sets both itself.

    Raises
    ------
    OnepixError
        If the name is unknown, the architecture cannot be built with such numbers, or the factory cannot be imported,
        raises, or returns no nn.Module.
    """
    classes = classes or default_classes(architecture)
    for name, constructor in FAMILIES.values():
        if match := name.fullmatch(architecture):
            numbers = {key: int(number) for key, number in match.groupdict().items() if number is not None}
            try:
                return constructor(**numbers, classes=classes, channels=channels)
            except ValueError as error:
                raise OnepixError(f"network architecture '{architecture}': {error}") from None
    if architecture.startswith(TORCHVISION):
        return _from_torchvision(architecture.removeprefix(TORCHVISION), classes, channels)
    if match := FACTORY.fullmatch(architecture):
        return _from_factory(match[1], match[2])
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


def _from_factory(module: str, name: str) -> nn.Module:
    where = f"network architecture '{module}:{name}'"
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        network = getattr(importlib.import_module(module), name)()
    except Exception as error:  # the user's code may raise anything, and the user must learn what and where
        raise OnepixError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise OnepixError(f"{where}: returned {type(network).__name__}, expected a torch.nn.Module")
    return network
