"""The accuracy of networks on CIFAR-10."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from onepix.datasets.cifar10 import read_cifar10
from onepix.engine.devices import choose_device
from onepix.networks.training import accuracy
from onepix.networks.weights import bundled, load_network_file


def accuracies(networks: Sequence[str], cifar10: Path) -> Iterator[tuple[str, float]]:
    """Classify CIFAR-10's 10,000 test images.

    Parameters
    ----------
    networks : sequence of str
        Names of bundled networks, or safetensors files that onepix wrote.
    cifar10 : Path
        The folder with the official binary files.

    Yields
    ------
    tuple
        Network, and the proportion of images that it classifies as labelled.

    Raises
    ------
    OnepixError
        If a network or CIFAR-10 cannot be read.
    """
    test, device = read_cifar10(cifar10, "test"), choose_device("auto")
    for name in networks:
        yield name, accuracy(load_network_file(bundled().get(name, Path(name)), device), test, device)
