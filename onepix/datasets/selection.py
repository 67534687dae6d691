"""Which images of a dataset a run attacks."""

import codecs
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onepix.config.selection import Selection, parse_ids
from onepix.errors import OnepixError

Ids = npt.NDArray[np.int64]


def listed_ids(images: int | str | tuple[int, ...] | Selection) -> tuple[int, ...]:
    """Return the ids that a run lists, in the configuration or in a file, ascending, each once.

    Raises
    ------
    OnepixError
        If the file cannot be read.
    """
    return parse_ids(images) if not isinstance(images, Selection) else ids_in_file(Path(str(images.file)))


def select(images: int | str | tuple[int, ...] | Selection, ids: Ids, labels: Ids, where: str) -> tuple[int, ...]:
    """Return the ids of the images that a run attacks, ascending, each once.

    Parameters
    ----------
    images : int, str, tuple of int or Selection
        As in the configuration.
    ids, labels : ndarray
        int64, shape (N,), of the dataset.
    where : str
        Named in errors.

    Raises
    ------
    OnepixError
        If the dataset or one of its classes has too few images, or if a file cannot be read.
    """
    if not isinstance(images, Selection) or images.file is not None:
        return listed_ids(images)
    if images.per_class is not None:
        return _per_class(images.per_class, images.seed, ids, labels, where)
    assert images.first is not None
    if images.first > len(ids):
        raise OnepixError(f"{where}: first: {images.first} is more than the {len(ids)} images of the dataset")
    return tuple(sorted(ids[: images.first].tolist()))


def ids_in_file(path: Path) -> tuple[int, ...]:
    """Read image ids from a text file: ids or ranges, one per line or with commas; # begins a comment.

    The text is UTF-8 or UTF-16, and may begin with a byte order mark, as some editors write it.

    Raises
    ------
    OnepixError
        If there is no such file, a line cannot be read, or there is no id.
    """
    try:
        contents = path.read_bytes()
        wide = contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = contents.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise OnepixError(f"{path}: {reason}; expected a text file of image ids") from error
    ids: set[int] = set()
    for number, line in enumerate(lines, start=1):
        if wanted := line.partition("#")[0].strip():
            try:
                ids.update(parse_ids(wanted))
            except ValueError as error:
                raise OnepixError(f"{path}, line {number}: {error}") from None
    if not ids:
        raise OnepixError(f"{path}: no image id; expected ids or ranges such as 0-49, one per line")
    return tuple(sorted(ids))


def _per_class(count: int, seed: int, ids: Ids, labels: Ids, where: str) -> tuple[int, ...]:
    """Shuffle each class and take the first images: a larger number adds images and keeps the others."""
    chosen: list[int] = []
    for label in np.unique(labels).tolist():
        of_class = np.sort(ids[labels == label])
        if count > len(of_class):
            raise OnepixError(f"{where}: per_class: {count} is more than the {len(of_class)} images of class {label}")
        chosen += np.random.default_rng([seed, label]).permutation(of_class)[:count].tolist()
    return tuple(sorted(chosen))
