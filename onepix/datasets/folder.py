"""Folders of pictures, with one subfolder per class or a table of labels."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onepix.config.datasets import FolderDataset
from onepix.datasets.class_names import index_of, numbered, resolve
from onepix.datasets.pictures import describe, extensions, read_picture, stack
from onepix.errors import OnepixError
from onepix.files.located import located
from onepix.images import ImageSet

COLUMNS = ("file", "label")
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")


class TableRow(NamedTuple):
    """A row of the table of labels."""

    where: str  # the table and the line, for messages
    file: str
    label: str


class Labelled(NamedTuple):
    """Pictures and their classes."""

    files: list[str]  # relative to the folder
    labels: list[int]
    class_names: tuple[str, ...]


def load_folder(settings: FolderDataset) -> ImageSet:
    """Read a folder of pictures as 8-bit images; an attack changes these.

    Without a table of labels, each direct subfolder that holds pictures, at any depth, is a class. Hidden files and
    folders are left out, and files whose ending is not that of a picture format.

    Parameters
    ----------
    settings : FolderDataset
        The folder, the table, the class names, and how pictures become images of one size.

    Returns
    -------
    ImageSet
        In the order of the subfolders' names and the paths in them, or of the table's rows. Ids count from 0 in that
        order; names are the files' paths relative to the folder.

    Raises
    ------
    OnepixError
        If the folder, a picture or a label is missing or not as it should be.
    """
    folder = located(settings.path)
    if not folder.is_dir():
        raise OnepixError(f"{folder}: no such folder; expected a folder of pictures")
    given = resolve(settings.class_names)
    try:
        if settings.labels is None:
            found = _by_subfolder(folder, given)
        else:
            found = _by_table(folder, _rows(located(settings.labels)), given)
    except OSError as error:
        raise OnepixError(f"{error.filename or folder}: {error.strerror or error}") from error
    pictures = ((str(folder / file), read_picture(folder / file)) for file in found.files)
    labelled = "classes by subfolder" if settings.labels is None else f"labels of {settings.labels}"
    return ImageSet(
        images=stack(pictures, len(found.files), settings),
        labels=np.array(found.labels, np.int64),
        ids=np.arange(len(found.files)),
        class_names=found.class_names,
        provenance=f"pictures in {settings.path}, {labelled}{describe(settings)}",
        names=tuple(found.files),
    )


def _by_subfolder(folder: Path, given: tuple[str, ...] | None) -> Labelled:
    subfolders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not subfolders:
        raise OnepixError(
            f"{folder}: labels are missing: expected one subfolder per class, or as labels a CSV file with the "
            "columns file and label"
        )
    classes = {name: files for name in subfolders if (files := sorted(_pictures_below(folder, name)))}
    if not classes:
        raise OnepixError(f"{folder}: no pictures in its subfolders; expected files such as .png or .jpg")
    names = given or tuple(classes)
    indices = {name: index_of(name, names, f"{folder}: subfolder '{name}'") for name in classes}
    files = [file for of_class in classes.values() for file in of_class]
    return Labelled(files, [indices[name] for name, of_class in classes.items() for _ in of_class], names)


def _pictures_below(folder: Path, subfolder: str) -> Iterator[str]:
    """Find the pictures at any depth, following links, as paths relative to the folder."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk would silently skip what it may not read

    for inside, subfolders, files in os.walk(folder / subfolder, onerror=refuse, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in extensions():
                yield (Path(inside) / name).relative_to(folder).as_posix()


def _rows(table: Path) -> list[TableRow]:
    """Read the table of labels."""
    expected = "expected a CSV file with the columns file and label"
    try:
        with table.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened, skipinitialspace=True)
            found = reader.fieldnames or []
            if absent := [name for name in COLUMNS if name not in found]:
                has = ", ".join(found) or "nothing"
                raise OnepixError(f"{table}: no column '{absent[0]}'; {expected}, found {has}")
            rows = [
                TableRow(f"{table}, line {reader.line_num}", *((row[name] or "").strip() for name in COLUMNS))
                for row in reader
            ]
    except FileNotFoundError:
        raise OnepixError(f"{table}: no such file; {expected}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise OnepixError(f"{table}: cannot be read ({error}); {expected}") from None
    if not rows:
        raise OnepixError(f"{table}: no rows; expected one row per picture")
    return rows


def _by_table(folder: Path, rows: Sequence[TableRow], given: tuple[str, ...] | None) -> Labelled:
    first: dict[str, TableRow] = {}
    for row in rows:
        for column, value in zip(COLUMNS, (row.file, row.label), strict=True):
            if not value:
                raise OnepixError(f"{row.where}: the {column} is missing")
        if not (folder / row.file).is_file():
            raise OnepixError(f"{row.where}: {folder / row.file} does not exist")
        name = Path(os.path.relpath(folder / row.file, folder)).as_posix()
        if name in first:
            raise OnepixError(f"{row.where}: the file {name} is listed before ({first[name].where}); expected it once")
        first[name] = row
    labels, names = _numbers(rows) if given is None else (_indices(rows, given), given)
    return Labelled(list(first), labels, names)


def _indices(rows: Sequence[TableRow], names: tuple[str, ...]) -> list[int]:
    """Read labels as class names, or as indices of class names."""
    indices: dict[str, int] = {}
    for row in rows:
        if row.label not in indices:
            indices[row.label] = _index(row, names)
    return [indices[row.label] for row in rows]


def _index(row: TableRow, names: tuple[str, ...]) -> int:
    if row.label in names or not NUMBER.fullmatch(row.label):
        return index_of(row.label, names, f"{row.where}: label")
    index = _class_index(row)
    if index >= len(names):
        raise OnepixError(f"{row.where}: label {index}, expected one in 0–{len(names) - 1}, the index of a class name")
    return index


def _numbers(rows: Sequence[TableRow]) -> tuple[list[int], tuple[str, ...]]:
    """Read labels as indices if all are numbers; otherwise the sorted labels are the classes."""
    if all(NUMBER.fullmatch(row.label) for row in rows):
        labels = [_class_index(row) for row in rows]
        return labels, numbered(labels, rows[labels.index(max(labels))].where)
    indices = {name: index for index, name in enumerate(sorted({row.label for row in rows}))}
    return [indices[row.label] for row in rows], tuple(indices)


def _class_index(row: TableRow) -> int:
    if not INTEGER.fullmatch(row.label) or int(row.label) < 0:
        raise OnepixError(f"{row.where}: label {row.label}, expected an integer from 0 on or a class name")
    return int(row.label)
