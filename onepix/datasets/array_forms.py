"""Images and labels as arrays, in the forms that people have: other names, axes and types."""

import itertools
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onepix.datasets.class_names import Labels, ordered
from onepix.errors import OnepixError

NAMES = ("images", "labels")
SHARED = 3  # letters that names of images and labels share at least, if they belong together
PREFERRED = "test"  # of several splits, if none is chosen
IMAGES = re.compile(r"(.*[^a-z])?(x|img|ims?|.*image|.*pic|.*photo|data)([^a-z].*|s|)")
LABELS = re.compile(r"(.*[^a-z])?(y|.*label|.*target|.*class)([^a-z].*|s|es|)")

LEAST_ROUNDING = 1e-5  # of numbers in 0–1, relative to 1: they may have been float32 once

Array = npt.NDArray[Any]


class Header(NamedTuple):
    """Shape and type of an array that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class Pair(NamedTuple):
    """The names of an array of images and of one of labels."""

    images: str
    labels: str


def _headers(archive: np.lib.npyio.NpzFile) -> dict[str, Header]:
    """Return shape and type of each array of an archive, without reading the arrays."""
    found = {}
    members: zipfile.ZipFile = archive.zip  # type: ignore[assignment]
    for member in members.namelist():
        with members.open(member) as opened:
            try:
                version = np.lib.format.read_magic(opened)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(opened)
            except ValueError:
                continue  # not an array
        found[member.removesuffix(".npy")] = Header(shape, dtype)
    return found


def find_pair(archive: np.lib.npyio.NpzFile, split: str | None) -> tuple[Pair, list[str]]:
    """Find the arrays of images and labels by name, or else by shape.

    Parameters
    ----------
    archive : NpzFile
        An open .npz file.
    split : str or None
        Of several pairs, the one whose names hold this text.

    Returns
    -------
    Pair
    notes : list of str
        Which arrays were taken, if they are not `images` and `labels`.

    Raises
    ------
    OnepixError
        If there is no pair, or several and none is chosen.
    """
    if split is None and set(NAMES) <= set(archive.files):
        return Pair(*NAMES), []
    arrays = _headers(archive)
    pairs = _pairs(arrays)
    listed = ", ".join(f"{name} ({header})" for name, header in arrays.items())
    listed = listed or f"none in this archive of {', '.join(archive.files[:3]) or 'nothing'}"
    if not pairs:
        absent = next((name for name in NAMES if name not in arrays), NAMES[0])
        raise OnepixError(f"no array '{absent}'; expected the arrays 'images' and 'labels', found {listed}")
    wanted = split or PREFERRED
    chosen = [pair for pair in pairs if wanted.lower() in pair.images.lower()]
    if split is None and len(pairs) == 1:
        chosen = pairs
    if len(chosen) != 1:
        which = ", ".join(f"{pair.images} and {pair.labels}" for pair in pairs)
        raise OnepixError(f"split {wanted}: expected it in the name of one array of images; found {which}")
    others = [pair.images for pair in pairs if pair != chosen[0]]
    beside = f", not from {', '.join(others)}; split chooses" if others else ""
    return chosen[0], [f"images are taken from {chosen[0].images}, labels from {chosen[0].labels}{beside}"]


def _pairs(arrays: Mapping[str, Header]) -> list[Pair]:
    """Return each array that can hold images, with its labels.

    Raises
    ------
    OnepixError
        If it cannot be told which of several arrays holds the labels.
    """
    images = [name for name, header in arrays.items() if len(header.shape) in (3, 4) and header.dtype.kind in "buif"]
    named = [name for name in images if IMAGES.fullmatch(name.lower())]
    pairs = []
    for name in named or images:
        fitting = [other for other in arrays if other not in images and _may_be_labels(arrays[other], arrays[name])]
        called = [other for other in fitting if LABELS.fullmatch(other.lower())]
        if fitting:
            pairs.append(Pair(name, _labels_of(name, called or fitting)))
    return pairs


def _may_be_labels(labels: Header, images: Header) -> bool:
    """Tell whether an array has one entry or row per image, whose axis may come last, too."""
    per_image = labels.shape[:1] in (images.shape[:1], images.shape[-1:])
    return per_image and labels.dtype.kind in "buifUS" and len(labels.shape) in (1, 2)


def _labels_of(name: str, others: Sequence[str]) -> str:
    """Return the only name, or `labels`, or the one that begins or ends as that of the images: x_test and y_test."""
    if len(others) == 1:
        return others[0]
    shared = [max(_shared(name, other), _shared(name[::-1], other[::-1])) for other in others]
    if max(shared) >= SHARED and shared.count(max(shared)) == 1:
        return others[shared.index(max(shared))]
    if NAMES[1] in others:
        return NAMES[1]
    raise OnepixError(
        f"{', '.join(others)} may all be the labels of {name}; expected one of them, or the name 'labels'"
    )


def _shared(first: str, second: str) -> int:
    """Return how many letters at the beginning are the same."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return len(list(same))


def channels_last(images: Array, count: int) -> tuple[Array, list[str]]:
    """Return images with the axes image, y, x, channel.

    Parameters
    ----------
    images : ndarray
        Three axes: grey images. Four axes: the second is taken for that of channels if it has 1 or 3 entries and the
        last has not. A fourth channel that is 255 everywhere is dropped.
    count : int
        Labels.

    Raises
    ------
    OnepixError
        If the axis of images comes last.
    """
    shape = images.shape
    if shape[:1] != (count,) and shape[-1:] == (count,):
        raise OnepixError(f"images have the shape {shape} for {count} labels; expected (image, y, x, channel)")
    if images.ndim == 4 and shape[3] == 4 and (images[..., 3] == 255).all():
        return images[..., :3], ["the fourth channel of images, an opaque alpha channel, is dropped"]
    if images.ndim == 3:
        return images[..., np.newaxis], []
    if images.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        return images.transpose(0, 2, 3, 1), [f"images of shape {shape} have channels first; they are put last"]
    return images, []


def eight_bit(images: Array) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Return images as uint8, if that loses nothing: whole numbers in 0–255, or 255ths in 0–1.

    Raises
    ------
    OnepixError
        If numbers are neither, or if it cannot be told which.
    """
    if images.dtype == np.uint8:
        said = "all values of images are 0 or 1, of 255; perhaps they were to be multiplied by 255"
        return images, [said] if images.size and images.max() == 1 else []
    said = f"images must be uint8, got {images.dtype}"
    if images.dtype.kind not in "uif" or not images.size:
        raise OnepixError(said)
    if not np.isfinite(images).all():
        raise OnepixError(f"{said} with values that are not finite")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 255:
        raise OnepixError(f"{said} in {low:.4g}–{high:.4g}; expected 0–255, before any normalisation")
    if high <= 1 and (images == images.astype(bool)).all():
        raise OnepixError(f"{said} of only 0 and 1, which may mean 0 and 255; convert them")
    scale = 1 if high > 1 else 255
    scaled = images * scale if scale > 1 else images
    rounded = np.rint(scaled)
    rounding = np.finfo(images.dtype).eps if images.dtype.kind == "f" else 0
    if np.abs(scaled - rounded).max() > scale * max(rounding, LEAST_ROUNDING):
        raise OnepixError(f"{said} in {low:.4g}–{high:.4g} that are no 255ths; make them uint8 first")
    return rounded.astype(np.uint8), [f"images of {images.dtype} in 0–{255 // scale} are made uint8; nothing is lost"]


def class_indices(values: Array) -> tuple[Labels, tuple[str, ...] | None, list[str]]:
    """Return labels as class indices.

    Parameters
    ----------
    values : ndarray
        Integers or text, shape (N,) or (N, 1), or one-hot rows, shape (N, classes).

    Returns
    -------
    labels : ndarray
        int64, shape (N,).
    names : tuple of str or None
        Of classes, if labels are text.
    notes : list of str

    Raises
    ------
    OnepixError
        If there are several labels per image, or labels of another type.
    """
    if values.ndim == 2 and 1 in values.shape:
        values = values.ravel()
    rows = values.ndim == 2 and values.dtype.kind in "buif"
    if rows and ((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all():
        return values.argmax(1).astype(np.int64), None, ["labels are one-hot rows"]
    if values.ndim != 1:
        raise OnepixError(f"labels have the shape {values.shape}, expected one label per image, or one-hot rows")
    if values.dtype.kind in "US":
        texts = [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in values.tolist()]
        names = ordered(texts)
        index = {name: position for position, name in enumerate(names)}
        return np.array([index[text] for text in texts], np.int64), names, []
    if values.dtype.kind not in "bui":
        raise OnepixError(f"labels must be integers, got {values.dtype}")
    return values.astype(np.int64), None, []
