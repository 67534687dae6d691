"""Random draws; each image has its own random stream."""

from typing import Literal

import numpy as np
import numpy.typing as npt

PURPOSES = {"draws": 1, "permutations": 2, "controls": 3, "moves": 4}


def drawn_controls(
    flips: npt.NDArray[np.bool_], image_ids: npt.ArrayLike, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw for each image a position at which its colour does not flip the class: the matched control of its attack.

    Parameters
    ----------
    flips : ndarray
        bool, shape (N, y, x).
    image_ids : array_like
        int, shape (N,).
    seed : int
        Seed and image id together set the image's draw, whatever the other images are.

    Returns
    -------
    tuple of ndarray
        int64, shape (N,) each: rows and columns, uniform over the positions that do not flip; −1 where all do.
    """
    positions = np.full(len(flips), -1)
    for image, image_id in enumerate(np.asarray(image_ids, dtype=np.int64).tolist()):
        harmless = np.flatnonzero(~flips[image])
        if len(harmless):
            positions[image] = image_stream(seed, image_id, "controls").choice(harmless)
    rows, columns = np.divmod(positions, flips.shape[2])
    return np.where(positions < 0, -1, rows), np.where(positions < 0, -1, columns)


def drawn_positions(
    shape: tuple[int, int], rows: npt.ArrayLike, columns: npt.ArrayLike, image_ids: npt.ArrayLike, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw for each image a position other than the attacked one, uniformly.

    Parameters
    ----------
    shape : tuple of int
        Height and width of the images, of at least two positions.
    rows, columns, image_ids : array_like
        int, shape (N,): the attacked pixels and the images' ids.
    seed : int
        Seed and image id together set the image's draw.

    Returns
    -------
    tuple of ndarray
        int64, shape (N,) each: rows and columns.
    """
    height, width = shape
    attacked = np.asarray(rows, dtype=np.int64) * width + np.asarray(columns, dtype=np.int64)
    ids = np.asarray(image_ids, dtype=np.int64).tolist()
    others = [image_stream(seed, image_id, "moves").integers(height * width - 1) for image_id in ids]
    drawn = np.array(others, dtype=np.int64).reshape(len(ids))
    return np.divmod(drawn + (drawn >= attacked), width)


def image_stream(
    seed: int, image_id: int, purpose: Literal["draws", "permutations", "controls", "moves"]
) -> np.random.Generator:
    """Return an image's random stream for a purpose; it differs from the stream of the image's attack."""
    # The key of an attack has one or two words, (image id,) or (image id, target); this key has three.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(image_id, 0, PURPOSES[purpose])))
