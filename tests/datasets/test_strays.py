"""What else lies among pictures: counted and named, or refused by its cause."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictured import GREY_ALPHA, PALETTE, RGB, RGB_ALPHA, noise, png, written
from PIL import Image, TiffImagePlugin
from refusals import refusal

from onepix.config.datasets import FolderDataset
from onepix.datasets import pictures
from onepix.datasets.pictures import extensions, read_picture
from onepix.datasets.sources import load_dataset
from onepix.images import ImageSet

HEIC = struct.pack(">I4s4sI", 24, b"ftyp", b"heic", 0) + b"mif1heic"
MP4 = struct.pack(">I4s4sI", 24, b"ftyp", b"isom", 0) + b"isommp42"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"


def load(folder: Path, **settings: Any) -> ImageSet:
    return load_dataset(FolderDataset(source="folder", path=str(folder), **settings))


def refused(folder: Path, **settings: Any) -> str:
    return refusal(lambda: load(folder, **settings))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ("cat/a.png", "cat/b.png", "dog/a.png"):
        written(tmp_path / "pets" / name, noise(3, 4, 3))
    return tmp_path / "pets"


def lay(folder: Path, **contents: bytes) -> None:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_heic_beside_other_pictures_is_counted_and_named(pets: Path) -> None:
    lay(pets, **{"cat/c.HEIC": HEIC, "dog/b.heic": HEIC, "dog/c.mpg": b"\0\0\1\xba", "cat/d.h5": b"\x89HDF\r\n\x1a\n"})
    images = load(pets)
    assert images.names == ("cat/a.png", "cat/b.png", "dog/a.png")
    (note,) = images.notes
    assert note.startswith("left out 4 files of 3 kinds: .h5 1 (cat/d.h5: an HDF5 file")
    assert ".heic 2 (first cat/c.HEIC: a picture in HEIC, which is not read; convert it" in note
    assert ".mpg 1 (dog/c.mpg)" in note


def test_strays_are_no_pictures_whatever_they_hold(pets: Path) -> None:
    strays = ("Thumbs.db", "desktop.ini", ".DS_Store", "cat/._a.png", "cat/x.h5", "cat/y.mpeg", "dog/z.eps", "README")
    lay(pets, **dict.fromkeys(strays, b"\0\5\x16\7 words"), **{"__MACOSX/cat/._a.png": b"words", "dog/v.mp4": MP4})
    images = load(pets)
    assert len(images.names) == 3
    assert images.class_names == ("cat", "dog")
    left, empty = images.notes
    assert left.startswith("left out 10 files of 8 kinds: ")
    for part in (
        "hidden 3 (first .DS_Store)",
        ".mp4 1 (dog/v.mp4: a video)",
        "no ending 1 (README)",
        ".db 1 (Thumbs.db)",
    ):
        assert part in left
    assert empty == "subfolders without pictures are no classes: __MACOSX"


def test_a_picture_with_another_ending_is_told_as_such(pets: Path) -> None:
    (pets / "dog" / "download").write_bytes((pets / "dog" / "a.png").read_bytes())
    assert "no ending 1 (dog/download: a PNG picture by its contents" in load(pets).notes[0]


def test_pictures_outside_the_subfolders_are_counted(pets: Path) -> None:
    written(pets / "cover.png", noise(3, 4, 3))
    assert load(pets).notes == ("1 picture lies outside the subfolders, left out: cover.png",)


def test_which_pictures_count_does_not_depend_on_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def opener(*_: Any) -> None:
        raise AssertionError

    opener.__module__ = "pillow_heif.as_plugin"
    monkeypatch.setitem(Image.OPEN, "HEIF", (opener, None))
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    extensions.cache_clear()
    try:
        assert ".heic" not in extensions()
        assert {".png", ".jpg", ".webp", ".tif", ".mpo"} <= extensions()
        assert not {".h5", ".hdf", ".mpg", ".mpeg", ".grib", ".eps", ".pdf"} & extensions()
    finally:
        extensions.cache_clear()


def test_all_bad_pictures_are_named_at_once(pets: Path) -> None:
    whole = noise(40, 60, 3)
    Image.fromarray(whole).save(pets / "cat" / "cut.jpg")
    (pets / "cat" / "cut.jpg").write_bytes((pets / "cat" / "cut.jpg").read_bytes()[:400])
    lay(
        pets,
        **{"dog/b.jpg": HEIC, "dog/c.png": POINTER, "dog/d.png": b"", "cat/e.png": b"words", "dog/e.png": b"words"},
    )
    message = refused(pets)
    assert message.startswith(f"{pets}: 6 of 9 pictures cannot be taken: ")
    assert "not a picture that Pillow can read: cat/e.png, dog/e.png" in message
    for part in ("cat/cut.jpg", "a picture in HEIC", "git lfs pull: dog/c.png", "an empty file: dog/d.png"):
        assert part in message


def test_a_line_names_no_more_than_it_can_hold(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_NAMED", 3)
    lay(pets, **{f"dog/{number}.png": b"words" for number in range(5)})
    assert refused(pets).endswith(
        "5 of 8 pictures cannot be taken: not a picture that Pillow can read: "
        "dog/0.png, dog/1.png, dog/2.png and 2 more"
    )


# --- Alpha, CMYK


OPAQUE = np.concatenate([noise(2, 3, 3), np.full((2, 3, 1), 255, np.uint8)], axis=2)


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (png(OPAQUE, RGB_ALPHA), OPAQUE[..., :3]),
        (png(OPAQUE[..., 2:], GREY_ALPHA), OPAQUE[..., 2]),
        (png(np.full((2, 3, 3), 9, np.uint8), RGB, tRNS=b"\0\1\0\1\0\1"), np.full((2, 3, 3), 9)),  # colour 1, 1, 1
        (
            png(np.ones((2, 3), np.uint8), PALETTE, PLTE=bytes([0, 0, 0, 4, 5, 6]), tRNS=b"\0\xff"),
            [[[4, 5, 6]] * 3] * 2,
        ),
    ],
    ids=["RGB", "grey", "colour", "palette"],
)
def test_an_opaque_alpha_channel_is_dropped(contents: bytes, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(contents)
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.png")), expected)


def test_one_transparent_pixel_is_refused(tmp_path: Path) -> None:
    almost = OPAQUE.copy()
    almost[1, 2, 3] = 254
    (tmp_path / "a.png").write_bytes(png(almost, RGB_ALPHA))
    assert "alpha channel that is not opaque" in refusal(read_picture, tmp_path / "a.png")


def cmyk_tiff(path: Path, ink: tuple[int, ...]) -> None:
    Image.new("CMYK", (4, 2), ink).save(path, "TIFF")
    with Image.open(path) as saved:
        assert saved.tag_v2[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] == 5  # type: ignore[attr-defined]


def cmyk_jpeg(path: Path, ink: tuple[int, ...]) -> None:
    Image.new("CMYK", (4, 2), ink).save(path, "JPEG", quality=100)
    assert b"Adobe" in path.read_bytes(), "Adobe's programs store the inks inverted, and say so"


@pytest.mark.parametrize("write", [cmyk_jpeg, cmyk_tiff])
@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 255, 255, 0), (255, 0, 0)),
    ],
    ids=["cyan", "paper", "black", "red"],
)
def test_cmyk_becomes_the_colour_of_its_ink(
    write: Callable[[Path, tuple[int, ...]], None], ink: tuple[int, ...], colour: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "cat").mkdir()
    path = tmp_path / "cat" / "a.jpg"
    write(path, ink)
    images = load(tmp_path)
    assert abs(images.images.astype(int) - colour).max() <= 2
    assert images.notes == ("1 of 1 pictures: CMYK colours made RGB as torchvision does, without their profile",)


def test_grey_stored_as_colours_is_grey_where_one_channel_is_wanted(tmp_path: Path) -> None:
    grey = noise(3, 5)
    written(tmp_path / "cat" / "a.png", np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(load(tmp_path, channels=1).images, grey[np.newaxis, ..., np.newaxis])
    assert load(tmp_path).images.shape == (1, 3, 5, 3)


# --- Folders that are no classes


def test_an_archive_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"PK\3\4")
    assert "expected a folder of pictures, got a ZIP archive" in refused(tmp_path / "pets.zip")


def laid(folder: Path, names: str) -> Path:
    for name in names.split():
        written(folder / name / "a.png", noise(2, 3))
    return folder


@pytest.mark.parametrize(
    ("names", "path"),
    [
        ("train/cat train/dog val/cat val/dog", "val"),
        ("fold1/cat fold1/dog fold2/cat fold2/dog", "fold1"),
        ("Training/cat Training/dog Testing", "Training"),
        ("train/cat", "train"),
        ("pets/cat pets/dog", "pets"),
        ("a/b/cat a/b/dog", "a/b"),
        ("valid test", "valid"),
    ],
)
def test_parts_of_a_dataset_are_not_taken_for_classes(names: str, path: str, tmp_path: Path) -> None:
    folder = laid(tmp_path / "data", names)
    message = refused(folder)
    assert f"set path to the folder whose subfolders are the classes, such as {folder / path};" in message
    tops = tuple(sorted({name.partition("/")[0] for name in names.split()}))
    assert load(folder, class_names=(*tops, "another")).class_names[: len(tops)] == tops


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("cat/siamese cat/persian dog/poodle dog/pug", ("cat", "dog")),
        ("n01443537/images n01629819/images", ("n01443537", "n01629819")),
        ("trainers sandals", ("sandals", "trainers")),
        ("cat", ("cat",)),
        ("cat/images", ("cat",)),
    ],
)
def test_classes_may_hold_folders(names: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    assert load(laid(tmp_path, names)).class_names == classes


def test_a_link_that_leads_back_is_not_followed(pets: Path) -> None:
    (pets / "cat" / "again").symlink_to(pets)
    images = load(pets)
    assert images.names == ("cat/a.png", "cat/b.png", "dog/a.png")
    assert "folder 1 (cat/again)" in images.notes[0]


def test_folders_that_differ_in_case_only_are_told(pets: Path) -> None:
    if (pets / "CAT").exists():
        pytest.skip("this file system does not tell them apart")
    written(pets / "Cat" / "a.png", noise(3, 4, 3))
    assert load(pets).notes == ("Cat and cat are different classes",)
