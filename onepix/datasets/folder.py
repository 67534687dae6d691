"""Folders of pictures, with one subfolder per class or a table of labels."""

import functools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onepix.config.datasets import FolderDataset
from onepix.datasets.class_names import ClassOrder, index_of, numbers, ordered, resolve
from onepix.datasets.contents import kind_of
from onepix.datasets.label_table import Labelled, read_labels
from onepix.datasets.pictures import describe, read_picture, stack
from onepix.datasets.walking import left_out, refuse_parts, walk
from onepix.errors import OnepixError
from onepix.files.located import located
from onepix.images import ImageSet


def load_folder(settings: FolderDataset) -> ImageSet:
    """Read a folder of pictures as 8-bit images; an attack changes these.

    Without a table of labels, each direct subfolder that holds pictures, at any depth, is a class. Hidden files and
    folders are left out, and files whose ending is not that of a picture format that Pillow reads; they are counted.

    Parameters
    ----------
    settings : FolderDataset
        The folder, the table, the class names, and how pictures become images of one size.

    Returns
    -------
    ImageSet
        In the order of the classes and the paths in them, or of the table's rows. Ids count from 0 in that order;
        names are the files' paths relative to the folder.

    Raises
    ------
    OnepixError
        If the folder, a picture or a label is missing or not as it should be.
    """
    folder = located(settings.path)
    if not folder.is_dir():
        got = f", got {kind_of(folder) or 'a file'}" if folder.is_file() else ""
        raise OnepixError(f"{folder}: no such folder; expected a folder of pictures{got}")
    given = resolve(settings.class_names)
    try:
        if settings.labels is None:
            found = _by_subfolder(folder, given, settings.class_order)
        else:
            found = read_labels(folder, located(settings.labels), given, settings.class_order)
    except OSError as error:
        raise OnepixError(f"{error.filename or folder}: {error.strerror or error}") from error
    pictures = ((str(folder / file), functools.partial(read_picture, folder / file)) for file in found.files)
    labelled = "classes by subfolder" if settings.labels is None else f"labels of {settings.labels}"
    images, said = stack(pictures, len(found.files), settings, str(folder))
    return ImageSet(
        images=images,
        labels=np.array(found.labels, np.int64),
        ids=np.arange(len(found.files)),
        class_names=found.class_names,
        provenance=f"pictures in {settings.path}, {labelled}{describe(settings)}",
        names=tuple(found.files),
        notes=(*found.notes, *said),
    )


def _by_subfolder(folder: Path, given: tuple[str, ...] | None, order: ClassOrder) -> Labelled:
    walked = walk(folder)
    if not walked.folders:
        raise OnepixError(
            f"{folder}: labels are missing: expected one subfolder per class, or as labels a CSV file with the "
            "columns file and label"
        )
    by_class: dict[str, list[str]] = {}
    for file in walked.pictures:
        first, slash, _ = file.partition("/")
        by_class.setdefault(first if slash else "", []).append(file)
    outside = by_class.pop("", [])
    notes = left_out(folder, walked.strays)
    if not by_class:
        strays = f"; {notes[0]}" if notes else ""
        raise OnepixError(f"{folder}: no pictures in its subfolders; expected files such as .png or .jpg{strays}")
    if not any(_is_known(name, given) for name in by_class):
        refuse_parts(folder, by_class)
    empty = [name for name in walked.folders if name not in by_class]
    if numbers(by_class) is not None:  # then a numbered folder without pictures is a class as well
        by_class |= {name: [] for name in empty if numbers([name])}
        empty = [name for name in empty if name not in by_class]
    classes = ordered(by_class, order)
    label_of = _labels(classes, given, str(folder))
    notes += _notes(classes, empty, outside)
    if given and classes[0] not in given and numbers(classes) is not None:
        notes.append(f"subfolders are indices of class_names: {classes[0]} is {given[label_of[classes[0]]]}")
    files = [file for name in classes for file in by_class[name]]
    labels = [label_of[name] for name in classes for _ in by_class[name]]
    return Labelled(files, labels, given or classes, notes)


def _is_known(name: str, given: tuple[str, ...] | None) -> bool:
    """Tell whether a subfolder is a class by its name."""
    if given is None:
        return False
    try:
        return index_of(name, given, "") >= 0
    except OnepixError:
        return False


def _labels(classes: Sequence[str], given: tuple[str, ...] | None, where: str) -> dict[str, int]:
    """Return the label of each subfolder: its place in their order, or that of its name among the given ones."""
    if given is None:
        return {name: index for index, name in enumerate(classes)}
    known = numbers(classes)
    if known is None or set(classes) & set(given):
        return {name: index_of(name, given, f"{where}: subfolder '{name}'") for name in classes}
    if max(known) >= len(given):
        raise OnepixError(
            f"{where}: subfolder '{classes[known.index(max(known))]}', expected a class name, or a number in "
            f"0–{len(given) - 1}, the index of one"
        )
    return dict(zip(classes, known, strict=True))


def _notes(classes: Sequence[str], empty: Sequence[str], outside: Sequence[str]) -> list[str]:
    """Say what may not be as the user expects."""
    said = []
    if list(classes) != sorted(classes):
        said.append("classes are in the order of their numbers, 2 before 10; class_order: text sorts them as text")
    if empty:
        said.append(f"subfolders without pictures are no classes: {', '.join(empty)}")
    if outside:
        count = f"{len(outside)} pictures lie" if len(outside) > 1 else "1 picture lies"
        said.append(f"{count} outside the subfolders, left out: {outside[0]}{', …' if len(outside) > 1 else ''}")
    alike = defaultdict[str, list[str]](list)
    for name in classes:
        alike[name.casefold()].append(name)
    said += [f"{' and '.join(names)} are different classes" for names in alike.values() if len(names) > 1]
    return said
