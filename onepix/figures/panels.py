"""A sheet of small images and maps with captions, and one colour bar under them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from onepix.errors import OnepixError
from onepix.figures import style

GAP = 0.09  # Between panels, in inches.
LARGEST = 1.65  # Width of a panel, in inches.
RING = 6.0  # Least diameter of the ring around a pixel, in points.


@dataclasses.dataclass(frozen=True)
class ColourBar:
    """A colour scale, and how it is shown.

    Attributes
    ----------
    colours : ScalarMappable
        The scale.
    label : str
        Under the bar.
    ticks : sequence of float
        Values named at the bar.
    extend : {"neither", "max"}
        Whether the bar shows that values go beyond its end.
    """

    colours: ScalarMappable
    label: str
    ticks: Sequence[float]
    extend: Literal["neither", "max"]


def sheet(
    title: str,
    captions: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    columns: int,
    width: float,
    bar: ColourBar,
) -> tuple[Figure, list[Axes]]:
    """Lay out panels row by row, with a colour bar.

    Parameters
    ----------
    title : str
        Above all panels.
    captions : sequence of str
        One per panel, above it; long captions are broken into lines.
    shapes : sequence of (int, int)
        Height and width of what a panel shows; a 1 × 1 map gets a smaller panel.
    columns : int
        Panels per row.
    width : float
        Of the figure, in inches.
    bar : ColourBar
        Under all panels.

    Returns
    -------
    Figure, list of Axes
        The figure, and its panels.
    """
    cell = (width - 2 * style.MARGIN) / columns
    side = min(cell - GAP, LARGEST)
    size = style.SMALL if columns <= 8 else style.SMALLEST
    sides = [0.5 * side if shape == (1, 1) else side for shape in shapes]
    heights = [across * min(1.5, shape[0] / shape[1]) for across, shape in zip(sides, shapes, strict=True)]
    title = style.wrapped(title, style.LARGE, width - 2 * style.MARGIN)
    label = style.wrapped(bar.label, style.SMALL, width - 2 * style.MARGIN)
    captions = [style.wrapped(caption, size, cell - GAP / 2) for caption in captions]
    tops, bottom = [], style.MARGIN + style.height_of(title, style.LARGE)
    for start in range(0, len(shapes), columns):
        row = slice(start, start + columns)
        top = bottom + GAP + max(style.height_of(caption, size) for caption in captions[row])
        tops += [top] * len(captions[row])
        bottom = top + max(heights[row])
    figure = Figure((width, bottom + 0.42 + style.height_of(label, style.SMALL)))
    style.add_text(figure, style.MARGIN, style.MARGIN, title, style.LARGE)
    panels = []
    for index, caption in enumerate(captions):
        left = style.MARGIN + cell * (index % columns + 0.5) - sides[index] / 2
        panel = style.add_axes(figure, left, tops[index], sides[index], heights[index])
        panel.set_title(caption, size=size)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(True)
        panels.append(panel)
    length = min(3.0, width - 1.0)
    axes = style.add_axes(figure, (width - length) / 2, bottom + 0.13, length, 0.09)
    _draw_bar(axes, bar, label)
    return figure, panels


def draw_image(panel: Axes, image: npt.NDArray[np.uint8]) -> None:
    """Draw an image, pixel by pixel.

    Parameters
    ----------
    panel : Axes
        Where.
    image : ndarray
        uint8, shape (H, W, C). Three channels are red, green and blue; any other number is shown in grey, as the
        mean over channels.

    Raises
    ------
    OnepixError
        If the image has another type or number of dimensions.
    """
    if image.ndim != 3 or image.dtype != np.uint8:
        raise OnepixError(f"figure: an image must be uint8 (y, x, channel), got {image.dtype} of shape {image.shape}")
    shown = image if image.shape[2] == 3 else image.mean(axis=2)
    panel.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def draw_map(panel: Axes, values: npt.NDArray[np.floating], colours: ScalarMappable) -> None:
    """Draw a map of shape (H, W), position by position; NaN is grey."""
    image = panel.imshow(values, interpolation="nearest")
    image.set_norm(colours.norm)
    image.set_cmap(colours.get_cmap())
    panel.autoscale(enable=False)  # A frame at the edge must not make room for itself.


def ring(panel: Axes, pixels: Iterable[tuple[int, int]]) -> None:
    """Draw a ring around each pixel (row, column): white with a black rim, so that it shows on any colour."""
    box = panel.get_window_extent()
    height, width = panel.images[0].get_size()
    pixel = 72 / panel.figure.dpi * min(box.width / width, box.height / height)
    for row, column in pixels:
        panel.plot(
            column,
            row,
            marker="o",
            markersize=max(RING, pixel + 3),
            markerfacecolor="none",
            markeredgecolor="white",
            markeredgewidth=0.8,
            path_effects=[withStroke(linewidth=2.0, foreground="black")],
            clip_on=False,
        )


def _draw_bar(axes: Axes, bar: ColourBar, label: str) -> None:
    drawn = axes.figure.colorbar(bar.colours, cax=axes, orientation="horizontal", extend=bar.extend)
    drawn.set_ticks(bar.ticks, labels=[f"{tick:g}".replace("-", "−") for tick in bar.ticks])
    drawn.minorticks_off()
    axes.set_xlabel(label, size=style.SMALL, labelpad=2)
