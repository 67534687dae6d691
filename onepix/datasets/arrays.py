"""Sets of images as NumPy archives (.npz)."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onepix.datasets.array_forms import channels_last, class_indices, eight_bit, find_pair
from onepix.datasets.class_names import with_names
from onepix.datasets.contents import kind_of
from onepix.errors import OnepixError
from onepix.files.atomic import replacing
from onepix.files.manifests import checked_data
from onepix.images import ImageSet

# What NumPy raises on a damaged archive: a header cut short, a wrong checksum, an absurd size.
UNREADABLE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError)

REQUIRED = ("images", "labels")
OPTIONAL = ("ids", "class_names", "provenance", "names", "notes")
NEEDED = "the arrays 'images' and 'labels'"

Arrays = dict[str, npt.NDArray[Any]]


def read_images(manifest: Path) -> ImageSet:
    """Read a fetched dataset, given its manifest; errors as in `checked_data`."""
    return load_arrays(checked_data(manifest))


def load_arrays(path: Path, class_names: Sequence[str] | None = None, split: str | None = None) -> ImageSet:
    """Read a set of images from an .npz file.

    Parameters
    ----------
    path : Path
        Holds `images`, uint8, shape (N, H, W, C), or (N, H, W) for one channel, and `labels`, integers,
        shape (N,). It may hold `ids`, integers, shape (N,); `class_names`, text, shape (classes,);
        `provenance`, text; `names`, text, shape (N,); and `notes`, text. Other names, axes and types are understood
        where they are clear, as `onepix.datasets.array_forms` says.
    class_names : sequence of str, optional
        Default: the file's own; if it has none, the labels as numbers.
    split : str, optional
        Of several pairs of images and labels, the one whose names hold this text.

    Returns
    -------
    ImageSet
        If the file has no ids, they are 0 … N − 1; if it has no provenance, this is the path.

    Raises
    ------
    OnepixError
        If the file is missing or damaged, lacks an array, or an array has the wrong type, shape or values.
    """
    arrays, notes = _read(path, split)
    try:
        return _image_set(arrays, notes, path, class_names)
    except OnepixError as error:
        raise OnepixError(f"{path}: {error}") from None


def _image_set(arrays: Arrays, notes: list[str], path: Path, class_names: Sequence[str] | None) -> ImageSet:
    if arrays["images"].shape[:1] == (0,):
        raise OnepixError(f"images are empty, got shape {arrays['images'].shape}")
    labels, own, of_labels = class_indices(arrays["labels"])
    images = arrays["images"]
    if "provenance" not in arrays:  # otherwise `save_arrays` wrote it
        images, of_axes = channels_last(images, labels.size)
        images, of_values = eight_bit(images)
        notes = [*notes, *of_axes, *of_values, *of_labels]
    own = own or (_text(arrays["class_names"], "class_names, one per class,") if "class_names" in arrays else None)
    labels, names = with_names(labels, own, class_names, "labels")
    stored = _text(arrays["notes"], "notes") if "notes" in arrays else ()
    return ImageSet(
        images=np.ascontiguousarray(images),
        labels=labels,
        ids=_integers(arrays["ids"], "ids") if "ids" in arrays else np.arange(labels.size),
        class_names=names,
        provenance=str(arrays["provenance"]) if "provenance" in arrays else str(path),
        names=_text(arrays["names"], "names, one per image,") if "names" in arrays else (),
        notes=(*stored, *notes),
    )


def save_arrays(images: ImageSet, path: Path) -> None:
    """Write a set of images, whole or not at all; `load_arrays(path)` gives it back.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    texts = {"names": images.names, "notes": images.notes}
    optional: dict[str, Any] = {name: np.array(text) for name, text in texts.items() if text}
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


def _read(path: Path, split: str | None) -> tuple[Arrays, list[str]]:
    """Read the arrays that belong to a set of images, and ignore the rest of the file."""
    try:
        with path.open("rb") as file:  # if NumPy opens a damaged file itself, it leaves it open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise OnepixError(
                    f"{path}: one bare array; expected an .npz file with {NEEDED}, as np.savez(path, images=…, "
                    "labels=…) writes it"
                )
            pair, notes = find_pair(archive, split)
            named = dict(zip(REQUIRED, pair, strict=True)) | {name: name for name in OPTIONAL if name in archive.files}
            return {name: _member(archive, key, path) for name, key in named.items()}, notes
    except OnepixError as error:
        raise (error if str(error).startswith(str(path)) else OnepixError(f"{path}: {error}")) from None
    except OSError as error:
        raise OnepixError(f"{path}: {error.strerror or error}; expected an .npz file with {NEEDED}") from error
    except UNREADABLE as error:
        found = kind_of(path)
        if found and ".npz" not in found:
            raise OnepixError(f"{path}: {found}; expected an .npz file with {NEEDED}") from error
        why = "neither .npz nor .npy" if "pickle" in str(error) else _one_line(error)
        raise OnepixError(f"{path}: not a whole .npz file: {why}") from error


def _member(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> npt.NDArray[Any]:
    try:
        array = archive[name]
    except UNREADABLE as error:
        what = "an array of Python objects, which only a pickle can hold; " if "Object arrays" in str(error) else ""
        raise OnepixError(f"{path}: array '{name}' cannot be read: {what}{_one_line(error)}") from error
    if not isinstance(array, np.ndarray):  # NumPy returns what it does not recognise as bytes
        raise OnepixError(f"{path}: '{name}' is not an array")
    return array


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _integers(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.int64]:
    if not np.issubdtype(values.dtype, np.integer):
        raise OnepixError(f"{name} must be integers, got {values.dtype}")
    return values.astype(np.int64)


def _text(values: npt.NDArray[Any], name: str) -> tuple[str, ...]:
    if values.dtype.kind != "U" or values.ndim != 1:
        raise OnepixError(f"{name} must be a list of text, got {values.dtype} of shape {values.shape}")
    return tuple(str(value) for value in values)
