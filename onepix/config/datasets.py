"""The section `datasets`: where images come from."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
)

from onepix.config.base import Name, NotBoolean, PathText, Settings, Text


class BundledDataset(Settings):
    """The first 100 CIFAR-10 test images, which come with onepix."""

    source: Literal["bundled"] = "bundled"


class Cifar10Dataset(Settings):
    """CIFAR-10, fetched once and checked against the published MD5s."""

    source: Literal["cifar10"]
    split: Literal["train", "test"] = "test"


ClassNames = tuple[Text, ...] | Literal["imagenet"]


class ArraysDataset(Settings):
    """Your own images: an .npz file with `images` (uint8; image, y, x, channel) and `labels`."""

    source: Literal["arrays"]
    path: PathText
    split: Text | None = Field(
        None, description="Of a file with several, as its arrays' names say: test, train, val; default: test."
    )
    class_names: ClassNames | None = Field(None, description="Default: the labels as numbers.")


Side = Annotated[int, Field(ge=1)]


class Pictures(Settings):
    """How pictures of any size become 8-bit images of one size: what the attack changes and the network sees."""

    resize: Side | tuple[Side, Side] | None = Field(
        None, description="Shorter side in pixels (proportions are kept), or height and width. Default: none."
    )
    crop: Side | tuple[Side, Side] | None = Field(
        None, description="From the middle, after resizing: side of a square, or height and width. Default: none."
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="How resize interpolates, with antialiasing."
    )
    channels: Annotated[Literal[1, 3], NotBoolean] | None = Field(
        None, description="Default: 1 if all pictures are grey, else 3 (grey pictures are repeated)."
    )


class FolderDataset(Pictures):
    """A folder of pictures, with classes by subfolder or by a CSV file."""

    source: Literal["folder"]
    path: PathText = Field(description="The folder; package:NAME/FOLDER is a folder in an installed Python package.")
    labels: PathText | None = Field(
        None, description="A CSV file with the columns file and label; default: each subfolder is a class."
    )
    class_names: ClassNames | None = Field(
        None, description="In the order of the network's outputs; default: the subfolders, or the labels, sorted."
    )
    class_order: Literal["numbers", "text"] = Field(
        "numbers",
        description="How subfolders, or labels, are sorted: 2 before 10, or as text, 10 before 2, as ImageFolder does.",
    )


class TorchvisionDataset(Pictures):
    """A classification dataset that torchvision downloads and checks."""

    source: str = Field(
        pattern=r"^torchvision:[A-Za-z0-9_]{1,100}$", description="torchvision:CIFAR100, or another of its datasets."
    )
    split: Name = Field("test", description="As torchvision names it: train, test, val, …")
    root: PathText | None = Field(None, description="A folder with a copy in torchvision's layout; default: download.")
    class_names: ClassNames | None = Field(None, description="Default: torchvision's, or the labels as numbers.")


def _source(value: Any) -> str | None:
    """Return the kind of source that a dataset's entry names."""
    named = value.get("source") if isinstance(value, Mapping) else getattr(value, "source", None)
    return "torchvision:NAME" if str(named).startswith("torchvision:") else named


DatasetSettings = Annotated[
    Annotated[BundledDataset, Tag("bundled")]
    | Annotated[Cifar10Dataset, Tag("cifar10")]
    | Annotated[ArraysDataset, Tag("arrays")]
    | Annotated[FolderDataset, Tag("folder")]
    | Annotated[TorchvisionDataset, Tag("torchvision:NAME")],
    Discriminator(_source),
]
