"""Turns pictures of any size into 8-bit images of one size: the attack changes them and the network sees them.

All resizing and cropping happens here, once, before an attack. The attack works on the resulting 8-bit pixels, never
on those of the file.
"""

import functools
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from onepix.config.datasets import Pictures
from onepix.errors import OnepixError

EIGHT_BIT = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # Pillow's modes, and what each becomes
SIXTEEN_BIT = re.compile(r".*;16[BLNS]+")  # Pillow's names of 16-bit layouts in files; BGR;16 has 16 bits per pixel


@functools.cache
def extensions() -> frozenset[str]:
    """Return the endings, such as `.png`, of the files that Pillow reads."""
    readable = Image.registered_extensions()  # this call also registers the formats in Image.OPEN
    formats = {*Image.OPEN, "MPO"}  # opened as JPEG, which it is
    return frozenset(extension for extension, name in readable.items() if name in formats)


def read_picture(path: Path) -> Image.Image:
    """Read a file as an 8-bit picture, upright as its EXIF orientation says.

    Colour profiles are ignored, as torchvision does. Of a JPEG with several views (MPO), the first is read.

    Returns
    -------
    Image
        Mode L (grey) or RGB.

    Raises
    ------
    OnepixError
        If the file is missing, damaged, not a picture, has several frames, or as in `as_eight_bit`.
    """
    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != "MPO":
                raise OnepixError(f"{path}: has {frames} frames, expected a single picture")
            _refuse_sixteen_bits(picture, str(path))
            return as_eight_bit(ImageOps.exif_transpose(picture), str(path))
    except OnepixError:
        raise
    except UnidentifiedImageError:
        raise OnepixError(f"{path}: not a picture that Pillow can read") from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise OnepixError(f"{path}: {error.strerror}") from None
    except Exception as error:  # on a damaged file, Pillow's readers may raise almost anything
        raise OnepixError(f"{path}: not a whole picture ({textwrap.shorten(str(error), 200)})") from error


def as_eight_bit(picture: Image.Image, where: str) -> Image.Image:
    """Return a picture as grey (mode L) or RGB, without loss.

    Raises
    ------
    OnepixError
        If it has more than 8 bits per channel, an alpha channel or other colours; the message starts with `where`.
    """
    if picture.mode.startswith("I;16"):
        raise OnepixError(f"{where}: 16 bits per channel, expected 8")
    if picture.mode in ("I", "F"):
        raise OnepixError(f"{where}: 32 bits per channel (mode {picture.mode}), expected 8")
    if picture.has_transparency_data:
        raise OnepixError(f"{where}: has an alpha channel; flatten it onto a background first")
    if picture.mode not in EIGHT_BIT:
        raise OnepixError(f"{where}: mode {picture.mode}, expected RGB or grey")
    return picture.convert(EIGHT_BIT[picture.mode])


def stack(pictures: Iterable[tuple[str, Image.Image]], count: int, settings: Pictures) -> npt.NDArray[np.uint8]:
    """Fit pictures and put them into one array.

    Parameters
    ----------
    pictures : iterable of (str, Image)
        `count` names and pictures of mode L or RGB, read one at a time: they need not fit in memory together.
    count : int
        At least 1.
    settings : Pictures
        How pictures are resized and cropped.

    Returns
    -------
    ndarray
        uint8, shape (count, y, x, channel); one channel if all pictures are grey, unless the settings say otherwise.

    Raises
    ------
    OnepixError
        If a picture is smaller than the crop, if sizes differ, or if a picture has colours but one channel is wanted.
    """
    images: npt.NDArray[np.uint8] | None = None
    for index, (name, picture) in enumerate(pictures):
        fitted = fit(picture, settings, name)
        colour = fitted.mode == "RGB"
        if colour and settings.channels == 1:
            raise OnepixError(f"{name}: has colours, expected grey because channels is 1")
        if images is None:
            images = np.empty((count, fitted.height, fitted.width, settings.channels or (3 if colour else 1)), np.uint8)
            first, size = name, fitted.size
        if fitted.size != size:
            raise OnepixError(
                f"pictures must have one size: {first} has {_size(size)}, {name} has {_size(fitted.size)} "
                "(height × width); set resize and crop"
            )
        if colour and images.shape[3] == 1:
            images = np.repeat(images, 3, axis=3)
        images[index] = np.asarray(fitted) if colour else np.asarray(fitted)[..., np.newaxis]
    if images is None:
        raise ValueError("no pictures")
    return images


def fit(picture: Image.Image, settings: Pictures, where: str) -> Image.Image:
    """Resize and crop a picture as torchvision's transforms do: the results are equal.

    Raises
    ------
    OnepixError
        If it is smaller than the crop; the line starts with `where`.
    """
    if settings.resize is None and settings.crop is None:
        return picture
    from torchvision.transforms import InterpolationMode, functional  # imports torch: only where needed

    if settings.resize is not None:
        sides = [settings.resize] if isinstance(settings.resize, int) else list(settings.resize)
        picture = functional.resize(picture, sides, InterpolationMode(settings.interpolation))
    if settings.crop is not None:
        height, width = _both(settings.crop)
        if picture.height < height or picture.width < width:
            raise OnepixError(
                f"{where}: {_size(picture.size)} (height × width) is smaller than the crop, {height} × {width}; "
                "set resize or a smaller crop"
            )
        picture = functional.center_crop(picture, [height, width])
    return picture


def describe(settings: Pictures) -> str:
    """Describe resizing and cropping, for the provenance of an image set; empty if there is none."""
    said = ""
    if isinstance(settings.resize, int):
        said += f"; resized to a shorter side of {settings.resize} ({settings.interpolation})"
    elif settings.resize is not None:
        said += f"; resized to {settings.resize[0]} × {settings.resize[1]} ({settings.interpolation})"
    if settings.crop is not None:
        height, width = _both(settings.crop)
        said += f"; cropped to the middle {height} × {width}"
    return said


def _refuse_sixteen_bits(picture: Image.Image, where: str) -> None:
    """Refuse files with 16 bits per channel that Pillow would read as 8; the layout of the file tells."""
    for tile in getattr(picture, "tile", []):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        layouts = [argument for argument in arguments if isinstance(argument, str)]
        deep_ppm = picture.format == "PPM" and any(isinstance(value, int) and value > 255 for value in arguments)
        if deep_ppm or any(SIXTEEN_BIT.fullmatch(layout) for layout in layouts):
            raise OnepixError(f"{where}: 16 bits per channel, expected 8")


def _both(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} × {size[0]}"
