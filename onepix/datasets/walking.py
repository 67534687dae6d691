"""Finds the pictures below a folder, and tells what else lies there."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from onepix.datasets.contents import kind_of
from onepix.datasets.pictures import extensions
from onepix.errors import OnepixError

SPLITS = ("train", "test", "val", "dev", "eval", "holdout")  # how names of parts of a dataset begin
SHOWN = 3  # names that a message gives as examples


class Walked(NamedTuple):
    """What lies below a folder, as paths relative to it, sorted."""

    pictures: list[str]
    strays: list[str]  # files that are no pictures by their ending, and hidden files and folders
    folders: list[str]  # directly in it, without hidden ones


def walk(folder: Path) -> Walked:
    """Find pictures at any depth, following links, but not around in circles.

    Raises
    ------
    OSError
        If a folder may not be read.
    """
    pictures: list[str] = []
    strays: list[str] = []

    def refuse(error: OSError) -> None:
        raise error  # os.walk would silently skip what it may not read

    for inside, subfolders, files in os.walk(folder, onerror=refuse, followlinks=True):
        path = Path(inside)
        around = [name for name in subfolders if _leads_back(path / name)]
        hidden = [name for name in subfolders if name.startswith(".")]
        subfolders[:] = sorted({*subfolders}.difference(around, hidden))
        for name in files + [f"{name}/" for name in hidden + around]:
            taken = not name.startswith(".") and Path(name).suffix.lower() in extensions() and name[-1] != "/"
            (pictures if taken else strays).append((path / name).relative_to(folder).as_posix())
    direct = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return Walked(sorted(pictures), sorted(strays), sorted(direct))


def _leads_back(path: Path) -> bool:
    """Tell whether a link leads to a folder in which it lies itself."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def left_out(folder: Path, files: Iterable[str]) -> list[str]:
    """Return one line that counts files by their ending, and names the first of each; none if there are no files."""
    kinds = defaultdict[str, list[str]](list)
    for file in files:
        name = PurePosixPath(file).name
        ending = PurePosixPath(name).suffix.lower() or "no ending"
        kinds["hidden" if name.startswith(".") else "folder" if (folder / file).is_dir() else ending].append(file)
    if not kinds:
        return []
    count = sum(map(len, kinds.values()))
    said = [_of_kind(folder, kind, found) for kind, found in sorted(kinds.items())]
    return [f"left out {_number(count, 'file')} of {_number(len(kinds), 'kind')}: {', '.join(said)}"]


def _of_kind(folder: Path, kind: str, files: Sequence[str]) -> str:
    what = _contents(folder / files[0]) if kind != "hidden" else ""
    return f"{kind} {len(files)} ({'first ' if len(files) > 1 else ''}{files[0]}{': ' if what else ''}{what})"


def _contents(path: Path) -> str:
    """Return what a file is by its contents; empty if that is not known."""
    if found := kind_of(path):
        return found
    try:
        with Image.open(path) as picture:
            return f"a {picture.format} picture by its contents; such an ending would make it count"
    except Exception:  # a stray of any kind, for which Pillow's readers may raise almost anything
        return ""


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def refuse_parts(folder: Path, by_class: Mapping[str, Sequence[str]]) -> None:
    """Refuse subfolders that are not classes but parts of a dataset, which hold the classes: train and val.

    Parameters
    ----------
    folder : Path
        Named in errors.
    by_class : mapping
        The pictures of each subfolder, relative to the folder.

    Raises
    ------
    OnepixError
        If two subfolders hold folders of the same names, if subfolders have the names of parts of a dataset and hold
        folders, if all have such names, or if the only subfolder holds folders.
    """
    names = sorted(by_class)
    inner = {name: _folders_with_pictures(by_class[name]) for name in names}
    same = [a for a in names if any(a != b and len(inner[a] & inner[b]) > 1 for b in names)]
    named = [name for name in names if name.lower().startswith(SPLITS)]
    named = named if len(named) == len(names) else [name for name in named if inner[name]]
    if same:
        shared = sorted(set.union(*(inner[name] for name in same)))
        raise _parts(folder, _best(same), f"{_some(same)} hold the same folders ({_some(shared)})", names)
    if named:
        why = "are named like parts of a dataset" if len(named) > 1 else "is named like a part of a dataset"
        raise _parts(folder, _best([name for name in named if inner[name]] or named), f"{_some(named)} {why}", names)
    if len(names) == 1 and (fork := _first_fork(by_class[names[0]])):
        raise _parts(folder, fork, f"the only subfolder with pictures, {names[0]}, holds folders", names)


def _folders_with_pictures(files: Iterable[str]) -> set[str]:
    """Return the names of a subfolder's folders; none if pictures lie directly in the subfolder."""
    parts = [PurePosixPath(file).parts for file in files]
    return set() if any(len(part) == 2 for part in parts) else {part[1] for part in parts}


def _first_fork(files: Sequence[str]) -> str:
    """Return the folder that all pictures share, if they lie in several folders below it; otherwise nothing."""
    parents = [PurePosixPath(file).parent for file in files]
    common = os.path.commonpath(parents)
    return "" if PurePosixPath(common) in parents else common


def _best(names: Sequence[str]) -> str:
    """Return the part that is most likely meant for attacks."""
    return next((name for start in ("val", "test") for name in names if name.lower().startswith(start)), names[0])


def _parts(folder: Path, path: str, why: str, classes: Sequence[str]) -> OnepixError:
    return OnepixError(
        f"{folder}: {why}: set path to the folder whose subfolders are the classes, such as {folder / path}; "
        f"or list {_some(classes)} in class_names, if these are the classes"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
