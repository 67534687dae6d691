"""How figures look and how they are written: at print size, safe for colour-blind readers, byte-identical."""

import contextlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from onepix.errors import OnepixError
from onepix.files.atomic import replacing
from onepix.names import nearest

SINGLE, DOUBLE = 3.4, 7.0  # Widths of one and of two columns of a journal, in inches.
SMALLEST, SMALL, NORMAL, LARGE = 6.0, 6.5, 7.0, 8.0  # Sizes of text, in points.
MARGIN = 0.06  # Around a figure, in inches.
LONGEST = 60  # Characters of a layer's name.

# Okabe and Ito, "Color Universal Design" (2008).
SKY_BLUE, GREEN, BLUE, VERMILLION = "#56B4E9", "#009E73", "#0072B2", "#D55E00"
GREY = "#999999"

SEQUENTIAL = ("magma", "inferno", "plasma", "viridis", "cividis", "Greys", "gray", "Blues", "Oranges", "YlOrRd")
FONT = "DejaVu Sans"  # Comes with Matplotlib, so that a figure does not depend on the machine's fonts.
PAPER = {
    "font.family": FONT,
    "font.size": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": SMALL,
    "axes.titlepad": 3.5,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "legend.fontsize": NORMAL,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.0,
    "text.parse_math": False,  # A class name may hold a dollar sign.
    "pdf.fonttype": 42,  # Journals refuse the default, Type 3.
}
# A line may break here: after a space, and after . _ / - within a name, but not within a decimal number.
PIECES = re.compile(r".+?(?:[ _/-]+|\.(?!\d)|(?<!\d)\.|$)")


@contextlib.contextmanager
def paper_style() -> Iterator[None]:
    """Draw for print, whatever the user's own Matplotlib settings are."""
    with matplotlib.style.context(["default", PAPER]):
        yield


@paper_style()
def save(figure: Figure, stem: Path, dpi: int, formats: Collection[str] = ("png", "pdf")) -> None:
    """Write a figure as PNG and as PDF, each whole or not at all.

    The files hold neither a date nor a version, so equal figures are equal files.

    Parameters
    ----------
    figure : Figure
        Written at its own size; nothing is trimmed.
    stem : Path
        The files' path without `.png` and `.pdf`; dots in it are kept.
    dpi : int
        Dots per inch. In the PDF, images have at least 600, so that they stay sharp when enlarged.
    formats : collection of str
        Which of the two to write.
    """
    known = {"png": (dpi, "Software"), "pdf": (max(dpi, 600), "CreationDate")}
    for suffix in formats:
        resolution, unwanted = known[suffix]
        with replacing(stem.with_name(f"{stem.name}.{suffix}")) as path:
            figure.savefig(path, format=suffix, dpi=resolution, metadata={unwanted: None})


@paper_style()
def message_figure(text: str) -> Figure:
    """Return a figure that says why there is nothing to draw, so that its file always exists."""
    message = wrapped(text, NORMAL, SINGLE - 0.6)
    figure = Figure((SINGLE, 0.6 + height_of(message, NORMAL)))
    figure.text(0.5, 0.5, message, ha="center", va="center", color="#444444")
    return figure


def colour_map(name: str) -> Colormap:
    """Return a Matplotlib colour map.

    Raises
    ------
    OnepixError
        If there is no such colour map.
    """
    if name not in matplotlib.colormaps:
        raise OnepixError(f"figures.colour_map: '{name}' is unknown; {nearest(name, SEQUENTIAL)}")
    return matplotlib.colormaps[name].with_extremes(bad=GREY)


def wrapped(text: str, size: float, width: float) -> str:
    """Break text into lines.

    Parameters
    ----------
    text : str
        Its own line breaks are kept; no line breaks at a no-break space, or between a number and its %.
    size : float
        Of the font, in points.
    width : float
        The longest line, in inches. A word longer than that is cut.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("")
        for piece in PIECES.findall(paragraph.replace(" %", "\N{NO-BREAK SPACE}%")):
            for part in _cut(piece, size, width):
                if lines[-1] and width_of(lines[-1] + part.rstrip(" "), size) > width:
                    lines.append("")
                lines[-1] += part
    return "\n".join(line.rstrip(" ") for line in lines)


def width_of(text: str, size: float) -> float:
    """Return the width of one line of text, in inches."""
    font = FontProperties(family=FONT, size=size)
    width: float = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72
    return width


def height_of(text: str, size: float) -> float:
    """Return the height of the lines of a text, in inches; 0 for an empty text."""
    return (text.count("\n") + 1) * 1.25 * size / 72 if text else 0.0


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes; all numbers are inches, and `top` is measured from the top of the figure."""
    whole_width, whole_height = figure.get_size_inches()
    bottom = whole_height - top - height
    box = (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    return figure.add_axes(box)


def add_text(figure: Figure, left: float, top: float, text: str, size: float) -> None:
    """Write text; `left` and `top` are inches, and `top` is measured from the top of the figure."""
    whole_width, whole_height = figure.get_size_inches()
    figure.text(left / whole_width, 1 - top / whole_height, text, size=size, va="top")


def _cut(word: str, size: float, width: float) -> list[str]:
    length = len(word)
    while length > 1 and width_of(word[:length].rstrip(" "), size) > width:
        length -= 1
    return [word] if length == len(word) else [word[:length], *_cut(word[length:], size, width)]


def layer_names(layers: pd.DataFrame) -> list[str]:
    """Return the names of layers for a figure.

    Parameters
    ----------
    layers : DataFrame
        One row per layer: layer, operator (str). A name that ends in a number alone gets its operator.
    """
    pairs = zip(layers["layer"], layers["operator"], strict=True)
    return [
        f"{short(layer)} {operator}" if layer.rpartition(".")[2].isdigit() else short(layer)
        for layer, operator in pairs
    ]


def short(layer: str) -> str:
    """Return a layer's name on one line: of a very long one, beginning and end."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in layer).split())
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]}…{line[-half:]}"


def ink(shade: npt.NDArray[np.floating]) -> str:
    """Return black or white, whichever contrasts more with a shade (red, green, blue from 0 to 1).

    Notes
    -----
    By the ratio of contrast of the Web Content Accessibility Guidelines, with luminance about rgb to the power of 2.2.
    """
    luminance = shade[:3] ** 2.2 @ (0.2126, 0.7152, 0.0722)
    # (L + 0.05) / 0.05 with black and 1.05 / (L + 0.05) with white are equal here.
    return "black" if luminance > np.sqrt(1.05 * 0.05) - 0.05 else "white"
