"""Loads the images of an entry of the configuration, from any kind of source."""

import dataclasses
from pathlib import Path

from onepix.config.datasets import (
    ArraysDataset,
    BundledDataset,
    Cifar10Dataset,
    DatasetSettings,
    FolderDataset,
    TorchvisionDataset,
)
from onepix.datasets.arrays import load_arrays
from onepix.datasets.bundled import load_bundled
from onepix.datasets.class_names import resolve
from onepix.errors import OnepixError
from onepix.files.located import located
from onepix.images import ImageSet


def load_dataset(
    settings: DatasetSettings, cifar10_folder: Path | None = None, downloads: Path | None = None
) -> ImageSet:
    """Load the images of an entry of the configuration.

    Parameters
    ----------
    settings : DatasetSettings
        One entry of the configuration's datasets.
    cifar10_folder : Path, optional
        What `fetch_cifar10` made; only `source: cifar10` needs it.
    downloads : Path, optional
        Receives what torchvision downloads; only `source: torchvision:NAME` without a root needs it.

    Returns
    -------
    ImageSet
        All of the set's images.

    Raises
    ------
    OnepixError
        If the images are missing or not as they should be.
    """
    try:
        images = _load(settings, cifar10_folder, downloads)
    except OnepixError as error:
        if str(error).isprintable():
            raise
        raise OnepixError(_in_line(str(error))) from None
    return dataclasses.replace(images, notes=tuple(map(_in_line, images.notes)))


def _in_line(said: str) -> str:
    """Return text that quotes a user's files as one line that cannot control a terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in said)


def _load(settings: DatasetSettings, cifar10_folder: Path | None, downloads: Path | None) -> ImageSet:
    match settings:
        case BundledDataset():
            return load_bundled()
        case ArraysDataset():
            return load_arrays(located(settings.path), resolve(settings.class_names), settings.split)
        case Cifar10Dataset():
            from onepix.datasets.cifar10 import read_cifar10

            if cifar10_folder is None:
                raise OnepixError("dataset cifar10: no folder is given; expected one made by fetch_cifar10")
            return read_cifar10(cifar10_folder, settings.split)
        case FolderDataset():
            from onepix.datasets.folder import load_folder

            return load_folder(settings)
        case TorchvisionDataset():
            from onepix.datasets.from_torchvision import load_torchvision

            return load_torchvision(settings, downloads)
