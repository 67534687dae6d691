"""The images that come with onepix."""

import importlib.resources

from onepix.datasets.arrays import load_arrays
from onepix.images import ImageSet

BUNDLED = "cifar10_test_0-99.npz"


def load_bundled() -> ImageSet:
    """Return the first 100 CIFAR-10 test images, which come with onepix: ids 0–99, shape (100, 32, 32, 3)."""
    asset = importlib.resources.files("onepix") / "assets" / BUNDLED
    with importlib.resources.as_file(asset) as path:
        return load_arrays(path)
