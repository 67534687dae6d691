"""Tables of labels and lists of ids in the forms that programs write them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictured import written
from refusals import refusal

from onepix.config.datasets import FolderDataset
from onepix.config.selection import parse_ids
from onepix.datasets.selection import ids_in_file
from onepix.datasets.sources import load_dataset
from onepix.images import ImageSet


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A folder of grey pictures, each of one value: a is 10, b is 20, c is 30."""
    for value, name in ((10, "a"), (20, "b"), (30, "sub/c")):
        written(tmp_path / "flat" / f"{name}.png", np.full((2, 3), value, np.uint8))
    return tmp_path / "flat"


def load(folder: Path, contents: str | bytes, **settings: Any) -> ImageSet:
    table = folder.parent / "labels.csv"
    table.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return load_dataset(FolderDataset(source="folder", path=str(folder), labels=str(table), **settings))


def classes(images: ImageSet) -> dict[int, str]:
    """Return the class of each picture, by its value."""
    names = [images.class_names[label] for label in images.labels]
    return dict(zip(images.images[:, 0, 0, 0].tolist(), names, strict=True))


@pytest.mark.parametrize(
    "contents",
    [
        "file;label\na.png;cat\nsub/c.png;dog\n",
        "file\tlabel\na.png\tcat\nsub/c.png\tdog\n",
        "file|label\r\na.png|cat\r\nsub/c.png|dog\r\n",
        "\ufefffile,label\na.png,cat\nsub\\c.png,dog\n",
        "file,label\na.png,cat\nsub/c.png,dog\n".encode("utf-16"),
        '"File" , "Label"\n"a.png","cat"\n"sub/c.png","dog"\n',
        "file,label\ra.png,cat\rsub/c.png,dog\r",
        ",file,label\n0,a.png,cat\n1,sub/c.png,dog\n",
    ],
    ids=["semicolons", "tabs", "bars", "backslashes", "UTF-16", "quotes", "CR", "row numbers"],
)
def test_tables_as_programs_write_them(contents: str | bytes, flat: Path) -> None:
    images = load(flat, contents)
    assert classes(images) == {10: "cat", 30: "dog"}
    assert images.names == ("a.png", "sub/c.png")
    assert images.notes == ()


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("filename,class\na.png,cat\nsub/c.png,dog\n", "from column 'filename', labels from column 'class'"),
        ("width,Name,breed,age\n3,a.png,cat,1\n3,sub/c.png,dog,2\n", "column 'name', labels from column 'breed'"),
        ("a.png,cat\nsub/c.png,dog\n", "files are taken from column 1, labels from column 2"),
        ("cat;a.png\ndog;sub\\c.png\n", "files are taken from column 2, labels from column 1"),
        ("id,label\na,cat\nsub/c,dog\n", "files are taken from column 'id'"),
        ("file,label\nC:\\data\\flat\\a.png,cat\nC:\\data\\flat\\sub\\c.png,dog\n", "begin with C:/data/flat"),
        ("file,label\n/home/me/a.png,cat\n/home/me/sub/c.png,dog\n", "paths in the table begin with /home/me,"),
        ("file,label\nflat/a.png,cat\nflat/sub/c.png,dog\n", "paths in the table begin with flat,"),
    ],
)
def test_what_a_table_means_is_found_and_told(contents: str, said: str, flat: Path) -> None:
    images = load(flat, contents)
    assert classes(images) == {10: "cat", 30: "dog"}
    assert said in images.notes[0]


def test_paths_are_cut_all_or_none(flat: Path) -> None:
    """Otherwise dog/a.png, which is missing, would be taken for a.png, which is another picture."""
    message = refusal(lambda: load(flat, "file,label\na.png,cat\ndog/b.png,dog\n"))
    assert "dog/b.png does not exist" in message


def test_all_missing_files_are_counted_and_named(flat: Path) -> None:
    message = refusal(lambda: load(flat, "file,label\na.png,cat\nz.png,cat\n\ny.png,dog\n"))
    assert message.endswith(f"labels.csv: 2 of 3 files do not exist in {flat}: z.png (line 3), y.png (line 5)")


def test_labels_that_are_numbers_or_of_imagenet(flat: Path) -> None:
    ordered = load(flat, "file,label\na.png,class_10\nb.png,class_9\n")
    assert (ordered.class_names, ordered.labels.tolist()) == (("class_9", "class_10"), [1, 0])
    as_text = load(flat, "file,label\na.png,class_10\nb.png,class_9\n", class_order="text")
    assert as_text.labels.tolist() == [0, 1]
    known = load(flat, "file,label\na.png,n03028079\nb.png,English_springer\n", class_names="imagenet")
    assert known.labels.tolist() == [497, 217]


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\3\4 a workbook", "a ZIP archive, or a format made of one (.npz, .xlsx"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"file,class,target\na.png,1,2\n", "no column 'label'"),
        (b"x,y\n1,2\n", "no column 'file'"),
    ],
)
def test_what_is_no_table_is_told_by_its_cause(contents: bytes, said: str, flat: Path) -> None:
    message = refusal(lambda: load(flat, contents))
    assert said in message
    assert "expected a CSV file with the columns file and label" in message


# --- Lists of ids


@pytest.mark.parametrize(
    "contents",
    [
        b"\xef\xbb\xbf0-2\r\n\r\n9 # nine\r\n",
        "0-2, 9\n".encode("utf-16"),
        "0–2\n# comment\n 9\n".encode(),
    ],
    ids=["byte order mark", "UTF-16", "dash"],
)
def test_lists_of_ids_as_editors_write_them(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(contents)
    assert ids_in_file(tmp_path / "ids.txt") == (0, 1, 2, 9)


def test_a_dash_of_a_text_processor_is_a_range() -> None:
    assert parse_ids("0–2, 9") == (0, 1, 2, 9)


def test_a_message_about_strange_cells_is_one_line(flat: Path) -> None:
    message = refusal(lambda: load(flat, 'file,label\na.png,"two\nlines\x1b[31m"\n', class_names=("cat", "dog")))
    assert r"'two\nlines\x1b[31m' is not among the 2 class names" in message
    images = load(flat, 'name,"the\nlabel"\na.png,cat\n')
    assert images.notes[0].endswith(r"labels from column 'the\nlabel'")
