"""Pictures of any kind: read and fitted."""

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictured import GREY, GREY_ALPHA, PALETTE, RGB, RGB_ALPHA, noise, png, written
from PIL import Image
from refusals import refusal

from onepix.config.datasets import Pictures
from onepix.datasets.pictures import fit, read_picture, stack

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
SIXTEEN, ALPHA = (
    "16 bits per channel, expected 8",
    "has an alpha channel that is not opaque; flatten it onto a background first",
)


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
        (saved(Image.new("I", (2, 3)), "TIFF"), "32 bits per channel (mode I), expected 8"),
        (saved(Image.new("F", (2, 3)), "TIFF"), "32 bits per channel (mode F), expected 8"),
        (bytes_of(png(noise(2, 3, 4), RGB_ALPHA)), ALPHA),
        (bytes_of(png(noise(2, 3, 2), GREY_ALPHA)), ALPHA),
        (bytes_of(png(np.ones((2, 3), np.uint8), GREY, tRNS=b"\0\1")), ALPHA),
        (bytes_of(png(np.ones((2, 3, 3), np.uint8), RGB, tRNS=b"\0\1\0\1\0\1")), ALPHA),
        (bytes_of(png(np.zeros((2, 3), np.uint8), PALETTE, PLTE=bytes(768), tRNS=b"\0")), ALPHA),
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
    named = ((f"{index}.png", partial(Image.fromarray, pixels)) for index, pixels in enumerate(pictures))
    return stack(named, len(pictures), Pictures(**settings), "folder").images


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
