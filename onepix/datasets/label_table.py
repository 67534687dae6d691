"""Tables of labels: CSV in the forms that people have."""

import codecs
import csv
import io
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from onepix.datasets.class_names import ClassOrder, index_of, numbered, ordered
from onepix.datasets.contents import kind_of
from onepix.datasets.pictures import extensions
from onepix.errors import OnepixError

COLUMNS = ("file", "label")
EXPECTED = "expected a CSV file with the columns file and label"
SEPARATORS = (",", ";", "\t", "|")
LABELS = re.compile(r".*(label|class|target|categor|species|breed).*")  # what a column of labels is called, too
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
TRIED = 100  # rows by which columns are found
MOST_NAMED = 20  # files that one message names


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
    notes: list[str]


class _Line(NamedTuple):
    number: int
    cells: list[str]


def read_labels(folder: Path, table: Path, given: tuple[str, ...] | None, order: ClassOrder) -> Labelled:
    """Read which pictures a table lists, and their classes.

    Parameters
    ----------
    folder : Path
        Holds the pictures.
    table : Path
        CSV in UTF-8 or UTF-16, with commas, semicolons, tabs or bars. If it has no columns `file` and `label`, the
        column that names files of the folder is taken, and the only other one, or the only one whose name says what
        it is; a first line that names a file is no header. Paths may have backslashes, and begin with folders above
        `folder`, the same in all rows; names may lack the ending.
    given : tuple of str or None
        Class names.
    order : {"numbers", "text"}
        Of labels that are no numbers, without class names.

    Raises
    ------
    OnepixError
        If the table, a file or a label is missing or not as it should be.
    """
    lines = _lines(table)
    rows, notes = _rows(table, lines, folder)
    files, said = _files(folder, rows)
    labels, names = _numbers(rows, order) if given is None else (_indices(rows, given), given)
    return Labelled(files, labels, names, notes + said)


def _lines(table: Path) -> list[_Line]:
    """Read the cells of all lines that are not empty."""
    try:
        contents = table.read_bytes()
    except FileNotFoundError:
        raise OnepixError(f"{table}: no such file; {EXPECTED}") from None
    wide = contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        if kind_of(table).startswith(("a ", "compressed")):
            raise ValueError(kind_of(table))
        text = contents.decode("utf-16" if wide else "utf-8-sig")
        readers = {separator: _cells(text, separator) for separator in SEPARATORS}
    except (ValueError, csv.Error) as error:
        raise OnepixError(f"{table}: cannot be read ({error}); {EXPECTED}") from None
    named = [lines for lines in readers.values() if lines and set(COLUMNS) <= {*_header(lines)}]
    return (named or sorted(readers.values(), key=lambda lines: -_columns(lines)))[0]


def _cells(text: str, separator: str) -> list[_Line]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    return [
        _Line(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)
    ]


def _header(lines: Sequence[_Line]) -> list[str]:
    return [cell.lower() for cell in lines[0].cells] if lines else []


def _columns(lines: Sequence[_Line]) -> int:
    """Return how many columns there are; 0 if the first lines differ in that."""
    counts = {len(line.cells) for line in lines[:TRIED]}
    return counts.pop() if len(counts) == 1 else 0


def _rows(table: Path, lines: Sequence[_Line], folder: Path) -> tuple[list[TableRow], list[str]]:
    """Find the columns of files and labels."""
    header, notes = _header(lines), []
    columns = [header.index(name) if name in header else None for name in COLUMNS]
    first = 1
    if None in columns:
        file = columns[0] if columns[0] is not None else _file_column(lines, folder)
        label = None if file is None else _label_column(header, file)
        if file is None or label is None:
            absent = COLUMNS[0] if file is None else COLUMNS[1]
            raise OnepixError(f"{table}: no column '{absent}'; {EXPECTED}, found {', '.join(header) or 'nothing'}")
        first = 0 if _exists(folder, lines[0].cells[file]) else 1
        columns = [file, label]
        said = [f"'{header[index]}'" if first else str(index + 1) for index in (file, label)]
        notes.append(f"{table}: files are taken from column {said[0]}, labels from column {said[1]}")
    rows = [
        TableRow(f"{table}, line {line.number}", *(line.cells[c] if c < len(line.cells) else "" for c in columns))  # type: ignore[operator,index]
        for line in lines[first:]
    ]
    if not rows:
        raise OnepixError(f"{table}: no rows; expected one row per picture")
    for row in rows:
        for column, value in zip(COLUMNS, (row.file, row.label), strict=True):
            if not value:
                raise OnepixError(f"{row.where}: the {column} is missing")
    return rows, notes


def _file_column(lines: Sequence[_Line], folder: Path) -> int | None:
    """Return the column in which most cells name pictures of the folder."""
    tried = lines[:TRIED]
    width = len(tried[0].cells) if tried else 0
    columns = [[line.cells[index] for line in tried if index < len(line.cells)] for index in range(width)]
    counts = [
        sum(_exists(folder, cell, strip) for cell in cells)
        for cells in columns
        for strip in [_above(folder, [cell for cell in cells[1:] or cells if cell])]
    ]
    return counts.index(max(counts)) if any(counts) else None


def _label_column(header: Sequence[str], file: int) -> int | None:
    others = [index for index in range(len(header)) if index != file]
    named = [index for index in others if header[index] == COLUMNS[1]] or [
        index for index in others if LABELS.fullmatch(header[index])
    ]
    fitting = others if len(others) == 1 else named
    return fitting[0] if len(fitting) == 1 else None


def _files(folder: Path, rows: Sequence[TableRow]) -> tuple[list[str], list[str]]:
    """Find the file of each row."""
    strip = _above(folder, [row.file for row in rows])
    first: dict[str, TableRow] = {}
    missing = []
    for row in rows:
        file = _found(folder, row.file, strip)
        if file is None:
            missing.append(row)
            continue
        name = Path(os.path.relpath(folder / file, folder)).as_posix()
        if name in first:
            raise OnepixError(f"{row.where}: the file {name} is listed before ({first[name].where}); expected it once")
        first[name] = row
    if len(missing) == 1:
        raise OnepixError(f"{missing[0].where}: {folder / _slashed(missing[0].file)} does not exist")
    if missing:
        table = missing[0].where.rpartition(", line")[0]
        said = ", ".join(f"{row.file} (line {row.where.rpartition(' ')[2]})" for row in missing[:MOST_NAMED])
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise OnepixError(f"{table}: {len(missing)} of {len(rows)} files do not exist in {folder}: {said}{more}")
    above = "/".join(PurePosixPath(_slashed(rows[0].file)).parts[:strip]).replace("//", "/")
    return list(first), [f"paths in the table begin with {above}, which is left out"] if strip else []


def _above(folder: Path, files: Sequence[str]) -> int:
    """Return how many folders at the beginning of all paths lie above the folder: 0 if a file is found as it stands."""
    parents = [PurePosixPath(_slashed(file)).parts[:-1] for file in files]
    shared = len(list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))))
    for strip in range(shared + 1):
        if any(_exists(folder, file, strip) for file in files):
            return strip
    return 0


def _exists(folder: Path, file: str, strip: int = 0) -> bool:
    return bool(file) and _found(folder, file, strip) is not None


def _found(folder: Path, file: str, strip: int) -> str | None:
    """Return the path of a picture in the folder, as it stands or with slashes, and with its ending."""
    slashed = "/".join(PurePosixPath(_slashed(file)).parts[strip:]) if strip else _slashed(file)
    for path in (slashed,) if strip else (file, slashed):
        if (folder / path).is_file():
            return path
    endings = [] if Path(slashed).suffix.lower() in extensions() else sorted(extensions())
    found = [path for ending in endings if (folder / (path := f"{slashed}{ending}")).is_file()]
    return found[0] if len(found) == 1 else None


def _slashed(file: str) -> str:
    return file.replace("\\", "/")


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


def _numbers(rows: Sequence[TableRow], order: ClassOrder) -> tuple[list[int], tuple[str, ...]]:
    """Read labels as indices if all are numbers; otherwise the labels in their order are the classes."""
    if all(NUMBER.fullmatch(row.label) for row in rows):
        labels = [_class_index(row) for row in rows]
        return labels, numbered(labels, rows[labels.index(max(labels))].where)
    names = ordered((row.label for row in rows), order)
    indices = {name: index for index, name in enumerate(names)}
    return [indices[row.label] for row in rows], names


def _class_index(row: TableRow) -> int:
    if not INTEGER.fullmatch(row.label) or int(row.label) < 0:
        raise OnepixError(f"{row.where}: label {row.label}, expected an integer from 0 on or a class name")
    return int(row.label)
