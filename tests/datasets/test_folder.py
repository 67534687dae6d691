"""Folders of pictures, with classes by subfolder or by a table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictured import noise, written
from refusals import refusal

from onepix.config.datasets import FolderDataset
from onepix.datasets.class_names import resolve
from onepix.datasets.pictures import extensions
from onepix.datasets.sources import load_dataset
from onepix.images import ImageSet

# --- Folders


def load(folder: Path, **settings: Any) -> ImageSet:
    return load_dataset(FolderDataset(source="folder", path=str(folder), **settings))


def refused(folder: Path, **settings: Any) -> str:
    return refusal(lambda: load(folder, **settings))


@pytest.fixture
def pets(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder with two classes, pictures at two depths, and things to be left out."""
    names = ["dog/b.png", "dog/A.PNG", "dog-like/x.png", "cat/deep/er/b.png", "cat/a.png"]
    pictures = {name: noise(3, 4, 3) for name in names}
    for name, pixels in pictures.items():
        written(tmp_path / "pets" / name, pixels)
    for name in (
        "dog/notes.txt",
        "dog/.hidden.png",
        "cat/.thumbs/a.png",
        ".git/a.png",
        "empty/notes.txt",
        "dog/report.pdf",
    ):
        path = tmp_path / "pets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no picture")
    return tmp_path / "pets", pictures


def test_subfolders_are_classes(pets: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, pictures = pets
    images = load(folder)
    assert images.names == ("cat/a.png", "cat/deep/er/b.png", "dog/A.PNG", "dog/b.png", "dog-like/x.png")
    assert images.class_names == ("cat", "dog", "dog-like")
    assert images.labels.tolist() == [0, 0, 1, 1, 2]
    assert images.ids.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(images.images, [pictures[name] for name in images.names])
    assert str(folder) in images.provenance


def test_class_names_set_the_labels_but_not_the_order(pets: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = pets
    images = load(folder, class_names=("dog-like", "fish", "dog", "cat"))
    assert images.names == load(folder).names
    assert images.labels.tolist() == [3, 3, 2, 2, 0]
    assert images.class_names == ("dog-like", "fish", "dog", "cat")
    assert "subfolder 'cat': 'cat' is not among the 2 class names" in refused(folder, class_names=("dog", "dog-like"))
    assert "classes 0 and 1" in refused(folder, class_names=("cat", "cat", "dog", "dog-like"))


def test_linked_subfolders_count(pets: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "animal").symlink_to(pets[0])
    assert len(load(tmp_path / "links", class_names=("animal", "plant")).names) == 5


def test_pictures_are_fitted_and_the_provenance_says_so(pets: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, pictures = pets
    images = load(folder, resize=6, crop=(4, 6), interpolation="nearest")
    grown = pictures["cat/a.png"].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(images.images[0], grown[1:5, 1:7])
    for part in ("shorter side of 6", "nearest", "4 × 6"):
        assert part in images.provenance


def test_a_folder_inside_a_package(
    pets: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "pet_pictures"
    package.parent.mkdir()
    pets[0].rename(package)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    images = load_dataset(FolderDataset(source="folder", path="package:pet_pictures"))
    assert images.class_names == ("cat", "dog", "dog-like")
    assert "package:pet_pictures" in images.provenance
    assert str(tmp_path) not in images.provenance


def test_folders_without_pictures_or_classes_are_refused(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "absent")
    (tmp_path / "file").touch()
    assert "no such folder" in refused(tmp_path / "file")
    written(tmp_path / "flat" / "a.png", noise(2, 2))
    message = refused(tmp_path / "flat")
    assert "labels are missing" in message
    assert "columns file and label" in message
    (tmp_path / "bare" / "cat").mkdir(parents=True)
    assert "no pictures" in refused(tmp_path / "bare")


def test_a_damaged_picture_and_sizes_that_differ_are_named(pets: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = pets
    written(folder / "dog" / "c.png", noise(5, 4, 3))
    message = refused(folder)
    assert f"{folder}/cat/a.png has 3 × 4, {folder}/dog/c.png has 5 × 4" in message
    (folder / "dog" / "c.png").write_text("words")
    assert refused(folder).startswith(f"{folder}/dog/c.png: not a picture")


def test_endings_are_those_that_pillow_reads() -> None:
    assert {".png", ".jpg", ".jpeg", ".tif", ".webp", ".mpo", ".bmp", ".ppm"} <= extensions()
    assert not {".pdf", ".txt", ".csv", ""} & extensions()


# --- Tables of labels


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A folder of grey pictures, each of one value: a is 10, b is 20, c is 30."""
    for value, name in ((10, "a"), (20, "b"), (30, "sub/c")):
        written(tmp_path / "flat" / f"{name}.png", np.full((2, 3), value, np.uint8))
    return tmp_path / "flat"


def table(folder: Path, text: str) -> str:
    path = folder.parent / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_table_sets_order_and_labels(flat: Path) -> None:
    labels = table(flat, '\ufefffile, author, label\nsub/c.png, me, dog\n\n./a.png, "you, too", cat\nb.png,,dog\n')
    images = load(flat, labels=labels)
    assert images.images[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert images.images.shape == (3, 2, 3, 1)
    assert images.names == ("sub/c.png", "a.png", "b.png")
    assert images.ids.tolist() == [0, 1, 2]
    assert images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [1, 0, 1]
    assert labels in images.provenance


@pytest.mark.parametrize(
    ("given", "written_labels", "labels", "names"),
    [
        (None, "2 0 2", [2, 0, 2], ("0", "1", "2")),
        (None, "two 1 two", [1, 0, 1], ("1", "two")),
        (None, "NA null NA", [0, 1, 0], ("NA", "null")),
        (("dog", "cat"), "cat dog 1", [1, 0, 1], ("dog", "cat")),
        (("1", "0"), "0 1 1", [1, 0, 0], ("1", "0")),  # a name goes before an index
        ("imagenet", "tench 999 goldfish", [0, 999, 1], resolve("imagenet")),
    ],
)
def test_labels_are_names_or_indices(
    given: Any, written_labels: str, labels: list[int], names: tuple[str, ...], flat: Path
) -> None:
    rows = zip(["a.png", "b.png", "sub/c.png"], written_labels.split(), strict=True)
    text = "label,file\n" + "".join(f"{label},{file}\n" for file, label in rows)
    images = load(flat, labels=table(flat, text), class_names=given)
    assert images.labels.tolist() == labels
    assert images.class_names == names


NAMES = {"class_names": ("cat", "dog")}


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("", {}, ["no column 'file'", "columns file and label", "nothing"]),
        ("file,size,author\na.png,1,me\n", {}, ["no column 'label'", "file, size, author"]),
        ("file label\na.png cat\n", {}, ["no column 'file'", "file label"]),
        ("file,label\n", {}, ["no rows"]),
        ("file,label\na.png,cat\nb.png,\n", {}, ["line 3", "label is missing"]),
        ("file,label\na.png,cat\nb.png\n", {}, ["line 3", "label is missing"]),
        ("file,label\n,cat\n", {}, ["line 2", "file is missing"]),
        ("file,label\nz.png,cat\n", {}, ["line 2", "z.png does not exist"]),
        ("file,label\nsub,cat\n", {}, ["line 2", "sub does not exist"]),
        ("file,label\na.png,cat\n\nsub/../a.png,dog\n", {}, ["line 4", "a.png is listed before", "line 2"]),
        ("file,label\na.png,cta\n", NAMES, ["line 2", "'cta'", "did you mean 'cat'?"]),
        ("file,label\na.png,0\nb.png,2\n", NAMES, ["line 3", "label 2", "0–1"]),
        ("file,label\na.png,-1\n", NAMES, ["line 2", "label -1", "integer"]),
        ("file,label\na.png,1.0\n", NAMES, ["line 2", "label 1.0", "integer"]),
        ("file,label\na.png,0\nb.png,-1\n", {}, ["line 3", "label -1", "integer"]),
        ("file,label\na.png,0.5\nb.png,1\n", {}, ["line 2", "label 0.5", "integer"]),
        ("file,label\na.png,1\nb.png,100000\n", {}, ["line 3", "below 100000, got 100000"]),
    ],
)
def test_wrong_tables_are_refused_by_line(text: str, settings: dict[str, Any], said: list[str], flat: Path) -> None:
    path = table(flat, text)
    message = refused(flat, labels=path, **settings)
    for part in [path, *said]:
        assert part in message


def test_a_missing_table_and_one_of_another_encoding_are_named(flat: Path, tmp_path: Path) -> None:
    assert f"{tmp_path}/absent.csv: no such file" in refused(flat, labels=f"{tmp_path}/absent.csv")
    assert str(tmp_path) in refused(flat, labels=str(tmp_path))
    (tmp_path / "latin.csv").write_bytes("file,label\na.png,Kälte\n".encode("latin-1"))
    assert f"{tmp_path}/latin.csv: cannot be read" in refused(flat, labels=f"{tmp_path}/latin.csv")
