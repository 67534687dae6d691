"""Whether the weakness belongs to the pixel or to its neighbourhood: position maps, and the locality chart."""

import dataclasses
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from onepix.errors import OnepixError
from onepix.figures import panels, style

MOST_ENTRIES = 8
FRAME = style.GREEN
GAP = 0.25  # Between the neighbours and their frame, in pixels, so that it hides no outline.
CHANGES = {"original attack": style.VERMILLION, "neighbours": style.SKY_BLUE, "random position": style.GREY}
BAR_PITCH, GROUP_GAP = 0.14, 0.1  # Heights, in inches.
BARS_LEFT, BARS_WIDTH = 0.9, 1.5  # Where the bars start, and the length of 100 %, in inches.
MARGIN_LABEL = "logit margin of the true class, asinh scale; black outline: the class flips; "
TARGETED_LABEL = (
    "logit margin of the best other class over the target, asinh scale; black outline: the target is reached; "
)
FRAME_LABEL = "frame: the attacked pixel and its neighbours"


@dataclasses.dataclass(frozen=True)
class PositionMap:
    """The effect of one pixel change at each position of an image.

    Attributes
    ----------
    image : ndarray
        uint8, shape (H, W, C): the original image.
    caption : str
        Above the image.
    row, column : int
        The attacked pixel.
    flips : ndarray
        bool, shape (H, W): whether the change flips the class (targeted: reaches the target) at this position.
    margin : ndarray
        Float, shape (H, W): the true class's logit minus the best other one (targeted: that minus the target's).
    """

    image: npt.NDArray[np.uint8]
    caption: str
    row: int
    column: int
    flips: npt.NDArray[np.bool_]
    margin: npt.NDArray[np.floating]


@style.paper_style()
def position_maps(entries: Sequence[PositionMap], title: str, targeted: bool = False) -> Figure:
    """Draw position maps: one column per image, with the image above (a ring marks the pixel) and its map below.

    Parameters
    ----------
    entries : sequence of PositionMap
        1 to 8.
    title : str
        Above all panels.
    targeted : bool
        Whether margins and flips are those of a targeted attack.

    Returns
    -------
    Figure
        The maps share one colour scale, centred at 0.

    Raises
    ------
    OnepixError
        If there are no entries or more than 8, or an image is not uint8 of shape (H, W, C).

    Notes
    -----
    Vargas and Su, "Understanding the One-Pixel Attack: Propagation Maps and Locality Analysis" (2019).
    """
    if not 1 <= len(entries) <= MOST_ENTRIES:
        raise OnepixError(f"position maps: a figure holds 1 to {MOST_ENTRIES} images, got {len(entries)}")
    span = max(float(np.abs(entry.margin).max()) for entry in entries) or 1.0
    # Most margins are far from 0, but those near 0 matter: the scale is finest there.
    colours = ScalarMappable(AsinhNorm(span / 10, -span, span), matplotlib.colormaps["RdBu"])
    bar = panels.ColourBar(
        colours, (TARGETED_LABEL if targeted else MARGIN_LABEL) + FRAME_LABEL, _ticks(span), extend="neither"
    )
    counts = [f"flips at {entry.flips.sum()} of {entry.flips.size} positions" for entry in entries]
    captions = [*(entry.caption for entry in entries), *counts]
    shapes = [*(entry.image.shape[:2] for entry in entries), *(entry.margin.shape for entry in entries)]
    width = style.SINGLE if len(entries) <= 2 else style.DOUBLE
    figure, axes = panels.sheet(title, captions, shapes, len(entries), width, bar)
    for entry, upper, lower in zip(entries, axes, axes[len(entries) :], strict=False):
        panels.draw_image(upper, entry.image)
        panels.ring(upper, [(entry.row, entry.column)])
        panels.draw_map(lower, entry.margin, colours)
        lower.add_collection(LineCollection(_outline(entry.flips), colors="black", linewidths=0.6))
        _frame_neighbours(lower, entry)
    return figure


@style.paper_style()
def locality_chart(table: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """Draw how often a moved pixel change still flips the class: one group of bars per network.

    The bars are horizontal, so that all names and numbers are, too, however many networks there are.

    Parameters
    ----------
    table : DataFrame
        One row per bar: dataset, network, attack and change (str; change is "original attack", "neighbours" or "random
        position"), images (int), rate (proportion of changes that flip the class), low and high (its interval).
        Without a rate (NaN) there is no bar, without an interval no line.
    confidence : float
        Level of the intervals, named under the chart.

    Returns
    -------
    Figure
        One journal column wide. A heading names a group's network, and its dataset and attack if these vary. A
        message if the table is empty.

    Notes
    -----
    Vargas and Su, "Understanding the One-Pixel Attack: Propagation Maps and Locality Analysis" (2019).
    """
    if table.empty:
        return style.message_figure("no attack, hence no locality to show")
    naming = ["network", *(column for column in ("dataset", "attack") if len(set(table[column])) > 1)]
    groups = [rows for _, rows in table.groupby(naming, sort=False)]
    headings = [", ".join(rows[naming].iloc[0]) for rows in groups]
    headings = [style.wrapped(heading, style.NORMAL, style.SINGLE - 2 * style.MARGIN) for heading in headings]
    tops = [0.0]
    for heading, rows in zip(headings, groups, strict=True):
        tops.append(tops[-1] + style.height_of(heading, style.NORMAL) + len(rows) * BAR_PITCH + GROUP_GAP)
    figure = Figure((style.SINGLE, style.MARGIN + tops[-1] + 0.5))
    axes = style.add_axes(figure, BARS_LEFT, style.MARGIN, BARS_WIDTH, tops[-1])
    names: dict[float, str] = {}
    for heading, rows, top in zip(headings, groups, tops, strict=False):
        style.add_text(figure, style.MARGIN, style.MARGIN + top, heading, style.NORMAL)
        first = top + style.height_of(heading, style.NORMAL) + BAR_PITCH / 2
        positions = first + BAR_PITCH * np.arange(len(rows))
        _draw_bars(axes, rows, positions)
        names.update(zip(positions, rows["change"], strict=True))
    axes.set(xlim=(0, 100), ylim=(tops[-1], 0), xticks=[0, 25, 50, 75, 100])
    axes.set_yticks(list(names), list(names.values()))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"changes that flip the class (%)\nline: {100 * confidence:g} % interval; n: images")
    return figure


def _draw_bars(axes: Axes, rows: pd.DataFrame, positions: npt.NDArray[np.floating]) -> None:
    """Draw bars, intervals and their values; positions are heights in inches."""
    percent = 100 * rows[["rate", "low", "high"]].to_numpy(float)
    colours = [CHANGES[change] for change in rows["change"]]
    known = ~np.isnan(percent[:, 0])
    axes.barh(
        positions[known], percent[known, 0], height=0.75 * BAR_PITCH, color=np.array(colours)[known], clip_on=False
    )
    axes.hlines(positions, percent[:, 1], percent[:, 2], color="black", linewidth=1.0, clip_on=False)
    axes.vlines(
        0, positions[0] - BAR_PITCH / 2, positions[-1] + BAR_PITCH / 2, color="black", linewidth=0.6, clip_on=False
    )
    for position, images, rate in zip(positions, rows["images"], percent[:, 0], strict=True):
        text = f"n = {images:.0f}" if np.isnan(rate) else f"{rate:.1f} %, n = {images:.0f}"
        axes.text(100, position, f"  {text}", size=style.SMALL, va="center_baseline")


def _ticks(span: float) -> list[float]:
    """Return 0 and 1, 2 and 5 times powers of ten, of both signs, over the decade below `span`."""
    decade = 10.0 ** math.floor(math.log10(span))
    steps = [n * decade for n in (0.1, 0.2, 0.5, 1, 2, 5) if span / 10 <= n * decade <= span]
    return sorted([0.0, *steps, *(-step for step in steps)])


def _outline(flips: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """Return the edges between positions that flip and those that do not, each as its two ends (x, y)."""
    upright = _left_edges(flips)
    level = _left_edges(flips.T)[:, :, ::-1]
    return [*upright, *level]


def _left_edges(flips: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    padded = np.pad(flips, ((0, 0), (1, 1)))
    row, column = np.nonzero(padded[:, 1:] != padded[:, :-1])
    ends = np.array([[column, row], [column, row + 1]], dtype=np.float64)
    return ends.transpose(2, 0, 1) - 0.5


def _frame_neighbours(panel: Axes, entry: PositionMap) -> None:
    """Mark the attacked pixel with a dot, and draw a frame around it and its neighbours inside the image."""
    height, width = entry.flips.shape
    top, bottom = max(entry.row - 1, 0), min(entry.row + 1, height - 1)
    left, right = max(entry.column - 1, 0), min(entry.column + 1, width - 1)
    pad = 0.5 + GAP
    corner, sides = (left - pad, top - pad), (right - left + 2 * pad, bottom - top + 2 * pad)
    halo = [withStroke(linewidth=2.0, foreground="white")]
    frame = Rectangle(corner, *sides, fill=False, edgecolor=FRAME, linewidth=0.9, clip_on=False, path_effects=halo)
    panel.add_patch(frame)
    panel.plot(entry.column, entry.row, marker="o", markersize=1.6, markeredgewidth=0, color=FRAME)
