"""Two images, and whether two sets are the same."""

from typing import Any

import numpy as np

from onepix.images import ImageSet

# --- Arrays


def image_set(**changes: Any) -> ImageSet:
    """Return two images, 2 × 3, of one channel."""
    values: dict[str, Any] = {
        "images": np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1),
        "labels": np.array([1, 0]),
        "ids": np.array([40, 7]),
        "class_names": ("cat", "dog"),
        "provenance": "drawn by hand",
    }
    return ImageSet(**{**values, **changes})


def assert_same(first: ImageSet, second: ImageSet) -> None:
    for name in ("images", "labels", "ids"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), strict=True)
    assert (first.class_names, first.provenance) == (second.class_names, second.provenance)
