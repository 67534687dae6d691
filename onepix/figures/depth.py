"""How a pixel change grows from layer to layer."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from onepix.figures import style

LEFT, RIGHT = 0.55, 0.08  # Margins beside the plots, in inches.
WIDTH, HEIGHT = style.DOUBLE - LEFT - RIGHT, 1.35  # Of a plot, in inches.
GAP = 0.12  # Between the plots, in inches.
BAND = 0.2  # Opacity.
PITCH = 0.115  # Least distance of two layer names, in inches.
PANELS = {"share_of_peak": "share of the original\nmaximum reached", "reach": "share of positions\nchanged"}
OUTCOMES: dict[str, dict[str, Any]] = {
    "success": {"color": style.VERMILLION, "marker": "o", "linestyle": "-"},
    "failure": {"color": style.BLUE, "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
}


@style.paper_style()
def growth(table: pd.DataFrame, title: str, confidence: float = 0.95) -> Figure:
    """Draw growth by depth: how strong and how wide the change is in each layer, successes against failures.

    Parameters
    ----------
    table : DataFrame
        A row a layer and outcome: depth (int), layer (str), operator (str), outcome ("success" or "failure"),
        images (int), share_of_peak and reach with their intervals share_of_peak_low, share_of_peak_high, reach_low and
        reach_high (float; NaN where there is no interval). An outcome may be absent.
    title : str
        Above the plots.
    confidence : float
        Level of the intervals, named in the legend.

    Returns
    -------
    Figure
        Two plots over the layers in network order: of the maximum of the layer's original feature map, the share
        that the change reaches; and the share of the layer's positions that change. A message if the table is empty.
    """
    if table.empty:
        return style.message_figure(f"{title}: no image was followed through the layers")
    layers = table.drop_duplicates("layer").sort_values("depth", kind="stable")
    order = list(layers["layer"])
    names = [_name(layer, operator) for layer, operator in zip(order, layers["operator"], strict=True)]
    stages = _stages(order)
    title = style.wrapped(title, style.LARGE, style.DOUBLE - 2 * style.MARGIN)
    above = 0.16 if stages else 0.05
    top = style.MARGIN + style.height_of(title, style.LARGE) + 0.26 + above
    foot = max(style.width_of(name, style.SMALL) for name in names) + 0.3
    figure = Figure((style.DOUBLE, top + 2 * HEIGHT + GAP + foot))
    style.add_text(figure, style.MARGIN, style.MARGIN, title, style.LARGE)
    upper, lower = (style.add_axes(figure, LEFT, top + n * (HEIGHT + GAP), WIDTH, HEIGHT) for n in range(2))
    step = math.ceil(len(names) * PITCH / WIDTH)
    for axes, (quantity, label) in zip((upper, lower), PANELS.items(), strict=True):
        _draw(axes, table, quantity, order, step)
        _divide(axes, stages)
        axes.set_ylabel(label)
        axes.set_xticks(range(0, len(names), step), names[::step], rotation=90)
    upper.tick_params(labelbottom=False)
    upper.set_ylim(bottom=0)
    lower.set_ylim(0, 1.05)
    lower.set_xlabel("layer, in network order" + (f" (one name in {step} shown)" if step > 1 else ""))
    _name_stages(upper, stages, len(order))
    handles = [*upper.get_legend_handles_labels()[0]]
    if table["reach_low"].notna().any():
        handles.append(Patch(color=style.GREY, alpha=BAND, linewidth=0, label=f"{100 * confidence:g} % interval"))
    anchor = (0, 1 + above / HEIGHT)
    upper.legend(handles=handles, loc="lower left", bbox_to_anchor=anchor, ncols=3, frameon=False, borderaxespad=0)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, quantity: str, order: list[str], step: int) -> None:
    places = np.arange(len(order))
    for outcome, look in OUTCOMES.items():
        rows = table[table["outcome"] == outcome].set_index("layer").reindex(order)
        if rows["images"].isna().all():
            continue
        low, high = rows[f"{quantity}_low"], rows[f"{quantity}_high"]
        label = f"{outcome}, n = {rows['images'].max():.0f}"
        axes.plot(places, rows[quantity], label=label, markevery=step, clip_on=False, **look)
        axes.fill_between(places, low, high, color=look["color"], alpha=BAND, linewidth=0)
        if len(order) == 1:  # A band over one layer has no width.
            axes.vlines(places, low, high, color=look["color"], linewidth=0.8)
    axes.set_xlim(-0.5, len(order) - 0.5)


def _stages(order: list[str]) -> list[tuple[str, int, int]]:
    """Return runs of layers of one top-level module: its name, its first layer and the one after its last."""
    stages, start = [], 0
    for name, run in itertools.groupby(order, lambda layer: layer.partition(".")[0]):
        stop = start + len(list(run))
        if stop - start > 1:
            stages.append((name, start, stop))
        start = stop
    return stages if len(stages) > 1 else []


def _divide(axes: Axes, stages: list[tuple[str, int, int]]) -> None:
    for border in {border for _, *borders in stages for border in borders}:
        axes.axvline(border - 0.5, color=style.GREY, linewidth=0.5, linestyle=":", zorder=0)


def _name_stages(axes: Axes, stages: list[tuple[str, int, int]], layers: int) -> None:
    for name, start, stop in stages:
        if style.width_of(name, style.SMALL) < WIDTH * (stop - start) / layers - 0.05:
            place = ((start + stop) / 2 / layers, 1.02)
            axes.text(*place, name, size=style.SMALL, transform=axes.transAxes, ha="center", va="bottom")


def _name(layer: str, operator: str) -> str:
    """Return a layer's name; one that is only a number in its module says nothing without the operator."""
    return f"{layer} {operator}" if layer.rpartition(".")[2].isdigit() else layer
