"""Where successes differ from failures and from controls: differences by layer."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from onepix.figures import depth, style

AGAINST = ("control", "failure")
COLUMN_GAP, ROW_GAP = 0.15, 0.26  # Between the plots, in inches; a bracket and its label stand between two rows.
TALLEST, LOWEST = 1.0, 0.6  # Heights of a plot, in inches.
LEGEND, HEADING = 0.22, 0.14  # Heights of the legend and of the columns' headings, in inches.
BRACKET = 0.045  # Height of a bracket over a plot, in inches.
INK = "#333333"
SIGNIFICANT: dict[str, Any] = {"marker": "o", "linestyle": "none"}
NOT = SIGNIFICANT | {"markerfacecolor": "white", "markeredgewidth": 0.6}


@style.paper_style()
def comparison(table: pd.DataFrame, separation: pd.DataFrame, title: str, confidence: float = 0.95) -> Figure:
    """Draw how much successes differ from controls and from failures in each layer, and from where on.

    Parameters
    ----------
    table : DataFrame
        One row per layer, comparison and measure: depth (int), layer (str), operator (str), against ("control" or
        "failure"), measure (a quantity of `onepix.figures.depth.growth`), images (int: successes), others (int:
        controls or failures), difference (float: mean of successes minus mean of the others), low and high (float: its
        interval) and apart (bool: significant at a false discovery rate of 1 − confidence). NaN leaves a gap.
    separation : DataFrame
        One row per comparison and measure: against, measure and layer (str), from which on all differences are
        significant; missing if there is none.
    title : str
        Above the plots.
    confidence : float
        Level of the intervals, and 1 − the false discovery rate; both are named in the legend.

    Returns
    -------
    Figure
        Two journal columns wide: one row of plots per measure, with one scale, and one column per comparison. A filled
        marker
        means significant; a bracket over a plot, significant in this and all deeper layers. A message if there is no
        difference to draw.
    """
    if table.empty or table["difference"].isna().all():
        return style.message_figure(f"{title}: no successes and others to compare")
    drawn = table[table["difference"].notna()]
    layers = depth.in_order(table)
    measures = [measure for measure in depth.QUANTITIES if measure in set(drawn["measure"])]
    against = [other for other in AGAINST if other in set(drawn["against"])]
    figure, grid = _grid(title, layers, len(measures), len(against))
    parted = separation[separation["layer"].notna()]
    _legend(figure, grid[0][0], confidence, parted=len(parted) > 0, banded=bool(drawn["low"].notna().any()))
    for axes, other in zip(grid[0], against, strict=True):
        _head(axes, other, drawn[drawn["against"] == other])
    for plots, measure in zip(grid, measures, strict=True):
        depth.label_values(plots[0], depth.QUANTITIES[measure], _size(plots[0])[0])
        for axes, other in zip(plots, against, strict=True):
            rows = drawn[(drawn["against"] == other) & (drawn["measure"] == measure)].set_index("layer")
            rows = rows.reindex(layers["layer"])
            _draw(axes, rows, depth.OUTCOMES[other]["color"])
            for layer in parted.loc[(parted["against"] == other) & (parted["measure"] == measure), "layer"]:
                _bracket(axes, rows, layer)
    return figure


def _grid(title: str, layers: pd.DataFrame, rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    """Lay out a figure's plots, row by row; those of a row share their scale."""
    title = style.wrapped(title, style.LARGE, style.DOUBLE - 2 * style.MARGIN)
    top = style.MARGIN + style.height_of(title, style.LARGE) + LEGEND + HEADING + ROW_GAP
    foot = depth.foot_of(layers)
    height = min(TALLEST, max(LOWEST, (depth.PAGE - top - foot) / rows - ROW_GAP))
    width = (depth.WIDTH + COLUMN_GAP) / columns - COLUMN_GAP
    figure = Figure((style.DOUBLE, top + rows * (height + ROW_GAP) - ROW_GAP + foot))
    style.add_text(figure, style.MARGIN, style.MARGIN, title, style.LARGE)
    grid: list[list[Axes]] = []
    for row in range(rows):
        from_top = top + row * (height + ROW_GAP)
        lefts = [depth.LEFT + column * (width + COLUMN_GAP) for column in range(columns)]
        plots = [style.add_axes(figure, left, from_top, width, height) for left in lefts]
        for axes in plots:
            depth.label_layers(axes, layers, width, named=row == rows - 1)
            axes.axhline(0, color=INK, linewidth=0.5)
            axes.update_datalim([(0, -depth.LEAST), (0, depth.LEAST)])
        for axes in plots[1:]:
            axes.sharey(plots[0])
            axes.tick_params(labelleft=False)
        grid.append(plots)
    return figure, grid


def _legend(figure: Figure, below: Axes, confidence: float, parted: bool, banded: bool) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=INK, label=f"significant (q ≤ {1 - confidence:.2g})", **SIGNIFICANT),
        Line2D([], [], color=INK, label="not significant", **NOT),
    ]
    if parted:
        handles.append(Line2D([], [], color=INK, linewidth=0.6, label="significant throughout"))
    if banded:
        label = f"{100 * confidence:g} % interval"
        handles.append(Patch(color=style.GREY, alpha=depth.BAND, linewidth=0, label=label))
    box = below.get_position()
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(box.x0, box.y1 + (ROW_GAP + HEADING) / figure.get_figheight()),
        ncols=4,
        frameon=False,
        borderaxespad=0,
    )


def _head(axes: Axes, other: str, rows: pd.DataFrame) -> None:
    counts = f"n = {rows['images'].max():.0f} and {rows['others'].max():.0f}"
    above = (0, 72 * ROW_GAP)  # In points.
    axes.annotate(f"success − {other}, {counts}", (0, 1), above, "axes fraction", "offset points", va="bottom")


def _draw(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Draw the differences of one comparison in one measure: one row per layer."""
    positions, values = np.arange(len(rows), dtype=np.float64), rows["difference"].to_numpy(float)
    apart = _apart(rows)
    pitch = 72 * _size(axes)[0] / len(rows)  # In points.
    look: dict[str, Any] = {"color": colour, "clip_on": False}
    axes.plot(positions, values, **look)
    look["markersize"] = min(3.0, max(1.8, 0.9 * pitch))
    axes.plot(positions[~apart], values[~apart], **look, **NOT)
    axes.plot(positions[apart], values[apart], **look, **SIGNIFICANT)
    depth.draw_band(axes, positions, rows["low"], rows["high"], colour)


def _apart(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Tell in which layers the difference is significant; never where it is NaN."""
    return rows["apart"].eq(True).to_numpy(bool)


def _bracket(axes: Axes, rows: pd.DataFrame, layer: str) -> None:
    """Draw a bracket over a plot, from a layer to the last significant difference."""
    layers = len(rows)
    start, stop = list(rows.index).index(layer) - 0.5, np.flatnonzero(_apart(rows))[-1] + 0.5
    width, height = _size(axes)
    rise = 1 + BRACKET / height
    above = axes.get_xaxis_transform()
    axes.plot([start, start, stop, stop], [0, rise, rise, 1], color=INK, linewidth=0.6, clip_on=False, transform=above)
    text = f"from {style.short(layer)} on"
    needed = style.width_of(text, style.SMALL) * layers / width  # In layers.
    if needed < layers:
        end, side = (start, "left") if start + needed < layers - 0.5 else (layers - 0.5, "right")
        axes.text(end, rise + 0.02 / height, text, size=style.SMALL, transform=above, ha=side, va="bottom")


def _size(axes: Axes) -> tuple[float, float]:
    """Return the width and the height of a plot, in inches."""
    box = axes.get_window_extent()
    return box.width / axes.figure.dpi, box.height / axes.figure.dpi
