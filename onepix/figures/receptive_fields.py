"""Compares the width of the vulnerable neighbourhood with the receptive fields of a network's layers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from onepix.figures import style

LEFT, RIGHT, FOOT = 0.46, 0.08, 0.14  # Margins around all panels, in inches.
GAP = 0.14  # Between panels, and between the legend and the panels, in inches.
HEIGHT = 1.2  # Of a panel, in inches.
TICK = 0.07  # From a panel to the names of its layers, in inches.
LEGEND_LINE, LEGEND_COLUMNS = 0.13, 3  # Height in inches, and entries per line.
COLUMNS = 4  # At most.
PITCH = 0.13  # Least distance of two layers' names, in inches.
LONGEST = 0.78  # Length that a layer's name may take under a panel, in inches.
MOST_TICKS = 9
MARKER = 1.8  # Largest diameter of a layer's marker, in points; with many layers, markers are smaller.
BAND = 0.25  # Opacity.
UNKNOWN = (math.nan, math.nan, math.nan)

EFFECTIVE: dict[str, Any] = {"color": style.BLUE, "linewidth": 0.8, "marker": "o", "markersize": MARKER}
THEORETICAL: dict[str, Any] = {
    **{"color": "#666666", "linewidth": 0.8, "linestyle": ":"},
    **{"marker": "s", "markersize": 1.7 * MARKER, "markerfacecolor": "white", "markeredgewidth": 0.5},
}
WHOLE: dict[str, Any] = {"color": "#666666", "linestyle": "none", "marker": "^", "markersize": 2.5}
NEIGHBOURHOOD: dict[str, Any] = {"color": style.VERMILLION, "linewidth": 1.0, "linestyle": "--"}
FIRST: dict[str, Any] = {
    **{"color": "black", "linestyle": "none", "marker": "o", "markersize": 6.0},
    **{"markerfacecolor": "none", "markeredgewidth": 0.8},
}


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One network: its layers in order, the width of its neighbourhood with bounds, the first layer wider than that."""

    name: str
    layers: pd.DataFrame
    width: float
    bounds: tuple[float, float]
    first: int | None
    details: str
    ticks: dict[int, str]


@style.paper_style()
def receptive_fields(
    tables: Mapping[str, pd.DataFrame],
    lengths: Mapping[str, tuple[float, float, float]],
    title: str,
    confidence: float = 0.95,
) -> Figure:
    """Draw how receptive fields grow through each network, and how wide its vulnerable neighbourhood is.

    Parameters
    ----------
    tables : mapping
        Network to one row per layer: depth (int), layer (str), operator (str), theoretical and effective (float): sides
        of its fields in pixels. A theoretical NaN means the whole image; an effective side may be NaN.
    lengths : mapping
        Network to the distance in pixels at which the excess flip probability has fallen to half, and its bounds; each
        may be NaN, and networks may be absent. The neighbourhood reaches that far to all sides of the attacked pixel,
        so it is 2 · distance + 1 pixels wide.
    title : str
        Above the panels.
    confidence : float
        Level of the intervals, named in the legend.

    Returns
    -------
    Figure
        Two journal columns wide; one panel per network, all on one logarithmic scale. A ring marks the first layer
        whose effective field is wider than the neighbourhood. A message if no network has a layer.
    """
    drawn = {network: table for network, table in tables.items() if len(table)}
    if not drawn:
        return style.message_figure(f"{title}: no layer has a receptive field to show")
    columns = math.ceil(len(drawn) / math.ceil(len(drawn) / COLUMNS))
    width = (style.DOUBLE - LEFT - RIGHT - (columns - 1) * GAP) / columns
    panels = [_panel(network, table, lengths.get(network, UNKNOWN), width) for network, table in drawn.items()]
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    title = style.wrapped(title, style.LARGE, style.DOUBLE - 2 * style.MARGIN)
    handles = _legend(panels, confidence)
    legend = style.MARGIN + style.height_of(title, style.LARGE) + 0.05
    top = legend + math.ceil(len(handles) / LEGEND_COLUMNS) * LEGEND_LINE + GAP
    figure = Figure((style.DOUBLE, top + sum(_head(row) + HEIGHT + _foot(row) for row in rows) + FOOT))
    style.add_text(figure, style.MARGIN, style.MARGIN, title, style.LARGE)
    _add_legend(figure, handles, legend)
    scale = _scale(panels)
    for row in rows:
        _draw_row(figure, row, top, width, scale)
        top += _head(row) + HEIGHT + _foot(row)
    named = all(len(panel.ticks) == len(panel.layers) for panel in panels)
    label = "layers in network order" + ("" if named else "; some names are left out")
    figure.text(0.5, style.MARGIN / figure.get_figheight(), label, ha="center", va="bottom", size=style.NORMAL)
    return figure


def _panel(network: str, table: pd.DataFrame, length: tuple[float, float, float], width: float) -> _Panel:
    layers = table.sort_values("depth", kind="stable")
    middle, low, high = (2 * distance + 1 for distance in length)
    wider = np.flatnonzero(layers["effective"] > middle)
    first = int(wider[0]) if len(wider) else None
    names = style.layer_names(layers)
    if math.isnan(middle):
        details = "neighbourhood not known"
    else:
        interval = "" if math.isnan(low) else f" ({_rounded(low)}–{_rounded(high)})"
        where = "exceeded in no layer" if first is None else f"first exceeded in {names[first]}"
        details = f"neighbourhood {_rounded(middle)} px{interval}\n{where}"
    step = math.ceil(len(layers) * PITCH / width)
    return _Panel(
        name=style.wrapped(network, style.NORMAL, width),
        layers=layers,
        width=middle,
        bounds=(low, high),
        first=first,
        details=style.wrapped(details, style.SMALL, width),
        ticks={index: _shortened(names[index]) for index in range(0, len(names), step)},
    )


def _rounded(pixels: float) -> str:
    return f"{pixels:.1f}" if pixels < 10 else f"{pixels:.0f}"


def _shortened(name: str) -> str:
    """Return a layer's name, or as much of its end as fits."""
    short = name
    while len(name) > 1 and style.width_of(short, style.SMALL) > LONGEST:
        name = name[1:]
        short = f"…{name}"
    return short


def _head(row: Sequence[_Panel]) -> float:
    """Return the height above a row's panels, in inches."""
    return 0.06 + max(
        style.height_of(panel.name, style.NORMAL) + style.height_of(panel.details, style.SMALL) for panel in row
    )


def _foot(row: Sequence[_Panel]) -> float:
    """Return the height under a row's panels, in inches."""
    return TICK + max(style.width_of(name, style.SMALL) for panel in row for name in panel.ticks.values()) + GAP


def _scale(panels: Sequence[_Panel]) -> tuple[float, float]:
    """Return the smallest and the largest number of pixels to be shown."""
    numbers = [
        [panel.width, *panel.bounds, *panel.layers[["theoretical", "effective"]].to_numpy().flat] for panel in panels
    ]
    known = [number for row in numbers for number in row if not math.isnan(number)]
    return 0.8 * min(known, default=1.0), 1.25 * max(known, default=2.0)


def _draw_row(figure: Figure, row: Sequence[_Panel], top: float, width: float, scale: tuple[float, float]) -> None:
    for column, panel in enumerate(row):
        left = LEFT + column * (width + GAP)
        style.add_text(figure, left, top, panel.name, style.NORMAL)
        style.add_text(figure, left, top + style.height_of(panel.name, style.NORMAL), panel.details, style.SMALL)
        axes = style.add_axes(figure, left, top + _head(row), width, HEIGHT)
        _draw(axes, panel, min(0.5 * 72 * width / len(panel.layers), MARKER))
        axes.set_xlim(-0.5, len(panel.layers) - 0.5)
        axes.set_xticks([*panel.ticks], [*panel.ticks.values()], rotation=90)
        axes.set_yscale("log", base=2)
        axes.set_ylim(scale)
        lowest, highest = math.ceil(math.log2(scale[0])), math.floor(math.log2(scale[1]))
        powers = range(lowest, highest + 1, math.ceil((highest - lowest + 1) / MOST_TICKS))
        axes.set_yticks([2.0**power for power in powers], [f"{2.0**power:g}" for power in powers])
        axes.yaxis.set_minor_locator(NullLocator())
        if column == 0:
            axes.set_ylabel("side (pixels)")
        else:
            axes.tick_params(labelleft=False)


def _draw(axes: Axes, panel: _Panel, marker: float) -> None:
    positions = np.arange(len(panel.layers))
    theoretical, effective = (panel.layers[name].to_numpy() for name in ("theoretical", "effective"))
    low, high = panel.bounds
    if not math.isnan(low):
        axes.axhspan(low, high, color=style.VERMILLION, alpha=BAND, linewidth=0)
    if not math.isnan(panel.width):
        axes.axhline(panel.width, **NEIGHBOURHOOD)
    axes.plot(positions, theoretical, **THEORETICAL | {"markersize": 1.7 * marker})
    whole = positions[np.isnan(theoretical)]
    axes.plot(whole, np.ones(len(whole)), transform=axes.get_xaxis_transform(), clip_on=False, **WHOLE)
    axes.plot(positions, effective, **EFFECTIVE | {"markersize": marker})
    if panel.first is not None:
        axes.plot(panel.first, effective[panel.first], clip_on=False, **FIRST)


def _legend(panels: Sequence[_Panel], confidence: float) -> list[Artist]:
    handles: list[Artist] = [Line2D([], [], label="effective receptive field", **EFFECTIVE)]
    if any(panel.first is not None for panel in panels):
        handles.append(Line2D([], [], label="the first one wider than the neighbourhood", **FIRST))
    handles.append(Line2D([], [], label="theoretical receptive field", **THEORETICAL))
    if any(panel.layers["theoretical"].isna().any() for panel in panels):
        handles.append(Line2D([], [], label="theoretical: the whole image", **WHOLE))
    if any(not math.isnan(panel.width) for panel in panels):
        handles.append(Line2D([], [], label="vulnerable neighbourhood", **NEIGHBOURHOOD))
    if any(not math.isnan(panel.bounds[0]) for panel in panels):
        label = f"{100 * confidence:g} % interval"
        handles.append(Patch(color=style.VERMILLION, alpha=BAND, linewidth=0, label=label))
    return handles


def _add_legend(figure: Figure, handles: Sequence[Artist], top: float) -> None:
    whole_width, whole_height = figure.get_size_inches()
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(style.MARGIN / whole_width, 1 - top / whole_height),
        ncols=LEGEND_COLUMNS,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        labelspacing=0.3,
    )
