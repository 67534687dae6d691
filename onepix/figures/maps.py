"""Propagation maps: how far a pixel change reaches in each layer."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from onepix.figures import panels, style

LABEL = "max over channels of |change| / maximum of the original feature map"
ALIGNED = f"{LABEL}, averaged over images aligned on the attacked pixel (cross)"
ARM, OPENING = 3.0, 3.0  # Length of a cross's arms, and least distance of an arm from the cross's middle, in points.


@dataclasses.dataclass(frozen=True)
class LayerMap:
    """A layer's propagation map.

    Attributes
    ----------
    name : str
        Of the layer.
    values : ndarray
        Float, shape (y, x), 1 × 1 for a layer without space: |difference| in units of the maximum of the layer's
        original feature map. NaN (that maximum is 0) is drawn grey.
    """

    name: str
    values: npt.NDArray[np.floating]


@style.paper_style()
def strip(
    original: npt.NDArray[np.uint8],
    attacked: npt.NDArray[np.uint8],
    pixels: Sequence[tuple[int, int]],
    layers: Sequence[LayerMap],
    title: str,
    original_caption: str,
    attacked_caption: str,
    colour_map: str,
) -> Figure:
    """Draw an image, the attacked image, and the propagation map of each layer.

    A row has up to 8 panels, or 10 if there are more than 56. About 75 layers fill a page of 9 inches; more layers make
    a taller figure.

    Parameters
    ----------
    original, attacked : ndarray
        uint8, shape (H, W, C).
    pixels : sequence of (int, int)
        Rows and columns of the changed pixels; each gets a ring in both images.
    layers : sequence of LayerMap
        In network order.
    title : str
        Above all panels.
    original_caption, attacked_caption : str
        Prediction of the network, such as "cat 98 %".
    colour_map : str
        A Matplotlib colour map. It runs from 0 to 1, the maximum of the layer's original feature map; the colour
        bar's tip means values above 1, and each map's own maximum is in its caption.

    Raises
    ------
    OnepixError
        If `colour_map` is unknown or an image is not uint8 of shape (H, W, C).

    Notes
    -----
    Vargas and Su, "Understanding the One-Pixel Attack: Propagation Maps and Locality Analysis" (2019): PM_max.
    """
    colours = _colours(colour_map)
    captions = [f"original\n{original_caption}", f"attacked\n{attacked_caption}", *map(_caption, layers)]
    shapes = [original.shape[:2], attacked.shape[:2], *(layer.values.shape for layer in layers)]
    figure, axes = _sheet(title, captions, shapes, colours, LABEL)
    for panel, image in zip(axes, (original, attacked), strict=False):
        panels.draw_image(panel, image)
        panels.ring(panel, pixels)
    _draw(axes[2:], layers, colours)
    return figure


@style.paper_style()
def average(layers: Sequence[LayerMap], title: str, colour_map: str) -> Figure:
    """Draw the average propagation map of each layer, coloured and laid out as in `strip`.

    Parameters
    ----------
    layers : sequence of LayerMap
        At least one, in network order; maps averaged over images.
    title : str
        Above all panels.
    colour_map : str
        A Matplotlib colour map.

    Raises
    ------
    OnepixError
        If `colour_map` is unknown.
    """
    colours = _colours(colour_map)
    shapes = [layer.values.shape for layer in layers]
    captions = [_caption(layer) for layer in layers]
    figure, axes = _sheet(title, captions, shapes, colours, f"{LABEL}, averaged over images")
    _draw(axes, layers, colours)
    return figure


@style.paper_style()
def aligned(layers: Sequence[LayerMap], title: str, colour_map: str) -> Figure:
    """Draw the average propagation map of each layer around the attacked pixel, coloured and laid out as in `strip`.

    Parameters
    ----------
    layers : sequence of LayerMap
        At least one, in network order; maps averaged over images after shifting each so that the attacked pixel is in
        the middle; height and width are odd. NaN (too few images have the position) is drawn grey, and maxima
        ignore it.
    title : str
        Above all panels.
    colour_map : str
        A Matplotlib colour map.

    Returns
    -------
    Figure
        A cross with an open middle marks the attacked pixel in each map with more than one position.

    Raises
    ------
    OnepixError
        If `colour_map` is unknown.
    """
    colours = _colours(colour_map)
    shapes = [layer.values.shape for layer in layers]
    captions = [_caption(layer, np.fmax) for layer in layers]
    figure, axes = _sheet(title, captions, shapes, colours, ALIGNED)
    _draw(axes, layers, colours)
    for panel, layer in zip(axes, layers, strict=True):
        if layer.values.size > 1:
            _cross(panel, layer.values.shape)
    return figure


def _colours(name: str) -> ScalarMappable:
    return ScalarMappable(Normalize(0, 1), style.colour_map(name))


def _sheet(
    title: str, captions: list[str], shapes: list[tuple[int, int]], colours: ScalarMappable, label: str
) -> tuple[Figure, list[Axes]]:
    count = len(captions)
    rows = math.ceil(count / (8 if count <= 56 else 10))
    width = style.SINGLE if count <= 4 else style.DOUBLE
    bar = panels.ColourBar(colours, label, (0, 0.2, 0.4, 0.6, 0.8, 1), extend="max")
    return panels.sheet(title, captions, shapes, math.ceil(count / rows), width, bar)


def _caption(layer: LayerMap, larger: np.ufunc = np.maximum) -> str:
    """Return a layer's name, size and maximum; with `larger=np.fmax`, the maximum ignores NaN."""
    height, width = layer.values.shape
    name = style.short(layer.name)
    if layer.values.size == 1:
        return f"{name}\n1×1"
    maximum = float(larger.reduce(layer.values, axis=None))
    return f"{name}\n{height}×{width}, max\N{NO-BREAK SPACE}{_rounded(maximum)}"


def _rounded(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if 0 < value < 0.005:
        return "<0.01"
    return f"{value:.2f}" if value < 10 else f"{value:.3g}"


def _cross(panel: Axes, shape: tuple[int, int]) -> None:
    """Draw a cross around the middle of a map: white with a black rim, so that it shows on any colour."""
    box, (height, width) = panel.get_window_extent(), shape
    pixel = 72 / panel.figure.dpi * min(box.width / width, box.height / height)
    inner = max(OPENING, pixel / 2 + 1)
    outer = inner + ARM
    ends = [(x * far, y * far) for x, y in ((1, 0), (0, 1), (-1, 0), (0, -1)) for far in (inner, outer)]
    panel.plot(
        (width - 1) / 2,
        (height - 1) / 2,
        marker=Path(ends, [Path.MOVETO, Path.LINETO] * 4),
        markersize=2 * outer,
        markeredgecolor="white",
        markeredgewidth=0.8,
        path_effects=[withStroke(linewidth=1.8, foreground="black")],
    )


def _draw(axes: Sequence[Axes], layers: Sequence[LayerMap], colours: ScalarMappable) -> None:
    for panel, layer in zip(axes, layers, strict=True):
        panels.draw_map(panel, layer.values, colours)
        if layer.values.size == 1:
            ink = style.ink(colours.to_rgba(layer.values)[0, 0])
            panel.text(0, 0, _rounded(layer.values.item()), size=style.SMALL, color=ink, ha="center", va="center")
