"""Sets of 8-bit images with labels."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from onepix.errors import OnepixError


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images, their labels, and their index in the original set.

    Attributes
    ----------
    images : ndarray
        uint8, shape (image, y, x, channel).
    labels : ndarray
        int64, shape (image,).
    ids : ndarray
        int64, shape (image,): the image's index in the original set; each occurs once.
    class_names : tuple of str
        Indexed by label.
    provenance : str
        Where the images come from.
    names : tuple of str
        One name per image, such as its file; empty if they have none.
    notes : tuple of str
        What the user should know about how they were read, such as files that were left out.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    provenance: str
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.images.dtype == np.uint8, f"images must be uint8, got {self.images.dtype}")
        _require(self.images.ndim == 4, f"images must have the shape (image, y, x, channel), got {self.images.shape}")
        _require(min(self.images.shape[1:]) > 0, f"images must have pixels, got shape {self.images.shape}")
        count = len(self.images)
        for name, values in (("labels", self.labels), ("ids", self.ids)):
            _require(
                values.shape == (count,), f"{name} must have the shape ({count},), one per image, got {values.shape}"
            )
        _require(len(np.unique(self.ids)) == count, "ids must be unique")
        _require(len(self.names) in (0, count), f"names must be {count}, one per image, or none, got {len(self.names)}")
        outside = (self.labels < 0) | (self.labels >= len(self.class_names))
        if outside.any():
            worst = int(self.labels[outside][0])
            _require(False, f"labels must lie in 0–{len(self.class_names) - 1} (one per class name), got {worst}")

    def select(self, ids: Sequence[int]) -> "ImageSet":
        """Return the images with these ids, each once, in this order; errors as in `indices`."""
        index = self.indices(ids)
        return dataclasses.replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            ids=self.ids[index],
            names=tuple(self.names[position] for position in index) if self.names else (),
        )

    def indices(self, ids: Iterable[int]) -> npt.NDArray[np.int64]:
        """Return the positions in this set of the images with these ids.

        Raises
        ------
        OnepixError
            If an id is not in the set.
        """
        ids = list(ids)
        position = {int(image_id): index for index, image_id in enumerate(self.ids)}
        missing = [image_id for image_id in ids if image_id not in position]
        if missing:
            raise OnepixError(
                f"image ids: {missing[0]} is not in the set, which holds {len(self.ids)} images "
                f"with ids {self.ids.min()}–{self.ids.max()}"
            )
        return np.array([position[image_id] for image_id in ids], dtype=np.int64)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise OnepixError(f"image set: {message}")
