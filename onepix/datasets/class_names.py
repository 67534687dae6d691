"""Names of classes: given, ImageNet's, or plain numbers; and how they fit the outputs of a network."""

import dataclasses
import difflib
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from onepix.datasets import imagenet
from onepix.errors import OnepixError
from onepix.images import ImageSet
from onepix.names import natural, nearest

MOST_CLASSES = 100_000  # larger labels cannot be class indices, and would need as many names
SHOWN = 3  # names that a message gives as examples

Labels = npt.NDArray[np.int64]
ClassOrder = Literal["numbers", "text"]


def resolve(names: Sequence[str] | Literal["imagenet"] | None) -> tuple[str, ...] | None:
    """Return the class names of a setting; None if it has none.

    `imagenet` stands for the 1,000 names of ImageNet (ILSVRC 2012), in the order of torchvision's outputs.
    """
    if names != "imagenet":
        return None if names is None else tuple(names)
    return imagenet.names()


def numbered(labels: Iterable[int], where: str) -> tuple[str, ...]:
    """Return the numbers from 0 to the largest label as names.

    Raises
    ------
    OnepixError
        If a label is too large to be the index of a class; the line starts with `where`.
    """
    largest = max(labels, default=0)
    if largest >= MOST_CLASSES:
        raise OnepixError(f"{where}: labels are class indices, below {MOST_CLASSES}, got {largest}")
    return tuple(str(label) for label in range(largest + 1))


def ordered(names: Iterable[str], order: ClassOrder = "numbers") -> tuple[str, ...]:
    """Return class names in their order, each once.

    Parameters
    ----------
    names : iterable of str
        In any order.
    order : {"numbers", "text"}
        `numbers` takes numbers in a name as numbers: 9 comes before 10, and class_9 before class_10. `text` compares
        letter by letter, as torchvision's ImageFolder does: 10 comes before 9. Names of all 1,000 classes of ImageNet
        are in the order of a network's outputs, whatever the order.
    """
    in_text = sorted(set(names))
    if len(in_text) == imagenet.CLASSES and (all_of_imagenet := _in_order_of_imagenet(in_text)):
        return all_of_imagenet
    return tuple(sorted(in_text, key=natural) if order == "numbers" else in_text)


def _in_order_of_imagenet(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all classes of ImageNet in its order; nothing if they are not that."""
    if set(names) == set(imagenet.names()):  # of which crane, alone, would be the name of two classes
        return imagenet.names()
    try:
        found = {imagenet.find(name): name for name in names}
    except OnepixError:
        return ()
    return () if len(found) < len(names) or None in found else tuple(found[index] for index in range(len(names)))


def numbers(names: Iterable[str]) -> list[int] | None:
    """Return the numbers that names are; None if one is not a number."""
    names = list(names)
    return [int(name) for name in names] if all(name.isascii() and name.isdecimal() for name in names) else None


def index_of(name: str, names: Sequence[str], where: str) -> int:
    """Return the index of the class of this name; among ImageNet's names, ids and synonyms count, too.

    Raises
    ------
    OnepixError
        If no class has the name, or several have; the line starts with `where`.
    """
    if tuple(names) == imagenet.names():
        return _in_imagenet(name, where)
    same = unicodedata.normalize("NFC", name)  # some systems store é as two characters
    found = [index for index, known in enumerate(names) if unicodedata.normalize("NFC", known) == same]
    if not found:
        raise OnepixError(f"{where}: '{name}' is not among the {len(names)} class names; {_close(name, names)}")
    if len(found) > 1:
        raise OnepixError(f"{where}: '{name}' is the name of the classes {found[0]} and {found[1]}; expected one")
    return found[0]


def _in_imagenet(name: str, where: str) -> int:
    try:
        found = imagenet.find(name)
    except OnepixError as error:
        raise OnepixError(f"{where}: {error}") from None
    if found is None:
        close = difflib.get_close_matches(name, imagenet.names(), n=1)
        advice = f"; did you mean '{close[0]}'?" if close else ""
        raise OnepixError(f"{where}: '{name}' is neither a name nor a WordNet id of ImageNet's 1,000 classes{advice}")
    return found


def _close(name: str, names: Sequence[str]) -> str:
    return textwrap.shorten(nearest(name, names), 200, placeholder=" …")


def with_names(
    labels: Labels, own: Sequence[str] | None, given: Sequence[str] | None, where: str
) -> tuple[Labels, tuple[str, ...]]:
    """Let given class names take the place of those that come with labels.

    Parameters
    ----------
    labels : ndarray
        int64, shape (N,).
    own : sequence of str or None
        The names that come with the labels; None if there are none.
    given : sequence of str or None
        The names that the user gives, in the order of the network's outputs.
    where : str
        Named in errors.

    Returns
    -------
    labels : ndarray
        Indices of the names. If all own names are among the given ones, and always for ImageNet's names, a label is
        that of its name; otherwise labels stay, and classes get other names.
    names : tuple of str

    Raises
    ------
    OnepixError
        If a label is too large to be the index of a class, or its own name is not one of ImageNet's.
    """
    names = tuple(given) if given is not None else tuple(own or numbered(labels.tolist(), where))
    if given is None or own is None or tuple(own) == names or numbers(own) is not None or labels.min(initial=0) < 0:
        return labels, names
    used = [own[label] for label in np.unique(labels).tolist() if label < len(own)]
    if len(used) == len(set(labels.tolist())) and (names == imagenet.names() or set(used) <= set(names)):
        lookup = {name: index_of(name, names, f"{where}: class {own.index(name)}") for name in used}
        return np.array([lookup[own[label]] for label in labels.tolist()], np.int64), names
    return labels, names


def for_network(images: ImageSet, count: int) -> ImageSet:
    """Return a set whose labels and class names are those of a network's outputs; as in `outputs_for`."""
    indices, names = outputs_for(images.class_names, count, images.labels.tolist())
    if names == images.class_names:
        return images
    return dataclasses.replace(images, labels=np.array(indices, np.int64)[images.labels], class_names=names)


def outputs_for(names: tuple[str, ...], count: int, labels: Iterable[int]) -> tuple[Sequence[int], tuple[str, ...]]:
    """Find which of a network's outputs each class is.

    As many names as the network has classes stand for its outputs, in their order. Fewer names must say which outputs
    they mean: a number is the index of an output, and a name or WordNet id of ImageNet that of one of 1,000 outputs.

    Parameters
    ----------
    names : tuple of str
        Of the classes.
    count : int
        Classes of the network.
    labels : iterable of int
        Of the images, as indices of the names; for the error.

    Returns
    -------
    indices : sequence of int
        For each name, the index of its output.
    names : tuple of str
        Of all outputs.

    Raises
    ------
    OnepixError
        If the class names do not fit the network.
    """
    if len(names) == count:
        return range(count), names
    known = numbers(names)
    if known is not None and max(known) < count:
        return known, tuple(map(str, range(count)))
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    said = f"the network has {count} classes, the images have {len(names)} ({shown})"
    if known is not None:
        raise OnepixError(said + _counted_from_one([known[label] for label in labels], count))
    if names == imagenet.names():
        raise OnepixError(f"{said}; leave class_names out if the network has just the classes of the images")
    if count != imagenet.CLASSES or len(names) > count:
        raise OnepixError(said)
    return [_in_imagenet(name, said) for name in names], imagenet.names()


def _counted_from_one(seen: Sequence[int], count: int) -> str:
    """Return what to do about classes that are numbered beyond those of a network."""
    if min(seen) < 1 or max(seen) != count:
        return ""
    own, expected = f"{min(seen)}–{max(seen)}", f"0–{count - 1}"
    return f"; the images' numbers are {own}, the network's {expected}: if yours begin at 1, subtract 1"
