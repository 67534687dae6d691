import io
import itertools

import numpy as np
import pandas as pd
import pytest
from drawing import DENSE, LENET, QUANTITIES, RESNET20, TITLE, colour_at, drawn_texts, misfits
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from onepix.figures import comparison, depth, maps, style

RESNET56 = [
    *("conv1", "relu"),
    *(f"layer{s}.{b}.{part}" for s in (1, 2, 3) for b in range(9) for part in ("conv1", "relu1", "conv2", "relu2")),
    *("avgpool", "linear"),
]
NETWORKS = {"LeNet": [*LENET], "ResNet-20": [*RESNET20], "ResNet-56": RESNET56, "a Sequential": ["0"]}
OUTCOMES = {"success": 12, "failure": 88, "control": 12}
AGAINST = ("control", "failure")
SPACELESS = 3  # Layers at the end without distance and spread.


def growth_table(names: list[str], outcomes: dict[str, int], scale: float = 1.0) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for (outcome, images), (index, name) in itertools.product(outcomes.items(), enumerate(names)):
        row = {"depth": 2 * index, "layer": name, "operator": "Conv2d", "outcome": outcome, "images": images}
        for quantity in QUANTITIES:
            low, middle, high = sorted(
                generator.random(3) * (scale if quantity in ("share_of_peak", "distance", "spread") else 1.0)
            )
            if images == 0 or (quantity in ("distance", "spread") and 0 < len(names) - index <= SPACELESS < len(names)):
                low = middle = high = np.nan
            bounds = (low, high) if images > 1 else (np.nan, np.nan)
            row |= {quantity: middle, f"{quantity}_low": bounds[0], f"{quantity}_high": bounds[1]}
        rows.append(row)
    return pd.DataFrame(rows)


def comparison_table(
    names: list[str], against: tuple[str, ...] = AGAINST, measures: tuple[str, ...] = QUANTITIES, scale: float = 1.0
) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    rows = []
    for other, measure, (index, name) in itertools.product(against, measures, enumerate(names)):
        low, middle, high = scale * np.sort(generator.normal(size=3))
        row = {"depth": 2 * index, "layer": name, "operator": "Conv2d", "against": other, "measure": measure}
        row |= {"images": 12, "others": {"failure": 88, "control": 12}[other]}
        if measure in ("distance", "spread") and 0 < len(names) - index <= SPACELESS < len(names):
            low = middle = high = np.nan
        row |= {"difference": middle, "low": low, "high": high}
        rows.append(row | {"apart": bool(low > 0)})
    return pd.DataFrame(rows)


def separation_table(table: pd.DataFrame) -> pd.DataFrame:
    """Name the first layer of the last run of layers that are apart, if it reaches the last one that is tested."""
    rows = []
    for (against, measure), part in table.dropna(subset="difference").groupby(["against", "measure"]):
        runs = [
            list(run) for _, run in itertools.groupby(zip(part["apart"], part["layer"], strict=True), lambda x: x[0])
        ]
        apart, layer = runs[-1][0]
        rows.append({"against": against, "measure": measure, "layer": layer if apart else None})
    return pd.DataFrame(rows)


def draw_comparison(names: list[str], **options) -> Figure:
    table = comparison_table(names, **options)
    return comparison.comparison(table, separation_table(table), TITLE)


def from_the_last(names: list[str]) -> Figure:
    table = comparison_table(names)
    table["apart"] = table["difference"].notna() & (table["layer"].isin(names[-1 - SPACELESS :]))
    return comparison.comparison(table, separation_table(table), TITLE)


def from_the_first(names: list[str]) -> Figure:
    table = comparison_table(names).assign(apart=True)
    return comparison.comparison(table, separation_table(table), TITLE)


def aligned_maps(sides: dict[str, int]) -> list[maps.LayerMap]:
    generator = np.random.default_rng(0)
    layers = []
    for name, side in sides.items():
        values = 1.4 * generator.random((2 * side - 1, 2 * side - 1))
        if side > 1:
            values[0] = values[:, -1] = np.nan
        layers.append(maps.LayerMap(name, values))
    return layers


FIGURES = {
    **{
        f"growth, {name}": lambda n=names: depth.growth(growth_table(n, OUTCOMES), TITLE)
        for name, names in NETWORKS.items()
    },
    **{f"comparison, {name}": lambda n=names: draw_comparison(n) for name, names in NETWORKS.items()},
    "growth, tiny": lambda: depth.growth(growth_table([*LENET], OUTCOMES, 1e-4), TITLE),
    "growth, huge": lambda: depth.growth(growth_table([*LENET], OUTCOMES, 1e4), TITLE),
    "growth, no failure": lambda: depth.growth(growth_table([*LENET], {"success": 1, "failure": 0}), TITLE),
    "growth, 128 long names": lambda: depth.growth(growth_table([*DENSE], OUTCOMES), TITLE),
    "comparison, tiny": lambda: draw_comparison([*LENET], scale=1e-7),
    "comparison, large": lambda: draw_comparison([*LENET], scale=100.0),
    "comparison, 128 long names": lambda: draw_comparison([*DENSE]),
    "comparison, one": lambda: draw_comparison([*RESNET20], against=("failure",), measures=("energy",)),
    "comparison, from the first layer on": lambda: from_the_first([*RESNET20]),
    "comparison, from the last layers on": lambda: from_the_last([*RESNET20]),
    "comparison, from the last layers on, long names": lambda: from_the_last([*DENSE]),
    "aligned, LeNet": lambda: maps.aligned(aligned_maps(LENET), TITLE, "magma"),
    "aligned, ResNet-20": lambda: maps.aligned(aligned_maps(RESNET20), TITLE, "viridis"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "long names" in name else ()) for name in FIGURES]
)
def test_all_text_is_legible_and_the_size_is_a_journals(name):
    figure = FIGURES[name]()
    assert figure.get_figwidth() == 7.0
    assert figure.get_figheight() <= 9.0
    assert misfits(figure) == []


# Growth


def test_outcomes_differ_in_grey_too():
    figure = depth.growth(growth_table([*LENET], OUTCOMES), "title", confidence=0.9)
    for axes in figure.axes:
        assert len({(line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 3
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["success, n = 12", "failure, n = 88", "control, n = 12", "90 % interval"]


def test_growth_shows_three_outcomes():
    table = growth_table([*LENET], OUTCOMES)
    figure = depth.growth(table.sample(frac=1, random_state=0), "title")
    for axes, quantity in zip(figure.axes, QUANTITIES, strict=True):
        for line, band, outcome in zip(axes.lines, axes.collections, OUTCOMES, strict=True):
            rows = table[table["outcome"] == outcome]
            np.testing.assert_array_equal(line.get_ydata(), rows[quantity])
            corners = pd.DataFrame(band.get_paths()[0].vertices, columns=["x", "y"]).groupby("x")["y"]
            np.testing.assert_array_equal(corners.min(), rows[f"{quantity}_low"].dropna())
            np.testing.assert_array_equal(corners.max(), rows[f"{quantity}_high"].dropna())
    labels = [" ".join(axes.get_ylabel().split()) for axes in figure.axes]
    assert labels == [
        "largest change / clean maximum",
        "energy of the change / clean (dB)",
        "share of positions changed",
        "share of positions changed by > 1 %",
        "distance from the attacked pixel (px)",
        "spread about its centre (px)",
    ]
    names = [(text.get_text(), box.y1) for text, box in drawn_texts(figure) if text.get_text() in LENET]
    assert [name for name, _ in names] == [*LENET], "layers are named once"
    assert all(top < figure.axes[-1].bbox.y0 for _, top in names), "at the bottom"


def test_decibels_need_no_zero_but_shares_do():
    table = growth_table([*LENET], OUTCOMES)
    for column in ("energy", "energy_low", "energy_high"):
        table[column] -= 40
    peak, energy, reach, reach_1pct, distance, spread = depth.growth(table, "title").axes
    assert energy.get_ylim()[1] < -38
    assert reach.get_ylim() == reach_1pct.get_ylim() == (0, 1.05)
    assert [axes.get_ylim()[0] for axes in (peak, distance, spread)] == [0, 0, 0]


def test_a_quantity_that_no_layer_has_gets_no_plot():
    table = growth_table(["fc1", "fc2"], OUTCOMES)
    for quantity in ("distance", "spread"):
        table[[quantity, f"{quantity}_low", f"{quantity}_high"]] = np.nan
    assert [axes.get_ylabel().split("\n")[0] for axes in depth.growth(table, "title").axes] == [
        "largest change",
        "energy of the",
        "share of positions",
        "share of positions",
    ]


def test_a_value_between_gaps_is_seen():
    names = [f"layer{n}" for n in range(120)]
    table = growth_table(names, {"success": 5})
    lonely = 50  # No marker falls on this one by itself: one in 3 has one.
    columns = ["energy", "energy_low", "energy_high"]
    table.loc[table.index != lonely, columns] = np.nan
    axes = depth.growth(table, "title").axes[1]
    (interval,) = (c for c in axes.collections if isinstance(c, LineCollection))
    np.testing.assert_array_equal(
        interval.get_segments()[0], [[lonely, table["energy_low"][lonely]], [lonely, table["energy_high"][lonely]]]
    )
    assert lonely in axes.lines[0].get_markevery()


def test_the_outcomes_of_one_layer_stand_side_by_side():
    figure = depth.growth(growth_table(["conv1"], OUTCOMES), "title")
    for axes in figure.axes:
        places = [line.get_xdata()[0] for line in axes.lines]
        assert places == sorted(set(places))
        assert np.mean(places) == pytest.approx(0)
        assert [c.get_segments()[0][0][0] for c in axes.collections if isinstance(c, LineCollection)] == places


@pytest.mark.parametrize("table", [growth_table([*LENET], {"success": 0, "failure": 0}), pd.DataFrame()])
def test_no_image_followed_is_said(table):
    assert only_text(depth.growth(table, "title")) == "title: no image was followed through the layers"


def only_text(figure: Figure) -> str:
    ((text, _),) = drawn_texts(figure)
    return " ".join(text.get_text().split())


# Comparison


def test_a_comparison_shows_the_table():
    table = comparison_table([*RESNET20])
    figure = comparison.comparison(table.sample(frac=1, random_state=0), separation_table(table), "title", 0.9)
    assert len(figure.axes) == 12
    for axes, (measure, other) in zip(figure.axes, itertools.product(QUANTITIES, AGAINST), strict=True):
        rows = table[(table["against"] == other) & (table["measure"] == measure)].reset_index(drop=True)
        known = rows.dropna(subset="difference")
        full, opened, filled = coloured(axes, other)
        np.testing.assert_array_equal(full.get_ydata(), rows["difference"])
        assert drawn_points(filled) == set(known[known["apart"]]["difference"].items())
        assert drawn_points(opened) == set(known[~known["apart"]]["difference"].items())
        assert to_rgb(filled.get_markerfacecolor()) == to_rgb(filled.get_color())
        assert opened.get_markerfacecolor() == "white"
        corners = pd.DataFrame(axes.collections[0].get_paths()[0].vertices, columns=["x", "y"]).groupby("x")["y"]
        np.testing.assert_array_equal(corners.min(), known["low"])
        np.testing.assert_array_equal(corners.max(), known["high"])
        assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]
    for left, right in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        assert left.get_ylim() == right.get_ylim()
    headings = [text.get_text() for axes in figure.axes[:2] for text in axes.texts if text.get_text().startswith("su")]
    assert headings == ["success − control, n = 12 and 12", "success − failure, n = 12 and 88"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "significant (q ≤ 0.1)",
        "not significant",
        "significant throughout",
        "90 % interval",
    ]


def coloured(axes: Axes, other: str) -> list[Line2D]:
    """Return what is drawn in a comparison's colour: the line, the open markers and the filled ones."""
    colour = {"control": style.GREEN, "failure": style.BLUE}[other]
    return [line for line in axes.lines if line.get_color() == colour]


def drawn_points(line: Line2D) -> set[tuple[float, float]]:
    return {(x, y) for x, y in line.get_xydata() if not np.isnan(y)}


def hand_made(apart: list[object], differences: list[float], layer: str | None) -> Figure:
    """Draw one comparison of layers a, b, c and so on in one measure."""
    names = list("abcdef"[: len(apart)])
    table = pd.DataFrame({"layer": names, "difference": differences, "apart": apart, "low": np.nan, "high": np.nan})
    table = table.assign(depth=range(len(names)), operator="ReLU", against="control", measure="spread")
    separation = pd.DataFrame([{"against": "control", "measure": "spread", "layer": layer}])
    return comparison.comparison(table.assign(images=1, others=1), separation, "title")


def brackets(figure: Figure) -> list[np.ndarray]:
    """Return the places between which the brackets stand: they alone have four corners."""
    (axes,) = figure.axes
    return [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 4 and line.get_ydata()[0] == 0]


def test_a_bracket_leads_from_the_separation_to_the_last_significant_layer():
    figure = hand_made([True, False, True, True, False, False], [1, 2, 3, 4, np.nan, np.nan], "c")
    np.testing.assert_array_equal(brackets(figure), [[1.5, 1.5, 3.5, 3.5]])
    assert "from c on" in [text.get_text() for text in figure.axes[0].texts]
    assert "significant throughout" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_without_a_separation_or_intervals_there_is_neither_bracket_nor_band():
    figure = hand_made([True, False], [1.0, 2.0], None)
    assert brackets(figure) == []
    assert len(figure.axes[0].texts) == 1, "the heading"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["significant (q ≤ 0.05)", "not significant"]
    assert not [path for band in figure.axes[0].collections for path in band.get_paths()]


def test_what_a_table_lost_on_disk_is_not_significant():
    text = "apart\nTrue\n\nFalse\n"
    apart = pd.read_csv(io.StringIO(text), skip_blank_lines=False)["apart"]
    assert apart.isna().tolist() == [False, True, False]
    _, opened, filled = coloured(hand_made(apart.tolist(), [1.0, np.nan, 3.0], None).axes[0], "control")
    assert (drawn_points(opened), drawn_points(filled)) == ({(2, 3)}, {(0, 1)})


def test_next_to_no_difference_looks_like_none():
    figure = draw_comparison([*LENET], scale=1e-7)
    for axes in figure.axes:
        assert axes.get_ylim()[0] <= -0.01
        assert axes.get_ylim()[1] >= 0.01


def test_only_comparisons_and_measures_that_there_are_get_plots():
    table = comparison_table([*LENET], measures=("energy", "reach_1pct"))
    table.loc[table["against"] == "control", ["difference", "low", "high"]] = np.nan
    figure = comparison.comparison(table, separation_table(table), "title")
    assert [" ".join(axes.get_ylabel().split()) for axes in figure.axes] == [
        "energy of the change / clean (dB)",
        "share of positions changed by > 1 %",
    ]
    assert "success − failure, n = 12 and 88" in [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("table", [pd.DataFrame(), comparison_table([*LENET]).assign(difference=np.nan)])
def test_nothing_to_compare_is_said(table):
    separation = pd.DataFrame(columns=["against", "measure", "layer"])
    assert only_text(comparison.comparison(table, separation, "title")) == ("title: no successes and others to compare")


# Aligned maps


def test_aligned_maps_leave_nan_out_of_the_maximum_and_draw_it_grey():
    wide = np.array([[np.nan, 0.25, 0.5, 0.75, 1.0], [0.0, 0.2, 2.5, 0.4, np.nan], [0.1] * 5])
    blank = np.full((3, 3), np.nan)
    layers = [maps.LayerMap("wide", wide), maps.LayerMap("blank", blank), maps.LayerMap("fc", np.array([[0.5]]))]
    figure = maps.aligned(layers, "title", "gray")
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "wide\n3×5, max\N{NO-BREAK SPACE}2.50",
        "blank\n3×3, max\N{NO-BREAK SPACE}–",
        "fc\n1×1",
    ]
    assert colour_at(figure, 0, 0, 0) == colour_at(figure, 1, 0, 0) == [153, 153, 153]
    assert colour_at(figure, 0, 1, 0) == [0, 0, 0]
    assert colour_at(figure, 0, 0, 4) == [255, 255, 255]
    assert " ".join(figure.axes[3].get_xlabel().split()) == (
        "max over channels of |change| / maximum of the original feature map, "
        "averaged over images aligned on the attacked pixel (cross)"
    )


def test_an_average_over_what_is_not_defined_has_no_maximum():
    figure = maps.average([maps.LayerMap("conv", np.array([[np.nan, 1.0]]))], "title", "magma")
    assert figure.axes[0].get_title() == "conv\n1×2, max\N{NO-BREAK SPACE}–"


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 9), (63, 41)])
def test_the_cross_marks_the_middle_and_does_not_hide_it(height, width):
    layers = [maps.LayerMap("conv", np.full((height, width), 0.5)), maps.LayerMap("fc", np.array([[0.5]]))]
    figure = maps.aligned(layers, "title", "gray")
    (cross,) = figure.axes[0].lines
    np.testing.assert_array_equal(cross.get_xydata(), [[width // 2, height // 2]])
    assert colour_at(figure, 0, height // 2, width // 2) == [128, 128, 128]
    assert len(figure.axes[1].lines) == 0


@pytest.mark.parametrize("side", [3, 9, 63])
@pytest.mark.parametrize("background", [0.0, 0.5, 1.0])
def test_the_cross_shows_on_any_background(side, background):
    figure = maps.aligned([maps.LayerMap("conv", np.full((side, side), background))], "", "gray")
    figure.dpi = 200
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.axes[0].get_window_extent().padded(-3)
    top, bottom = (int(figure.bbox.height - y) for y in (box.y1, box.y0))
    shades = np.asarray(canvas.buffer_rgba())[top:bottom, int(box.x0) : int(box.x1), 0]
    assert shades.min() < 30
    assert shades.max() > 225
