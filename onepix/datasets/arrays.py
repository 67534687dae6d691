"""Sets of images as NumPy archives (.npz)."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onepix.datasets.class_names import numbered
from onepix.errors import OnepixError
from onepix.files.atomic import replacing
from onepix.files.manifests import checked_data
from onepix.images import ImageSet

# What NumPy raises on a damaged archive: a header cut short, a wrong checksum, an absurd size.
UNREADABLE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError)

REQUIRED = ("images", "labels")
OPTIONAL = ("ids", "class_names", "provenance", "names")
NEEDED = "the arrays 'images' and 'labels'"

Arrays = dict[str, npt.NDArray[Any]]


def read_images(manifest: Path) -> ImageSet:
    """Read a fetched dataset, given its manifest; errors as in `checked_data`."""
    return load_arrays(checked_data(manifest))


def load_arrays(path: Path, class_names: Sequence[str] | None = None) -> ImageSet:
    """Read a set of images from an .npz file.

    Parameters
    ----------
    path : Path
        Holds `images`, uint8, shape (N, H, W, C), or (N, H, W) for one channel, and `labels`, integers,
        shape (N,). It may hold `ids`, integers, shape (N,); `class_names`, text, shape (classes,);
        `provenance`, text; and `names`, text, shape (N,).
    class_names : sequence of str, optional
        Default: the file's own; if it has none, the labels as numbers.

    Returns
    -------
    ImageSet
        If the file has no ids, they are 0 … N − 1; if it has no provenance, this is the path.

    Raises
    ------
    OnepixError
        If the file is missing or damaged, lacks an array, or an array has the wrong type, shape or values.
    """
    arrays = _read(path)
    images = arrays["images"]
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.shape[:1] == (0,):
        raise OnepixError(f"{path}: images are empty, got shape {images.shape}")
    labels = _integers(arrays["labels"], "labels", path)
    try:
        return ImageSet(
            images=np.ascontiguousarray(images),
            labels=labels,
            ids=_integers(arrays["ids"], "ids", path) if "ids" in arrays else np.arange(labels.size),
            class_names=_names(arrays, labels, path) if class_names is None else tuple(class_names),
            provenance=str(arrays["provenance"]) if "provenance" in arrays else str(path),
            names=_text(arrays["names"], "names, one per image,", path) if "names" in arrays else (),
        )
    except OnepixError as error:
        raise OnepixError(f"{path}: {error}") from None


def save_arrays(images: ImageSet, path: Path) -> None:
    """Write a set of images, whole or not at all; `load_arrays(path)` gives it back.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    optional: dict[str, Any] = {"names": np.array(images.names)} if images.names else {}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            images=images.images,
            labels=images.labels,
            ids=images.ids,
            class_names=np.array(images.class_names),
            provenance=np.array(images.provenance),
            **optional,
        )


def _read(path: Path) -> Arrays:
    """Read the arrays that belong to a set of images, and ignore the rest of the file."""
    try:
        with path.open("rb") as file:  # if NumPy opens a damaged file itself, it leaves it open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise OnepixError(f"{path}: one bare array; expected an .npz file with {NEEDED}")
            absent = [name for name in REQUIRED if name not in archive.files]
            if absent:
                found = ", ".join(archive.files) or "nothing"
                raise OnepixError(f"{path}: no array '{absent[0]}'; expected {NEEDED}, found {found}")
            return {name: _member(archive, name, path) for name in REQUIRED + OPTIONAL if name in archive.files}
    except OSError as error:
        raise OnepixError(f"{path}: {error.strerror or error}; expected an .npz file with {NEEDED}") from error
    except UNREADABLE as error:
        raise OnepixError(f"{path}: not a whole .npz file: {_one_line(error)}") from error


def _member(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> npt.NDArray[Any]:
    try:
        array = archive[name]
    except UNREADABLE as error:
        raise OnepixError(f"{path}: array '{name}' cannot be read: {_one_line(error)}") from error
    if not isinstance(array, np.ndarray):  # NumPy returns what it does not recognise as bytes
        raise OnepixError(f"{path}: '{name}' is not an array")
    return array


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _integers(values: npt.NDArray[Any], name: str, path: Path) -> npt.NDArray[np.int64]:
    if not np.issubdtype(values.dtype, np.integer):
        raise OnepixError(f"{path}: {name} must be integers, got {values.dtype}")
    return values.astype(np.int64)


def _names(arrays: Arrays, labels: npt.NDArray[np.int64], path: Path) -> tuple[str, ...]:
    if "class_names" not in arrays:
        return numbered(labels.ravel().tolist(), str(path))
    return _text(arrays["class_names"], "class_names, one per class,", path)


def _text(values: npt.NDArray[Any], name: str, path: Path) -> tuple[str, ...]:
    if values.dtype.kind != "U" or values.ndim != 1:
        raise OnepixError(f"{path}: {name} must be a list of text, got {values.dtype} of shape {values.shape}")
    return tuple(str(value) for value in values)
