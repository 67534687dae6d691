"""How the weakness fades with distance from the attacked pixel."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from onepix.figures import style

LEFT, RIGHT, FOOT = 0.42, 0.1, 0.36  # Margins around the plot, in inches.
WIDTH, HEIGHT = style.SINGLE - LEFT - RIGHT, 1.7  # Of the plot, in inches.
BAND = 0.2  # Opacity.
ENTRY_GAP, HANDLE = 0.05, 0.3  # Between entries of the legend, and width of their symbols, in inches.
MARKS = 10  # Markers per line, about.
COLOURS = (style.VERMILLION, style.BLUE, style.GREEN, style.SKY_BLUE)
CHANCE = {"linestyle": "--", "linewidth": 0.8, "markerfacecolor": "white"}
MARKERS = ("o", "s", "^", "D", "v", "X", "P")  # 4 and 7 have no common factor: 28 combinations.


@style.paper_style()
def distance_profile(profiles: Mapping[str, pd.DataFrame], confidence: float = 0.95) -> Figure:
    """Draw how often a moved pixel change still flips the class, by distance: one line per network.

    Parameters
    ----------
    profiles : mapping
        Network to its `onepix.analysis.locality.distance_profile`: one row per distance, with distance (int,
        pixels), images (int), rate, low, high, chance, chance_low and chance_high (float; bounds NaN where there is
        no interval).
    confidence : float
        Level of the intervals, named in the legend.

    Returns
    -------
    Figure
        One journal column wide. Each network has its colour and marker; its chance level is dashed, in the same colour
        and with the same markers, empty. A message if no network has a profile.
    """
    drawn = {network: profile for network, profile in profiles.items() if len(profile)}
    if not drawn:
        return style.message_figure("no successful attack, hence no distance to show")
    handles = _legend(drawn, confidence)
    top = style.MARGIN + sum(style.height_of(str(handle.get_label()), style.NORMAL) + ENTRY_GAP for handle in handles)
    figure = Figure((style.SINGLE, top + HEIGHT + FOOT))
    axes = style.add_axes(figure, LEFT, top, WIDTH, HEIGHT)
    for index, profile in enumerate(drawn.values()):
        _draw(axes, profile, index, len(drawn))
    farthest = max(profile["distance"].max() for profile in drawn.values())
    axes.set(xlim=(0.5, farthest + 0.5), ylabel="probability of a flip")
    axes.set_xlabel("Chebyshev distance from the attacked pixel (pixels)")
    round_ones = MaxNLocator(8, integer=True, min_n_ticks=1).tick_values(1, farthest)
    axes.set_xticks([1, *(tick for tick in round_ones if 1 < tick <= farthest)])
    axes.set_ylim(bottom=0)
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        borderaxespad=0,
        borderpad=0.3,
        labelspacing=0.3,
        handlelength=HANDLE * 72 / style.NORMAL,
    )
    return figure


def _draw(axes: Axes, profile: pd.DataFrame, index: int, networks: int) -> None:
    rows = profile.sort_values("distance")
    distance, low, high = rows["distance"], rows["low"], rows["high"]
    look = _look(index)
    every = math.ceil(len(rows) / MARKS)
    marks = (every * index // networks, every)  # Other distances than those of other networks, whose lines may overlap.
    axes.plot(distance, rows["rate"], markevery=marks, clip_on=False, **look)
    axes.plot(distance, rows["chance"], markevery=marks, clip_on=False, **look | CHANCE)
    axes.fill_between(distance, low, high, color=look["color"], alpha=BAND, linewidth=0)
    if len(rows) == 1:  # A band over one distance has no width.
        axes.vlines(distance, low, high, color=look["color"], linewidth=0.8)


def _look(index: int) -> dict[str, Any]:
    """Return a network's colour and marker; in grey print, the marker still identifies it."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _legend(drawn: Mapping[str, pd.DataFrame], confidence: float) -> list[Artist]:
    width = style.SINGLE - LEFT - HANDLE - 0.2
    handles: list[Artist] = []
    for index, (network, profile) in enumerate(drawn.items()):
        label = style.wrapped(f"{network}, n = {profile['images'].max()}", style.NORMAL, width)
        handles.append(Line2D([], [], label=label, **_look(index)))
    look = _look(0) if len(drawn) == 1 else {"color": style.GREY, "marker": MARKERS[0]}
    handles.append(Line2D([], [], label="chance: any other position", **look | CHANCE))
    if any(profile["low"].notna().any() for profile in drawn.values()):
        handles.append(Patch(color=style.GREY, alpha=BAND, linewidth=0, label=f"{100 * confidence:g} % interval"))
    return handles
