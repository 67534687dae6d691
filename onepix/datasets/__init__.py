"""Where images come from."""

import importlib.resources
from pathlib import Path

from onepix.config import ArraysDataset, BundledDataset, Cifar10Dataset, DatasetSettings
from onepix.datasets.arrays import load_arrays
from onepix.errors import OnepixError
from onepix.images import ImageSet

BUNDLED = "cifar10_test_0-99.npz"


def load_bundled() -> ImageSet:
    """Return the first 100 CIFAR-10 test images, which come with onepix: ids 0–99, shape (100, 32, 32, 3)."""
    asset = importlib.resources.files("onepix") / "assets" / BUNDLED
    with importlib.resources.as_file(asset) as path:
        return load_arrays(path)


def load_dataset(settings: DatasetSettings, cifar10_folder: Path | None = None) -> ImageSet:
    """Load the images that the configuration asks for.

    Parameters
    ----------
    settings : DatasetSettings
        One entry of the configuration's datasets.
    cifar10_folder : Path, optional
        What `fetch_cifar10` made; only CIFAR-10 needs it.

    Returns
    -------
    ImageSet
        All of the set's images.

    Raises
    ------
    OnepixError
        If the images are missing or not as they should be.
    """
    match settings:
        case BundledDataset():
            return load_bundled()
        case ArraysDataset():
            return load_arrays(Path(settings.path), settings.class_names)
        case Cifar10Dataset():
            from onepix.datasets.cifar10 import read_cifar10

            if cifar10_folder is None:
                raise OnepixError("dataset cifar10: no folder is named; expected one made by fetch_cifar10")
            return read_cifar10(cifar10_folder, settings.split)
