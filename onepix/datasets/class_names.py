"""Names of classes: given, ImageNet's, or plain numbers."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal

from onepix.errors import OnepixError
from onepix.names import nearest

MOST_CLASSES = 100_000  # larger labels cannot be class indices, and would need as many names


def resolve(names: Sequence[str] | Literal["imagenet"] | None) -> tuple[str, ...] | None:
    """Return the class names of a setting; None if it has none.

    `imagenet` stands for the 1,000 names of ImageNet (ILSVRC 2012), in the order of torchvision's outputs.
    """
    if names != "imagenet":
        return None if names is None else tuple(names)
    from torchvision.models import ResNet50_Weights  # here: it imports torch

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


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


def index_of(name: str, names: Sequence[str], where: str) -> int:
    """Return the index of the class of this name.

    Raises
    ------
    OnepixError
        If no class has the name, or several have; the line starts with `where`.
    """
    found = [index for index, known in enumerate(names) if known == name]
    if not found:
        close = textwrap.shorten(nearest(name, names), 200, placeholder=" …")
        raise OnepixError(f"{where}: '{name}' is not among the {len(names)} class names; {close}")
    if len(found) > 1:
        raise OnepixError(f"{where}: '{name}' is the name of the classes {found[0]} and {found[1]}; expected one")
    return found[0]
