"""Pictures of any kind: read, fitted, found in folders and in torchvision's datasets."""

import hashlib
import pickle
import struct
import sys
import urllib.error
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import tenacity
import torch
import torchvision
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, VisionDataset

from onepix.config.datasets import ArraysDataset, FolderDataset, Pictures, TorchvisionDataset
from onepix.datasets import cifar10
from onepix.datasets.arrays import load_arrays, save_arrays
from onepix.datasets.cifar10 import CLASS_NAMES, read_cifar10
from onepix.datasets.class_names import resolve
from onepix.datasets.pictures import extensions, fit, read_picture, stack
from onepix.datasets.sources import load_dataset
from onepix.errors import OfflineError, OnepixError
from onepix.images import ImageSet

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # PNG's colour types
RNG = np.random.default_rng(0)


def refusal(function: Callable[..., Any], *arguments: Any) -> str:
    """Return the one line with which a call is refused."""
    with pytest.raises(OnepixError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: np.ndarray, colour_type: int, **chunks: bytes) -> bytes:
    """Write a PNG by hand: 8 or 16 bits a sample as the array has, no filter."""
    height, width = pixels.shape[:2]
    depth = 8 * pixels.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    between = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    data = chunk(b"IHDR", header) + between + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def written(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(pixels, GREY if pixels.ndim == 2 else RGB))
    return path


# --- Reading one picture


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)], ids=["grey", "colour"])
def test_pixels_are_those_in_the_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = noise(*shape)
    np.testing.assert_array_equal(np.asarray(read_picture(written(tmp_path / "a.png", pixels))), pixels)


def test_palettes_become_their_colours(tmp_path: Path) -> None:
    palette = noise(7, 3)
    indices = np.array([[0, 6, 2], [5, 1, 1]], np.uint8)
    (tmp_path / "a.png").write_bytes(png(indices, PALETTE, PLTE=palette.tobytes()))
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.png")), palette[indices])


def test_two_levels_become_black_and_white(tmp_path: Path) -> None:
    (tmp_path / "a.pbm").write_text("P1\n3 2\n0 1 1\n1 0 0\n")  # in this format, 1 is black
    read = np.asarray(read_picture(tmp_path / "a.pbm"))
    assert read.tolist() == [[255, 0, 0], [0, 255, 255]]


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.swapaxes(0, 1)),
        (6, lambda stored: np.rot90(stored, -1)),  # the camera was turned: a quarter clockwise to view it
        (7, lambda stored: stored[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda stored: np.rot90(stored, 1)),
    ],
)
@pytest.mark.parametrize("palette", [False, True])
def test_pictures_stand_upright(
    orientation: int, upright: Callable[[np.ndarray], np.ndarray], palette: bool, tmp_path: Path
) -> None:
    exif = b"MM\0*\0\0\0\x08" + b"\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"
    stored, colours = noise(2, 3), noise(256, 3)
    contents = png(stored, PALETTE, eXIf=exif, PLTE=colours.tobytes()) if palette else png(stored, GREY, eXIf=exif)
    (tmp_path / "a.png").write_bytes(contents)
    expected = upright(colours[stored] if palette else stored)
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.png")), expected)


def test_of_a_photograph_with_several_views_the_first_is_read(tmp_path: Path) -> None:
    views = [Image.new("RGB", (16, 8), colour) for colour in ((200, 10, 10), (10, 200, 10))]
    views[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=views[1:])
    assert Image.open(tmp_path / "a.jpg").n_frames == 2  # type: ignore[attr-defined]
    read = np.asarray(read_picture(tmp_path / "a.jpg")).astype(int)
    assert read.shape == (8, 16, 3)
    assert abs(read - [200, 10, 10]).max() < 5


def saved(image: Image.Image, kind: str, **options: Any) -> Callable[[Path], object]:
    return lambda path: image.save(path, kind, **options)


def bytes_of(contents: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(contents)


def cut(kind: str) -> Callable[[Path], object]:
    """Return what writes the first half of a file."""

    def write(path: Path) -> None:
        Image.fromarray(noise(40, 60, 3)).save(path, kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


def tiff(pixels: np.ndarray) -> bytes:
    """Write an uncompressed RGB TIFF by hand: little-endian, one strip."""
    height, width = pixels.shape[:2]
    deep = struct.pack("<HHH", *[8 * pixels.dtype.itemsize] * 3)
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    start = 8 + len(deep) + len(data)
    tags = [(256, 1, width), (257, 1, height), (258, 3, 8), (259, 1, 1), (262, 1, 2), (273, 1, 14), (277, 1, 3)]
    tags += [(278, 1, height), (279, 1, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 3, count, value) for tag, count, value in tags)
    return struct.pack("<2sHI", b"II", 42, start) + deep + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_tiff_of_eight_bits_is_read(tmp_path: Path) -> None:
    pixels = noise(2, 4, 3)
    (tmp_path / "a.tif").write_bytes(tiff(pixels))
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.tif")), pixels)


WIDE = np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 5000
FRAMES = [Image.new("L", (4, 4), value) for value in (0, 255)]
PPM_1000 = b"P6\n2 1\n1000\n" + np.array([1, 2, 3, 900, 901, 902], ">u2").tobytes()
SIXTEEN, ALPHA = "16 bits a channel, expected 8", "has an alpha channel; flatten it onto a background first"


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (bytes_of(b"these are words"), "not a picture"),
        (bytes_of(b""), "not a picture"),
        (cut("PNG"), "not a whole picture"),
        (cut("JPEG"), "not a whole picture"),
        (lambda _: None, "No such file or directory"),
        (bytes_of(png(WIDE[..., 0], GREY)), SIXTEEN),
        (bytes_of(png(WIDE, RGB)), SIXTEEN),
        (bytes_of(png(np.zeros((2, 2, 4), np.uint16), RGB_ALPHA)), SIXTEEN),
        (bytes_of(tiff(WIDE)), SIXTEEN),
        (bytes_of(PPM_1000), SIXTEEN),
        (bytes_of(b"P5\n2 1\n65535\n\1\2\3\4"), SIXTEEN),
        (saved(Image.new("I;16", (2, 3)), "TIFF"), SIXTEEN),
        (saved(Image.new("I", (2, 3)), "TIFF"), "32 bits a channel (mode I), expected 8"),
        (saved(Image.new("F", (2, 3)), "TIFF"), "32 bits a channel (mode F), expected 8"),
        (bytes_of(png(noise(2, 3, 4), RGB_ALPHA)), ALPHA),
        (bytes_of(png(noise(2, 3, 2), GREY_ALPHA)), ALPHA),
        (bytes_of(png(noise(2, 3), GREY, tRNS=b"\0\1")), ALPHA),
        (bytes_of(png(noise(2, 3, 3), RGB, tRNS=b"\0\1\0\1\0\1")), ALPHA),
        (bytes_of(png(noise(2, 3), PALETTE, PLTE=bytes(768), tRNS=b"\0")), ALPHA),
        (saved(Image.new("CMYK", (2, 3)), "TIFF"), "mode CMYK, expected RGB or grey"),
        (saved(Image.new("LAB", (2, 3)), "TIFF"), "mode LAB, expected RGB or grey"),
        (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "has 2 frames"),
        (saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "has 2 frames"),
        (saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "has 2 frames"),
    ],
)
def test_what_is_no_eight_bit_picture_is_refused_by_name(
    write: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.png"
    write(path)
    message = refusal(read_picture, path)
    assert message.startswith(f"{path}: ")
    assert said in message


def test_sixteen_bits_a_pixel_are_no_more_than_eight_a_channel(tmp_path: Path) -> None:
    # A BMP of one white pixel with 5, 6 and 5 bits a channel.
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0) + masks
    (tmp_path / "a.bmp").write_bytes(struct.pack("<2sIII", b"BM", 14 + 52 + 4, 0, 14 + 52) + header + b"\xff\xff\0\0")
    assert np.asarray(read_picture(tmp_path / "a.bmp")).tolist() == [[[255, 255, 255]]]


# --- Fitting


def fitted(pixels: np.ndarray, **settings: Any) -> np.ndarray:
    return np.asarray(fit(Image.fromarray(pixels), Pictures(**settings), "a.png"))


@pytest.mark.parametrize("channels", [(), (3,)])
def test_twice_the_size_repeats_each_pixel(channels: tuple[int, ...]) -> None:
    pixels = noise(2, 3, *channels)
    grown = fitted(pixels, resize=4, interpolation="nearest")
    np.testing.assert_array_equal(grown, pixels.repeat(2, axis=0).repeat(2, axis=1))


def test_two_sides_are_height_and_width() -> None:
    pixels = noise(2, 3)
    grown = fitted(pixels, resize=(4, 9), interpolation="nearest")
    np.testing.assert_array_equal(grown, pixels.repeat(2, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize(("shape", "expected"), [((20, 30), (10, 15)), ((30, 20), (15, 10)), ((5, 5), (10, 10))])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_the_shorter_side_is_resized_and_one_colour_stays(
    shape: tuple[int, int], expected: tuple[int, int], interpolation: str
) -> None:
    resized = fitted(np.full((*shape, 3), (7, 130, 255), np.uint8), resize=10, interpolation=interpolation)
    assert resized.shape == (*expected, 3)
    assert (resized == (7, 130, 255)).all()


def test_half_the_size_is_antialiased() -> None:
    # Pairs of columns of 0 and of 240. The tent that halves them is four columns wide and weighs the columns
    # 2i − 1 … 2i + 2 by 1, 3, 3, 1 eighths: a pair of 240 becomes 6/8 of it. Without antialiasing it would stay 240.
    stripes = np.tile(np.array([0, 0, 240, 240], np.uint8), (8, 4))
    halved = fitted(stripes, resize=4)
    assert halved.shape == (4, 8)
    assert halved[0, 1:-1].tolist() == [180, 60, 180, 60, 180, 60]


def test_the_crop_is_the_middle() -> None:
    pixels = noise(5, 8, 3)
    np.testing.assert_array_equal(fitted(pixels, crop=(3, 4)), pixels[1:4, 2:6])
    np.testing.assert_array_equal(fitted(pixels, crop=1)[0, 0], pixels[2, 4])  # 3.5 rounds to the even 4
    np.testing.assert_array_equal(fitted(pixels, crop=(5, 8)), pixels)


def test_the_crop_follows_the_resize() -> None:
    pixels = noise(3, 5)
    grown = pixels.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(fitted(pixels, resize=6, crop=(4, 6), interpolation="nearest"), grown[1:5, 2:8])


@pytest.mark.parametrize(("crop", "shape"), [(6, (5, 9)), (6, (9, 5)), ((4, 3), (3, 9))])
def test_pictures_smaller_than_the_crop_are_refused(crop: Any, shape: tuple[int, int]) -> None:
    message = refusal(fit, Image.fromarray(noise(*shape)), Pictures(crop=crop), "a.png")
    assert message.startswith(f"a.png: {shape[0]} × {shape[1]} (height × width) is smaller than the crop")


def stacked(*pictures: np.ndarray, **settings: Any) -> np.ndarray:
    named = ((f"{index}.png", Image.fromarray(pixels)) for index, pixels in enumerate(pictures))
    return stack(named, len(pictures), Pictures(**settings))


def test_grey_pictures_have_one_channel_and_are_repeated_beside_colours() -> None:
    grey, dark, colour = noise(2, 3), noise(2, 3), noise(2, 3, 3)
    np.testing.assert_array_equal(stacked(grey, dark)[..., 0], [grey, dark])
    assert stacked(grey, dark).shape == (2, 2, 3, 1)
    three = [np.stack([pixels] * 3, axis=-1) for pixels in (grey, dark)]
    np.testing.assert_array_equal(stacked(grey, dark, channels=3), three)
    np.testing.assert_array_equal(stacked(grey, dark, colour), [*three, colour])
    np.testing.assert_array_equal(stacked(colour, grey), [colour, three[0]])


def test_colours_are_refused_where_one_channel_is_asked_for() -> None:
    assert refusal(lambda: stacked(noise(2, 3), noise(2, 3, 3), channels=1)).startswith("1.png: has colours")


def test_sizes_that_differ_are_told_of_the_first_two() -> None:
    message = refusal(lambda: stacked(noise(2, 3), noise(2, 3), noise(3, 2), noise(9, 9)))
    assert "0.png has 2 × 3, 2.png has 3 × 2" in message
    assert "resize and crop" in message


# --- Names of images


def test_names_are_kept_selected_and_saved(tmp_path: Path) -> None:
    images = ImageSet(noise(3, 2, 2, 1), np.zeros(3, int), np.array([4, 5, 9]), ("a",), "drawn", ("x/é.png", "y", "z"))
    assert images.select([9, 4]).names == ("z", "x/é.png")
    save_arrays(images, tmp_path / "a.npz")
    assert load_arrays(tmp_path / "a.npz").names == ("x/é.png", "y", "z")


def test_sets_without_names_have_none_in_their_file(tmp_path: Path) -> None:
    images = ImageSet(noise(2, 2, 2, 1), np.zeros(2, int), np.arange(2), ("a",), "drawn")
    assert images.select([1]).names == ()
    save_arrays(images, tmp_path / "a.npz")
    assert set(np.load(tmp_path / "a.npz")) == {"images", "labels", "ids", "class_names", "provenance"}
    assert load_arrays(tmp_path / "a.npz").names == ()


@pytest.mark.parametrize(("names", "said"), [(["x"], "names must be 2"), ([1, 2], "text"), ([["x", "y"]], "text")])
def test_names_that_are_none_are_refused(names: Any, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=noise(2, 2, 2), labels=[0, 0], names=names)
    message = refusal(load_arrays, tmp_path / "a.npz")
    assert message.startswith(f"{tmp_path / 'a.npz'}: ")
    assert said in message


def test_imagenet_stands_for_its_thousand_names(tmp_path: Path) -> None:
    names = resolve("imagenet")
    assert names is not None
    assert (len(names), names[0], names[207], names[999]) == (1000, "tench", "golden retriever", "toilet tissue")
    np.savez(tmp_path / "a.npz", images=noise(1, 2, 2), labels=[207])
    own = load_dataset(ArraysDataset(source="arrays", path=str(tmp_path / "a.npz"), class_names="imagenet"))
    assert own.class_names == names


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
    assert len(load(tmp_path / "links").names) == 5


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
        ("file,class\na.png,cat\n", {}, ["no column 'label'", "file, class"]),
        ("file;label\na.png;cat\n", {}, ["no column 'file'", "file;label"]),
        ("file,label\n", {}, ["no rows"]),
        ("file,label\na.png,cat\nb.png,\n", {}, ["line 3", "label is missing"]),
        ("file,label\na.png,cat\nb.png\n", {}, ["line 3", "label is missing"]),
        ("file,label\n,cat\n", {}, ["line 2", "file is missing"]),
        ("file,label\nz.png,cat\n", {}, ["line 2", "z.png does not exist"]),
        ("file,label\nsub,cat\n", {}, ["line 2", "sub does not exist"]),
        ("file,label\na.png,cat\n\nsub/../a.png,dog\n", {}, ["line 4", "a.png occurs before", "line 2"]),
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


# --- torchvision


def from_torchvision(name: str, downloads: Path | None = None, **settings: Any) -> ImageSet:
    return load_dataset(TorchvisionDataset(source=f"torchvision:{name}", **settings), downloads=downloads)


def refused_torchvision(name: str, downloads: Path | None = None, **settings: Any) -> str:
    message = refusal(lambda: from_torchvision(name, downloads, **settings))
    assert message.startswith(f"torchvision:{name}")
    return message


@pytest.fixture(autouse=True)
def _same_noise_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "RNG", np.random.default_rng(0))


@pytest.fixture(autouse=True)
def _neither_waiting_nor_net(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(cifar10, "WAIT", tenacity.wait_none())
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.delenv("ONEPIX_OFFLINE", raising=False)


def idx(values: np.ndarray) -> bytes:
    """Write unsigned bytes in MNIST's format."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def lay_mnist(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write a small MNIST as torchvision unpacks it, of pictures that are not square."""
    splits = {name: (noise(count, 6, 5), noise(count) % 10) for name, count in (("train", 4), ("t10k", 3))}
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, (images, labels) in splits.items():
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return splits


@pytest.mark.parametrize(("split", "part"), [("train", "train"), ("test", "t10k")])
def test_mnist_is_grey(split: str, part: str, tmp_path: Path) -> None:
    images, labels = lay_mnist(tmp_path)[part]
    mnist = from_torchvision("MNIST", split=split, root=str(tmp_path))
    np.testing.assert_array_equal(mnist.images, images[..., np.newaxis])
    np.testing.assert_array_equal(mnist.labels, labels)
    assert mnist.ids.tolist() == list(range(len(images)))
    assert mnist.class_names[7] == "7 - seven"
    assert mnist.names == ()
    assert mnist.provenance == f"torchvision's MNIST, split {split}"


def test_torchvisions_pictures_are_fitted(tmp_path: Path) -> None:
    images, _ = lay_mnist(tmp_path)["t10k"]
    settings = {"resize": 10, "crop": (8, 6), "interpolation": "nearest", "channels": 3}
    mnist = from_torchvision("MNIST", root=str(tmp_path), class_names=tuple("abcdefghij"), **settings)
    grown = images.repeat(2, axis=1).repeat(2, axis=2)[:, 2:10, 2:8, np.newaxis]
    np.testing.assert_array_equal(mnist.images, grown.repeat(3, axis=3))
    assert mnist.class_names == tuple("abcdefghij")
    assert mnist.provenance.endswith("; resized to a shorter side of 10 (nearest); cropped to the middle 8 × 6")


def test_class_names_that_do_not_suffice_are_refused(tmp_path: Path) -> None:
    _, labels = lay_mnist(tmp_path)["t10k"]
    message = refused_torchvision("MNIST", root=str(tmp_path), class_names=("only",))
    assert f"label {labels.max()}, expected one in 0–0" in message


def test_where_there_is_a_split_and_train_both_are_named(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = noise(2, 4, 3), np.array([1, 26], np.uint8)  # letters start at 1
    (raw / "emnist-letters-test-images-idx3-ubyte").write_bytes(idx(images))
    (raw / "emnist-letters-test-labels-idx1-ubyte").write_bytes(idx(labels))
    emnist = from_torchvision("EMNIST", split="letters-test", root=str(tmp_path))
    np.testing.assert_array_equal(emnist.images[..., 0], images)
    assert [emnist.class_names[label] for label in emnist.labels] == ["a", "z"]
    for split in ("letters", "test", "letters-val"):
        assert "with -train or -test after it" in refused_torchvision("EMNIST", split=split, root=str(tmp_path))
    assert "Unknown value 'runes'" in refused_torchvision("EMNIST", split="runes-test", root=str(tmp_path))


def lay_cifar(kind: type[CIFAR10], root: Path, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write pickles as torchvision unpacks them, and make torchvision expect their MD5s."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    md5 = {}
    for name, contents in files.items():
        (folder / name).write_bytes(pickle.dumps(contents))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    for parts in ("train_list", "test_list"):
        monkeypatch.setattr(kind, parts, [[name, md5[name]] for name, _ in getattr(kind, parts)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5[kind.meta["filename"]]})


def test_cifar100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = {"train": noise(3, 3072), "test": noise(2, 3072)}
    labels = {"train": [0, 99, 5], "test": [42, 7]}
    files: dict[str, Any] = {
        split: {"data": planes[split], "fine_labels": labels[split], "coarse_labels": [0] * 3} for split in planes
    }
    names = [f"class {index}" for index in range(100)]
    lay_cifar(CIFAR100, tmp_path, {**files, "meta": {"fine_label_names": names}}, monkeypatch)
    for split in planes:
        cifar100 = from_torchvision("CIFAR100", split=split, root=str(tmp_path))
        assert cifar100.labels.tolist() == labels[split]
        assert cifar100.class_names == tuple(names)
        for image, record in zip(cifar100.images, planes[split], strict=True):
            assert b"".join(image[..., channel].tobytes() for channel in range(3)) == record.tobytes()
    (tmp_path / "cifar-100-python" / "test").write_bytes(b"damaged")
    message = refused_torchvision("CIFAR100", root=str(tmp_path))
    assert str(tmp_path) in message
    assert "download=True" not in message


def test_cifar10_is_that_of_the_official_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, Any] = {"batches.meta": {"label_names": list(CLASS_NAMES)}}
    md5, official = {}, tmp_path / "official"
    official.mkdir()
    for name in cifar10.MD5:
        records = noise(3, 3073)
        records[:, 0] %= 10
        (official / name).write_bytes(records.tobytes())
        md5[name] = hashlib.md5(records.tobytes()).hexdigest()
        files[Path(name).stem] = {"data": records[:, 1:], "labels": records[:, 0].tolist()}
    monkeypatch.setattr(cifar10, "MD5", md5)
    lay_cifar(CIFAR10, tmp_path / "root", files, monkeypatch)
    for split, count in (("train", 15), ("test", 3)):
        ours = read_cifar10(official, split)  # type: ignore[arg-type]
        theirs = from_torchvision("CIFAR10", split=split, root=str(tmp_path / "root"))
        assert len(ours.ids) == count
        for name in ("images", "labels", "ids"):
            np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name), strict=True)
        assert theirs.class_names == ours.class_names


def test_what_torchvision_does_not_split_has_the_split_all(tmp_path: Path) -> None:
    pictures = {name: noise(3, 4, 3) for name in ("cat/a.png", "dog/b.png")}
    for name, pixels in pictures.items():
        written(tmp_path / name, pixels)
    images = from_torchvision("ImageFolder", split="all", root=str(tmp_path))
    np.testing.assert_array_equal(images.images, list(pictures.values()))
    assert images.class_names == ("cat", "dog")
    assert "expected split all, got test" in refused_torchvision("ImageFolder", root=str(tmp_path))
    assert "name a folder with a copy as root" in refused_torchvision("ImageFolder", split="all")


class Made(VisionDataset):
    """A dataset without files; tests say what its items are."""

    items: tuple[Any, ...] = ()

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def make(monkeypatch: pytest.MonkeyPatch, *items: Any, **attributes: Any) -> None:
    kind = type("Made", (Made,), {"items": items, **attributes})
    monkeypatch.setattr(torchvision.datasets, "Made", kind, raising=False)


DOT = Image.new("L", (1, 1), 3)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (None, ("0", "1", "2", "3")),
        (["a", "b", "c"], ("0", "1", "2", "3")),
        (["a", "b", "c", ("crane", "bird"), "e"], ("a", "b", "c", "crane, bird", "e")),
    ],
)
def test_torchvisions_class_names_count_where_they_suffice(
    classes: Any, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(monkeypatch, (DOT, 3), (DOT, np.int64(0)), (DOT, torch.tensor(1)), **({"classes": classes} if classes else {}))
    images = from_torchvision("Made", split="all")
    assert images.class_names == names
    assert images.labels.tolist() == [3, 0, 1]
    assert images.images.ravel().tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ((), "no images"),
        (((DOT, 0), (DOT, torch.zeros(40, dtype=torch.long))), "image 1: its label is tensor"),
        (((DOT, {"annotation": {"object": "person\n" * 99}}),), "image 0: its label is {'annotation'"),
        (((DOT, None),), "its label is None, expected an integer"),
        (((DOT, 0.0),), "its label is 0.0, expected an integer"),
        (((DOT, -1),), "label -1, expected one in"),
        (((torch.zeros(3, 2, 2), 0),), "expected an image classification dataset"),
        ((torch.zeros(3, 2, 2),), "expected an image classification dataset"),
        (((DOT, DOT, 0),), "expected an image classification dataset"),
        (((Image.new("RGBA", (1, 1)), 0),), "image 0: has an alpha channel"),
        (((DOT, 0), (Image.new("L", (2, 1)), 0)), "image 1 has 1 × 2"),
    ],
)
def test_what_is_no_classification_of_pictures_is_refused(
    items: tuple[Any, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(monkeypatch, *items)
    assert said in refusal(lambda: from_torchvision("Made", split="all"))


def test_an_image_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("image file\nis truncated")

    make(monkeypatch, DOT, __getitem__=fail)
    message = refused_torchvision("Made", split="all")
    assert "image 0: cannot be read" in message
    assert "is truncated" in message


def test_unknown_datasets_and_those_of_other_kinds_are_refused(tmp_path: Path) -> None:
    assert "did you mean 'CIFAR100'?" in refused_torchvision("cifar100")
    assert "did you mean 'Flowers102'?" in refused_torchvision("Flower102")
    assert "no dataset" in refused_torchvision("VisionDataset")
    assert "no dataset" in refused_torchvision("os")
    message = refused_torchvision("CocoDetection", split="all", root=str(tmp_path))
    assert "'annFile'" in message
    assert "no image classification dataset" in message


def test_unknown_splits_are_refused(tmp_path: Path) -> None:
    lay_mnist(tmp_path)
    assert "split val, expected train or test" in refused_torchvision("MNIST", split="val", root=str(tmp_path))
    message = refused_torchvision("SVHN", split="val", root=str(tmp_path))
    assert "Unknown value 'val' for argument split" in message
    assert "extra" in message


def test_a_copy_that_is_none_is_refused_without_downloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "download", lambda _: pytest.fail("a download was tried"))
    message = refused_torchvision("MNIST", tmp_path / "downloads", root=str(tmp_path))
    assert f"cannot be read from {tmp_path} (RuntimeError: Dataset not found" in message
    assert "download=True" not in message
    assert "root" in refused_torchvision("MNIST", root=str(tmp_path / "absent"))
    assert "torchvision cannot download it" in refused_torchvision("ImageNet", tmp_path, split="val")
    assert "no folder for downloads" in refused_torchvision("MNIST")
    assert "expected no root" in refused_torchvision("FakeData", split="all", root=str(tmp_path))


def test_a_failed_download_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def download(self: MNIST) -> None:
        attempts.append(self.root)
        with pytest.raises(filelock.Timeout):  # another job that wants the same files waits
            filelock.FileLock(Path(self.root) / ".MNIST.lock").acquire(timeout=0)
        if len(attempts) < 3:
            raise urllib.error.URLError("reset by peer")
        lay_mnist(Path(self.root))

    monkeypatch.setattr(MNIST, "download", download)
    downloads = tmp_path / "new" / "downloads"
    assert from_torchvision("MNIST", downloads).images.shape == (3, 6, 5, 1)
    assert attempts == [downloads] * 3
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    assert from_torchvision("MNIST", downloads).images.shape == (3, 6, 5, 1)
    assert len(attempts) == 3


def test_a_download_that_keeps_failing_says_where_a_copy_may_be_put(tmp_path: Path) -> None:
    message = refused_torchvision("MNIST", tmp_path / "downloads")
    for part in ("cannot be downloaded", "no route", str(tmp_path / "downloads"), "root"):
        assert part in message


def test_offline_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []
    monkeypatch.setattr(MNIST, "download", lambda self: attempts.append(self))
    monkeypatch.setenv("ONEPIX_OFFLINE", "yes")
    with pytest.raises(OfflineError) as caught:
        from_torchvision("MNIST", tmp_path)
    for part in ("torchvision:MNIST", "ONEPIX_OFFLINE", str(tmp_path), "root"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert attempts == []
    for value in ("", "0"):
        attempts.clear()
        monkeypatch.setenv("ONEPIX_OFFLINE", value)
        assert "cannot be downloaded" in refused_torchvision("MNIST", tmp_path)
        assert attempts


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_missing_package_is_told_at_once(wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def download(self: MNIST) -> None:
        attempts.append(self)
        try:
            raise ModuleNotFoundError("No module named 'gdown'")
        except ModuleNotFoundError:
            if wrapped:
                raise RuntimeError("To download files from GDrive, 'gdown' is required.") from None
            raise

    monkeypatch.setattr(MNIST, "download", download)
    message = refused_torchvision("MNIST", tmp_path)
    assert "not installed" in message
    assert "'gdown'" in message
    assert len(attempts) == 1
