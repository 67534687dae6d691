"""Architectures by name."""

import importlib
import re
import sys
from pathlib import Path

from torch import nn

from onepix.errors import OnepixError
from onepix.models.lenet import LeNet
from onepix.models.resnet import CifarResNet

LENET = re.compile(r"lenet(?:-k(\d+))?")
RESNET = re.compile(r"resnet(\d+)")
FACTORY = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def build(architecture: str, classes: int = 10, channels: int = 3) -> nn.Module:
    """Return a network with fresh weights.

    Parameters
    ----------
    architecture : str
        `lenet`, `lenet-kK` for kernels of K × K in place of 5 × 5, `resnetN` for any N = 6n + 2, or
        `package.module:factory`, a callable without arguments that is imported from the working folder or the Python
        path.
    classes, channels : int
        Numbers of classes and of image channels; a factory sets its own.

    Raises
    ------
    OnepixError
        If the name is unknown, or the factory cannot be imported, raises, or returns no nn.Module.
    """
    try:
        if match := LENET.fullmatch(architecture):
            return LeNet(classes, channels, int(match[1] or 5))
        if match := RESNET.fullmatch(architecture):
            return CifarResNet(int(match[1]), classes, channels)
    except ValueError as error:
        raise OnepixError(f"network architecture '{architecture}': {error}") from None
    if match := FACTORY.fullmatch(architecture):
        return _from_factory(match[1], match[2])
    raise OnepixError(
        f"network architecture '{architecture}' is unknown; expected lenet, lenet-k3 (or another kernel), "
        "resnet20 (or another depth 6n + 2) or package.module:factory"
    )


def _from_factory(module: str, name: str) -> nn.Module:
    where = f"network architecture '{module}:{name}'"
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        network = getattr(importlib.import_module(module), name)()
    except Exception as error:  # the user's code may raise anything, and the user needs to know what and where
        raise OnepixError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise OnepixError(f"{where}: returned {type(network).__name__}, expected a torch.nn.Module")
    return network
