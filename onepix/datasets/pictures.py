"""Turns pictures of any size into 8-bit images of one size: the attack changes them and the network sees them.

All resizing and cropping happens here, once, before an attack. The attack works on the resulting 8-bit pixels, never
on those of the file.
"""

import functools
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from onepix.config.datasets import Pictures
from onepix.datasets.contents import kind_of
from onepix.errors import OnepixError

# Pillow's modes, and what each becomes.
EIGHT_BIT = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGB", "PA": "RGB", "CMYK": "RGB"}
CMYK = "CMYK colours made RGB as torchvision does, without their profile"
SAID = "onepix"  # the key of a picture's info that says how it was changed
MOST_NAMED = 20  # files that one message names
SIXTEEN_BIT = re.compile(r".*;16[BLNS]+")  # Pillow's names of 16-bit layouts in files; BGR;16 has 16 bits per pixel


@functools.cache
def extensions() -> frozenset[str]:
    """Return the endings, such as `.png`, of the pictures that Pillow itself reads.

    Packages that give Pillow further formats do not count: which pictures a dataset has would depend on what is
    installed. Nor do formats that Pillow only recognises (HDF5) or that hold no picture of pixels (MPEG, PostScript).
    """
    known = Image.registered_extensions()  # this call also registers the formats in Image.OPEN
    return frozenset(extension for extension, name in known.items() if name == "MPO" or _is_read(name))


def _is_read(name: str) -> bool:
    """Tell whether Pillow itself decodes a format; MPO, which it opens as JPEG, is not asked for."""
    opener = Image.OPEN.get(name, (None,))[0]
    is_stub = isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
    is_own = opener is not None and opener.__module__.startswith("PIL.")
    return is_own and not is_stub and Image.MIME.get(name, "image/").startswith("image/")


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
        raise OnepixError(f"{path}: {_not_a_picture(path)}") from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise OnepixError(f"{path}: {error.strerror}") from None
    except Exception as error:  # on a damaged file, Pillow's readers may raise almost anything
        raise OnepixError(f"{path}: not a whole picture ({textwrap.shorten(str(error), 200)})") from error


def _not_a_picture(path: Path) -> str:
    found = kind_of(path)
    return "not a picture that Pillow can read" + (f", but {found}" if found else "")


def as_eight_bit(picture: Image.Image, where: str) -> Image.Image:
    """Return a picture as grey (mode L) or RGB.

    Nothing is lost, except that CMYK becomes RGB by a plain formula, as torchvision does; the picture's info says so.
    An alpha channel is dropped if it is opaque everywhere.

    Raises
    ------
    OnepixError
        If it has more than 8 bits per channel, transparent pixels or other colours; the message starts with `where`.
    """
    if picture.mode.startswith("I;16"):
        raise OnepixError(f"{where}: 16 bits per channel, expected 8")
    if picture.mode in ("I", "F"):
        raise OnepixError(f"{where}: 32 bits per channel (mode {picture.mode}), expected 8")
    if picture.mode not in EIGHT_BIT:
        raise OnepixError(f"{where}: mode {picture.mode}, expected RGB or grey")
    grey = EIGHT_BIT[picture.mode] == "L"
    is_cmyk = picture.mode == "CMYK"
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if np.asarray(picture)[..., 3].min() < 255:
            raise OnepixError(f"{where}: has an alpha channel that is not opaque; flatten it onto a background first")
    plain = picture.convert("L" if grey else "RGB")
    if is_cmyk:
        plain.info[SAID] = CMYK
    return plain


class Stack(NamedTuple):
    """Pictures of one size.

    Attributes
    ----------
    images : ndarray
        uint8, shape (picture, y, x, channel).
    notes : tuple of str
        How pictures were changed otherwise than by resizing and cropping.
    """

    images: npt.NDArray[np.uint8]
    notes: tuple[str, ...]


def stack(
    pictures: Iterable[tuple[str, Callable[[], Image.Image]]], count: int, settings: Pictures, where: str
) -> Stack:
    """Fit pictures and put them into one array.

    Parameters
    ----------
    pictures : iterable of (str, callable)
        `count` names, and what reads each picture, of mode L or RGB: they need not fit in memory together.
    count : int
        At least 1.
    settings : Pictures
        How pictures are resized and cropped.
    where : str
        Where the pictures come from; named if several cannot be taken.

    Returns
    -------
    Stack
        With one channel if all pictures are grey, unless the settings say otherwise.

    Raises
    ------
    OnepixError
        If pictures cannot be read, are smaller than the crop, or have colours but one channel is wanted: all of them
        are counted, and named as far as a line goes. If sizes differ.
    """
    images: npt.NDArray[np.uint8] | None = None
    faults: list[tuple[str, str]] = []  # names and what is wrong
    changed: Counter[str] = Counter()
    for index, (name, read) in enumerate(pictures):
        try:
            fitted = _one_channel(fit(read(), settings, name), settings, name)
        except OnepixError as error:
            faults.append((name, str(error).removeprefix(f"{name}: ")))
            if images is None and len(faults) == MOST_NAMED:
                break  # so many in a row: the rest, perhaps of a large dataset, would hardly be better
            continue
        changed.update(filter(None, [fitted.info.get(SAID)]))
        colour = fitted.mode == "RGB"
        if images is None:
            images = np.empty((count, fitted.height, fitted.width, settings.channels or (3 if colour else 1)), np.uint8)
            first, size = name, fitted.size
        if fitted.size != size:
            if not faults:  # these go first, since a size can be given to all others at once
                raise OnepixError(
                    f"pictures must have one size: {first} has {_size(size)}, {name} has {_size(fitted.size)} "
                    "(height × width); set resize and crop"
                )
            continue
        if colour and images.shape[3] == 1:
            images = np.repeat(images, 3, axis=3)
        images[index] = np.asarray(fitted) if colour else np.asarray(fitted)[..., np.newaxis]
    _refuse(faults, count, where)
    if images is None:
        raise ValueError("no pictures")
    return Stack(images, tuple(f"{number} of {count} pictures: {said}" for said, number in changed.items()))


def _one_channel(picture: Image.Image, settings: Pictures, where: str) -> Image.Image:
    """Return a picture as grey if one channel is wanted: colours of three equal channels are grey, too."""
    if picture.mode == "L" or settings.channels != 1:
        return picture
    red, green, blue = picture.split()
    if red != green or red != blue:
        raise OnepixError(f"{where}: has colours, expected grey because channels is 1")
    return red


def _refuse(faults: Sequence[tuple[str, str]], count: int, where: str) -> None:
    """Raise one error about all pictures that cannot be taken, if there are any."""
    if len(faults) == 1:
        raise OnepixError(": ".join(faults[0]))
    by_reason: dict[str, list[str]] = {}
    for name, reason in faults:
        by_reason.setdefault(reason, []).append(name.removeprefix(where).lstrip("/, "))
    if faults:
        said = "; ".join(f"{reason}: {_some(names)}" for reason, names in by_reason.items())
        raise OnepixError(f"{where}: {len(faults)} of {count} pictures cannot be taken: {said}")


def _some(names: Sequence[str]) -> str:
    """List names, as far as a line goes."""
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


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
