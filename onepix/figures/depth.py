"""How a pixel change grows and moves from layer to layer."""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from onepix.figures import style

Positions = npt.NDArray[np.float64]

LEFT, RIGHT = 0.7, 0.08  # Margins left and right of the plots, in inches.
WIDTH = style.DOUBLE - LEFT - RIGHT  # Of a plot, in inches.
TALLEST, LOWEST = 1.05, 0.7  # Heights of a plot, in inches.
PAGE = 8.9  # Height of the figure, in inches, unless long layer names ask for more.
GAP = 0.12  # Between the plots, in inches.
TICKS = 0.42  # Room for the numbers left of a plot, in inches.
BAND = 0.2  # Opacity.
APART = 0.03  # Distance of the outcomes where there is only one layer; a plot is then 1 wide.
PITCH = 0.115  # Least distance of two layer names, in inches.
LEAST = 0.01  # Every scale reaches this value, so that tiny changes do not look large.
SHARE_OF_POSITIONS = (0.0, 1.05)
QUANTITIES = {
    "share_of_peak": "largest change\n/ clean maximum",
    "energy": "energy of the\nchange / clean (dB)",
    "reach": "share of positions\nchanged",
    "reach_1pct": "share of positions\nchanged by > 1 %",
    "distance": "distance from the\nattacked pixel (px)",
    "spread": "spread about its\ncentre (px)",
}
OUTCOMES: dict[str, dict[str, Any]] = {
    "success": {"color": style.VERMILLION, "marker": "o", "linestyle": "-"},
    "failure": {"color": style.BLUE, "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
    "control": {"color": style.GREEN, "marker": "^", "linestyle": ":"},
}


@style.paper_style()
def growth(table: pd.DataFrame, title: str, confidence: float = 0.95) -> Figure:
    """Draw how strong the change is in each layer, how wide, and where: successes, failures and controls.

    Parameters
    ----------
    table : DataFrame
        One row per layer and outcome: depth (int), layer (str), operator (str), outcome ("success", "failure" or
        "control": the same change at a position where it does not flip the class), images (int) and six quantities
        (float), each with its interval (_low, _high):

        - share_of_peak: max |change| in units of the maximum of the clean feature map;
        - energy: 10 log10 of the change's energy in units of that of the clean feature map (decibels);
        - reach, reach_1pct: the proportion of positions changed at all, and by more than 1 % of the clean maximum;
        - distance: of the change's centre of mass from the attacked pixel (pixels of the image);
        - spread: root-mean-square distance of the change from its centre of mass (pixels of the image).

        NaN, where a quantity is not defined, leaves a gap. An outcome may be absent, and may have no images.
    title : str
        Above the plots.
    confidence : float
        Level of the intervals, named in the legend.

    Returns
    -------
    Figure
        Two journal columns wide: one plot per quantity, over the layers in network order. A quantity that no layer has
        gets no plot. A message if no image was followed.
    """
    if table.empty or table[[*QUANTITIES]].isna().all(axis=None):
        return style.message_figure(f"{title}: no image was followed through the layers")
    drawn = {quantity: label for quantity, label in QUANTITIES.items() if table[quantity].notna().any()}
    layers = in_order(table)
    stages = _stages(layers)
    title = style.wrapped(title, style.LARGE, style.DOUBLE - 2 * style.MARGIN)
    above = 0.16 if stages else 0.05
    top = style.MARGIN + style.height_of(title, style.LARGE) + 0.26 + above
    foot = foot_of(layers)
    height = min(TALLEST, max(LOWEST, (PAGE - top - foot) / len(drawn) - GAP))
    figure = Figure((style.DOUBLE, top + len(drawn) * (height + GAP) - GAP + foot))
    style.add_text(figure, style.MARGIN, style.MARGIN, title, style.LARGE)
    tops = [top + n * (height + GAP) for n in range(len(drawn))]
    plots = [style.add_axes(figure, LEFT, top, WIDTH, height) for top in tops]
    for axes, (quantity, label) in zip(plots, drawn.items(), strict=True):
        label_layers(axes, layers, WIDTH, named=axes is plots[-1])
        _draw(axes, table, quantity, list(layers["layer"]))
        label_values(axes, label, WIDTH)
    _name_stages(plots[0], stages, len(layers))
    handles = plots[0].get_legend_handles_labels()[0]
    if table[[f"{quantity}_low" for quantity in drawn]].notna().any(axis=None):
        handles.append(Patch(color=style.GREY, alpha=BAND, linewidth=0, label=f"{100 * confidence:g} % interval"))
    plots[0].legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1 + above / height),
        ncols=4,
        frameon=False,
        borderaxespad=0,
        handlelength=3,  # Otherwise the marker hides dots and dashes.
    )
    return figure


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the layers of a table in network order: one row per layer, with depth, layer and operator."""
    layers = table.drop_duplicates("layer").sort_values("depth", kind="stable")
    return layers[["depth", "layer", "operator"]]


def foot_of(layers: pd.DataFrame) -> float:
    """Return the room that layer names and the axis label take under a plot, in inches."""
    return max(style.width_of(name, style.SMALL) for name in style.layer_names(layers)) + 0.3


def label_layers(axes: Axes, layers: pd.DataFrame, width: float, named: bool) -> None:
    """Make an axis of layers: one position per layer, lines between stages, and as many names as fit.

    Parameters
    ----------
    axes : Axes
        Where.
    layers : DataFrame
        Of `in_order`.
    width : float
        Of the plot, in inches.
    named : bool
        Whether to show names at the ticks.
    """
    names = style.layer_names(layers)
    step = math.ceil(len(names) * PITCH / width)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=90)
    axes.tick_params(labelbottom=named)
    if named:
        axes.set_xlabel("layer, in network order" + (f" (one name in {step} shown)" if step > 1 else ""))
    stages = _stages(layers)
    for border in sorted({border for _, *borders in stages for border in borders}):
        axes.axvline(border - 0.5, color=style.GREY, linewidth=0.5, linestyle=":", zorder=0)


def label_values(axes: Axes, label: str, width: float) -> None:
    """Label the vertical axis of a plot `width` inches wide, aligned with the labels of other plots."""
    axes.set_ylabel(label)
    axes.yaxis.set_label_coords(-TICKS / width, 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def draw_band(axes: Axes, positions: Positions, low: pd.Series, high: pd.Series, colour: str) -> None:
    """Draw intervals of consecutive layers as a band, and a single interval as a line."""
    axes.fill_between(positions, low, high, color=colour, alpha=BAND, linewidth=0)
    lonely = _alone(low)
    if lonely.any():  # A band over one layer has no width.
        axes.vlines(positions[lonely], low[lonely], high[lonely], color=colour, linewidth=0.8)


def _alone(values: pd.Series) -> npt.NDArray[np.bool_]:
    """Tell which values have a gap on both sides, so that no line leads to them."""
    known = np.pad(np.isfinite(values.to_numpy(float)), 1)
    alone: npt.NDArray[np.bool_] = known[1:-1] & ~known[:-2] & ~known[2:]
    return alone


def _draw(axes: Axes, table: pd.DataFrame, quantity: str, order: list[str]) -> None:
    step = math.ceil(len(order) * PITCH / WIDTH)
    outcomes = [outcome for outcome in OUTCOMES if outcome in set(table["outcome"])]
    for start, outcome in enumerate(outcomes):
        look = OUTCOMES[outcome]
        rows = table[table["outcome"] == outcome].set_index("layer").reindex(order)
        positions = np.arange(len(order), dtype=np.float64)
        if len(order) == 1:  # Side by side, so that the lines do not overlap.
            positions += APART * (start - (len(outcomes) - 1) / 2)
        marked = _alone(rows[quantity])
        marked[start % step :: step] = True  # Other layers than those of other outcomes, whose lines may overlap.
        marks = np.flatnonzero(marked).tolist()
        label = f"{outcome}, n = {rows['images'].max():.0f}"
        axes.plot(positions, rows[quantity], label=label, markevery=marks, clip_on=False, **look)
        draw_band(axes, positions, rows[f"{quantity}_low"], rows[f"{quantity}_high"], look["color"])
    if quantity.startswith("reach"):
        axes.set_ylim(SHARE_OF_POSITIONS)
    elif quantity != "energy":
        axes.set_ylim(0, max(axes.get_ylim()[1], LEAST))


def _stages(layers: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Return the stages, runs of layers in one top-level module: name, first layer, and the one after the last."""
    stages, start = [], 0
    for name, run in itertools.groupby(layers["layer"], lambda layer: layer.partition(".")[0]):
        stop = start + len(list(run))
        if stop - start > 1:
            stages.append((name, start, stop))
        start = stop
    return stages if len(stages) > 1 else []


def _name_stages(axes: Axes, stages: list[tuple[str, int, int]], layers: int) -> None:
    for name, start, stop in stages:
        if style.width_of(name, style.SMALL) < WIDTH * (stop - start) / layers - 0.05:
            middle = ((start + stop) / 2 / layers, 1.02)
            axes.text(*middle, name, size=style.SMALL, transform=axes.transAxes, ha="center", va="bottom")
