"""Classification datasets that torchvision downloads and checks."""

import contextlib
import functools
import inspect
import operator
import tarfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torchvision
from PIL import Image

from onepix.config.datasets import TorchvisionDataset
from onepix.datasets import imagenet
from onepix.datasets.class_names import Labels, numbers, ordered, resolve, with_names
from onepix.datasets.pictures import as_eight_bit, describe, stack
from onepix.errors import OfflineError, OnepixError
from onepix.files.fetching import is_offline
from onepix.files.located import located
from onepix.files.patience import patiently, reason, stall_limit
from onepix.images import ImageSet
from onepix.names import nearest

SPLITS = ("split", "image_set", "what", "classes", "version")  # names that torchvision's datasets give to their split
WHOLE = "all"  # the split of a dataset that is not split

Parameters = dict[str, inspect.Parameter]


def load_torchvision(settings: TorchvisionDataset, downloads: Path | None) -> ImageSet:
    """Read a split of a torchvision dataset as 8-bit images; an attack changes these.

    Parameters
    ----------
    settings : TorchvisionDataset
        The dataset, its split, the folder of a copy, and how pictures become images of one size. A dataset that
        torchvision does not split has the split `all`. A dataset with two kinds of split, such as EMNIST, has splits
        such as `letters-train` and `letters-test`.
    downloads : Path or None
        Receives downloads, in torchvision's layout; correct files that exist are kept. Not needed with a `root`. If the
        environment variable ONEPIX_OFFLINE is set, and not to 0, nothing is downloaded.

    Returns
    -------
    ImageSet
        All images of the split; the ids are torchvision's indices.

    Raises
    ------
    OnepixError
        If there is no such dataset or split, if it does not consist of pictures with one class each, if it can neither
        be found nor downloaded, or if its pictures do not fit the settings.
    OfflineError
        If it would have to be downloaded, and ONEPIX_OFFLINE is set.
    """
    source = settings.source
    dataset = _opened(_kind(source), settings, downloads)
    count = len(dataset)
    if not count:
        raise OnepixError(f"{source}: the split {settings.split} has no images")
    labels: list[int] = []

    def read(index: int, where: str) -> Image.Image:
        picture, label = _item(dataset, index, where)
        labels.append(label)
        return as_eight_bit(picture, where)

    names = (f"{source}, image {index}" for index in range(count))
    pictures = ((name, functools.partial(read, index, name)) for index, name in enumerate(names))
    images, notes = stack(pictures, count, settings, source)
    indices, class_names = _named(settings, dataset, np.array(labels, np.int64))
    return ImageSet(
        images=images,
        labels=indices,
        ids=np.arange(count),
        class_names=class_names,
        provenance=f"torchvision's {source.partition(':')[2]}, split {settings.split}{describe(settings)}",
        notes=notes,
    )


def _kind(source: str) -> type[Any]:
    """Return the class of the dataset."""
    base = torchvision.datasets.VisionDataset
    kinds = {
        name: kind
        for name, kind in vars(torchvision.datasets).items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }
    name = source.partition(":")[2]
    if name not in kinds:
        same = [known for known in kinds if known.lower() == name.lower()]
        advice = f"did you mean '{same[0]}'?" if same else nearest(name, sorted(kinds))
        raise OnepixError(f"{source}: torchvision has no dataset '{name}'; {advice}")
    return kinds[name]


def _opened(kind: type[Any], settings: TorchvisionDataset, downloads: Path | None) -> Any:
    """Construct the dataset; a failed download is tried again, unless it would fail in the same way."""
    source, parameters = settings.source, _parameters(kind)
    arguments = _split(parameters, settings) | _location(parameters, settings, downloads)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise OnepixError(f"{source}: torchvision needs '{name}' for it; not an image classification dataset")

    def attempt() -> Any:
        try:
            with _archives_kept_inside():
                return kind(**arguments)
        except Exception as error:
            if isinstance(error, ValueError | TypeError) or _missing_package(error):
                raise _failure(error, settings, downloads, arguments) from error
            raise

    try:
        if not arguments.get("download"):
            with _archives_kept_inside():
                return kind(**arguments)
        root: Path = arguments["root"]
        root.mkdir(parents=True, exist_ok=True)
        # torchvision writes in place, so a second job that wants the same dataset waits until the first is done.
        with filelock.FileLock(root / f".{kind.__name__}.lock"), stall_limit():
            return patiently(attempt)
    except OnepixError:
        raise
    except Exception as error:  # a dataset's constructor reads and unpacks files, and may raise anything
        raise _failure(error, settings, downloads, arguments) from error


@contextlib.contextmanager
def _archives_kept_inside() -> Iterator[None]:
    """Let tar archives write only into their folder: before Python 3.11.4, torchvision cannot ensure that."""
    if hasattr(tarfile, "data_filter"):
        yield
        return
    plain = tarfile.TarFile.extractall

    def checked(archive: tarfile.TarFile, path: Any = ".", *arguments: Any, **options: Any) -> None:
        for member in archive.getmembers():
            path = Path(member.name)
            if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
                raise OnepixError(
                    f"{archive.name!s}: refused: its member {member.name!r} could write outside the folder; "
                    "Python 3.11.4 or newer can check this more exactly"
                )
        plain(archive, path, *arguments, **options)

    tarfile.TarFile.extractall = checked  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        tarfile.TarFile.extractall = plain  # type: ignore[method-assign]


def _parameters(kind: type[Any]) -> Parameters:
    """Return the parameters of a dataset's constructor, also those that it passes to its base class."""
    found: Parameters = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            own = dict(list(inspect.signature(vars(base)["__init__"]).parameters.items())[1:])  # without self
            found = {name: value for name, value in own.items() if value.kind is not value.VAR_KEYWORD} | found
            if all(value.kind is not value.VAR_KEYWORD for value in own.values()):
                break
    return found


def _split(parameters: Parameters, settings: TorchvisionDataset) -> dict[str, Any]:
    """Return the arguments that choose the split."""
    name, split = next((name for name in SPLITS if name in parameters), ""), settings.split
    if name and ("train" not in parameters or name == "what"):  # QMNIST has both; `what` says more than `train`
        return {name: split}
    if "train" not in parameters:
        if split != WHOLE:
            raise OnepixError(f"{settings.source}: torchvision does not split it; expected split {WHOLE}, got {split}")
        return {}
    part, _, half = split.rpartition("-")
    if half not in ("train", "test") or bool(part) != bool(name):
        expected = f"torchvision's {name} with -train or -test after it" if name else "train or test"
        raise OnepixError(f"{settings.source}: split {split}, expected {expected}")
    return {"train": half == "train"} | ({name: part} if name else {})


def _location(parameters: Parameters, settings: TorchvisionDataset, downloads: Path | None) -> dict[str, Any]:
    """Return the arguments that say where the dataset lies, and whether it may be downloaded."""
    source = settings.source
    may_download = {"download": False} if "download" in parameters else {}
    if settings.root is not None:
        root = located(settings.root)
        if "root" not in parameters:
            raise OnepixError(f"{source}: it reads no files; expected no root, got {root}")
        if not root.is_dir():
            raise OnepixError(f"{source}: root {root} is not a folder; expected a copy in torchvision's layout")
        return {"root": root} | may_download
    if "root" not in parameters:
        return {}
    if not may_download:
        raise OnepixError(f"{source}: torchvision cannot download it; set root to a folder with a copy")
    if downloads is None:
        raise OnepixError(f"{source}: no folder for downloads is given; give one, or set root to a folder with a copy")
    return {"root": downloads, "download": not is_offline()}


def _failure(
    error: Exception, settings: TorchvisionDataset, downloads: Path | None, arguments: dict[str, Any]
) -> OnepixError:
    """Say in one line why a dataset could not be constructed, and what to do."""
    source, said = settings.source, reason(error).partition(" You can use download=True")[0]
    if "Unknown value" in str(error):  # torchvision's message about a split that does not exist
        return OnepixError(f"{source}: {textwrap.shorten(str(error), 300, placeholder=' …')}")
    if _missing_package(error):
        return OnepixError(f"{source}: torchvision needs a package that is not installed ({said})")
    if "root" not in arguments:
        return OnepixError(f"{source}: {said}")
    if settings.root is not None:
        return OnepixError(
            f"{source}: cannot be read from {settings.root} ({said}); expected a copy in torchvision's layout"
        )
    copy = f"put a copy in torchvision's layout into {downloads}, or set root to its folder"
    if arguments["download"]:
        return OnepixError(f"{source}: cannot be downloaded ({said}); {copy}")
    return OfflineError(f"{source}: not complete in {downloads} ({said})", copy)


def _missing_package(error: Exception) -> bool:
    return isinstance(error, ImportError) or isinstance(error.__context__, ImportError)


def _item(dataset: Any, index: int, where: str) -> tuple[Image.Image, int]:
    """Return a picture and its label."""
    try:
        item = dataset[index]
    except Exception as error:  # it reads and decodes files
        raise OnepixError(f"{where}: cannot be read ({reason(error)})") from error
    match item:
        case (Image.Image() as picture, label):
            pass
        case _:
            raise OnepixError(f"{where}: no picture with a label; expected an image classification dataset")
    try:
        return picture, operator.index(label)
    except TypeError:
        found = textwrap.shorten(repr(label), 80, placeholder=" …")
        raise OnepixError(f"{where}: its label is {found}, expected an integer, the index of its class") from None


def _named(settings: TorchvisionDataset, dataset: Any, labels: Labels) -> tuple[Labels, tuple[str, ...]]:
    """Return labels and class names: the given ones, else torchvision's if each label has one, else numbers."""
    given = resolve(settings.class_names)
    classes: Sequence[str | Sequence[str]] = getattr(dataset, "classes", None) or ()
    if given == imagenet.names():  # two of ImageNet's classes are called crane
        classes = getattr(dataset, "wnids", None) or classes
    own = tuple(name if isinstance(name, str) else ", ".join(name) for name in classes)
    if labels.min() < 0 or labels.max() >= len(own):
        own = ()
    if numbers(own):  # folders, which torchvision sorts as text
        order = ordered(own)
        labels, own = np.array([order.index(name) for name in own], np.int64)[labels], order
    labels, found = with_names(labels, own or None, given, settings.source)
    for label in (int(labels.max()), int(labels.min())):
        if not 0 <= label < len(found):
            expected = f"expected one in 0–{len(found) - 1}, the index of a class name"
            raise OnepixError(f"{settings.source}: label {label}, {expected}")
    return labels, found
