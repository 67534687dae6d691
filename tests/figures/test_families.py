"""Each family of figures shows the table it is given, and all its text is legible."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from drawing import DENSE, LENET, QUANTITIES, RESNET20, TITLE, colour_at, drawn_texts, misfits
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from properties import examples
from studies import ROOT

from onepix.errors import OnepixError
from onepix.figures import depth, distance, locality, maps, style


def test_misfits_are_found():
    figure = Figure((2, 1))
    figure.text(0.1, 0.5, "one word", size=8)
    assert misfits(figure) == []
    figure.text(0.15, 0.5, "upon another", size=8)
    figure.text(0.9, 0.9, "beyond the edge", size=8)
    figure.text(0.1, 0.1, "small", size=5)
    assert misfits(figure) == [
        "cut off: 'beyond the edge'",
        "5.0 points: 'small'",
        "overlap: 'one word' and 'upon another'",
    ]
    assert misfits(Figure((2, 1))) == ["no text"]


# Data


def layer_maps(sides: dict[str, int], seed: int = 0) -> list[maps.LayerMap]:
    generator = np.random.default_rng(seed)
    return [maps.LayerMap(name, 1.4 * generator.random((side, side))) for name, side in sides.items()]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def strip(sides: dict[str, int], image: np.ndarray, pixels: list[tuple[int, int]]) -> Figure:
    captions = "automobile 100 %", "black-and-tan coonhound 61 %"
    return maps.strip(image, image, pixels, layer_maps(sides), TITLE, *captions, "magma")


def growth_table(names: list[str], successes: int, failures: int) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for (outcome, images), (index, name) in itertools.product(
        (("success", successes), ("failure", failures)), enumerate(names)
    ):
        if images:
            row = {"depth": 2 * index, "layer": name, "operator": "ReLU", "outcome": outcome, "images": images}
            for quantity in QUANTITIES:
                low, middle, high = sorted(generator.random(3))
                row |= {f"{quantity}_low": low if images > 1 else np.nan, quantity: middle}
                row |= {f"{quantity}_high": high if images > 1 else np.nan}
            rows.append(row)
    columns = ["depth", "layer", "operator", "outcome", "images"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def position_map(height: int, width: int, channels: int, row: int, column: int, seed: int = 0) -> locality.PositionMap:
    margin = np.random.default_rng(seed).normal(3, 2, (height, width))
    image = noise(height, width, channels, seed=seed)
    return locality.PositionMap(image, "automobile 98 % → automobile 61 %", row, column, margin < 0, margin)


def locality_table(networks: list[str], images: int, datasets: tuple[str, ...] = ("cifar10",)) -> pd.DataFrame:
    rates = {"original attack": (0.7, 1.0, 1.0), "neighbours": (0.1, 0.25, 0.5), "random position": (0.0, 0.0, 0.1)}
    rows = []
    for dataset, network, (change, values) in itertools.product(datasets, networks, rates.items()):
        low, rate, high = values if images > 1 else (np.nan, values[1] if images else np.nan, np.nan)
        row = {"dataset": dataset, "network": network, "attack": "differential_evolution", "change": change}
        rows.append(row | {"images": images, "rate": rate, "low": low, "high": high})
    return pd.DataFrame(rows)


def profile(farthest: int, images: int, level: float = 0.4) -> pd.DataFrame:
    places = np.arange(1, farthest + 1)
    rate = 0.02 + level * np.exp(-(places - 1) / 3)
    half = 0.03 + 0.001 * places if images > 1 else np.nan
    chance = 0.05 + 0.1 * level
    columns = {"rate": rate, "low": rate - half, "high": rate + half, "chance": chance}
    columns |= {"chance_low": chance - half, "chance_high": chance + half}
    return pd.DataFrame({"distance": places, "images": np.maximum(images - places + 1, 1), **columns})


FIGURES = {
    "strip of LeNet": lambda: strip(LENET, noise(32, 32, 3), [(0, 0)]),
    "strip of ResNet-20": lambda: strip(RESNET20, noise(32, 32, 3), [(0, 31), (31, 0), (16, 16)]),
    "strip, one channel, wide": lambda: strip({"a.long_name.of_a.layer": 5, "fc": 1}, noise(12, 40, 1), [(11, 39)]),
    "strip, tall": lambda: strip(LENET, noise(64, 20, 3), [(63, 0)]),
    "strip of 128 long names": lambda: strip(DENSE, noise(28, 28, 1), [(0, 0)]),
    "average of ResNet-20": lambda: maps.average(layer_maps(RESNET20), TITLE, "viridis"),
    "average of one layer": lambda: maps.average(layer_maps({"conv1": 28}), TITLE, "Greys"),
    "growth, LeNet, one success": lambda: depth.growth(growth_table([*LENET], 1, 24), TITLE),
    "growth, LeNet, no success": lambda: depth.growth(growth_table([*LENET], 0, 25), TITLE),
    "growth, ResNet-20": lambda: depth.growth(growth_table([*RESNET20], 12, 88), TITLE),
    "growth, 128 long names": lambda: depth.growth(growth_table([*DENSE], 12, 88), TITLE),
    "growth, one layer, no failure": lambda: depth.growth(growth_table(["conv1"], 2, 0), TITLE),
    "growth of nothing": lambda: depth.growth(growth_table([*LENET], 0, 0), TITLE),
    "one position map": lambda: locality.position_maps([position_map(32, 32, 3, 0, 31)], TITLE),
    "8 position maps": lambda: locality.position_maps([position_map(32, 32, 3, n, n, n) for n in range(8)], TITLE),
    "3 wide position maps": lambda: locality.position_maps([position_map(9, 30, 1, 8, 0, n) for n in range(3)], TITLE),
    "chart of one network": lambda: locality.locality_chart(locality_table(["lenet"], 25)),
    "chart without successes": lambda: locality.locality_chart(locality_table(["lenet"], 0)),
    "chart of one success": lambda: locality.locality_chart(locality_table(["lenet"], 1)),
    "chart of 10": lambda: locality.locality_chart(
        locality_table([f"a-long-name-for-network-{n}" for n in range(5)], 10_000, ("cifar10", "my_own_images"))
    ),
    "chart of nothing": lambda: locality.locality_chart(locality_table([], 0)),
    "profile of one network": lambda: distance.distance_profile({"resnet20": profile(31, 25)}),
    "profile of one success": lambda: distance.distance_profile({"lenet": profile(27, 1)}),
    "profile of one distance": lambda: distance.distance_profile({"lenet": profile(1, 5)}),
    "profiles of large images": lambda: distance.distance_profile({"a": profile(223, 400), "b": profile(223, 9, 0.9)}),
    "profiles of 9 networks": lambda: distance.distance_profile(
        {f"{'a-long-name-for-network' * (n % 3)}-{n}": profile(20 + n, 25, n / 9) for n in range(9)}
    ),
    "profile of nothing": lambda: distance.distance_profile({"lenet": profile(0, 1)}),
    "message": lambda: style.message_figure("no successful attack among the 25 attacked images"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "long" in name else ()) for name in FIGURES]
)
def test_all_text_is_legible_and_the_width_is_a_journals(name):
    figure = FIGURES[name]()
    assert figure.get_figwidth() in (3.4, 7.0)
    assert misfits(figure) == []


@pytest.mark.parametrize("layers", [41, 59, 75])
def test_a_strip_fits_a_page(layers):
    names = [f"layer3.2.relu{index}" for index in range(layers)]
    assert strip(dict.fromkeys(names, 8), noise(32, 32, 3), [(0, 0)]).get_figheight() <= 9.0


# Strips


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_shows_what_it_was_given(channels):
    original, attacked = noise(12, 20, channels), noise(12, 20, channels, seed=1)
    layers = [*layer_maps({"conv1": 6, "pool": 3}), maps.LayerMap("fc", np.array([[0.25]]))]
    figure = maps.strip(original, attacked, [(2, 18)], layers, "title", "cat 98 %", "dog 61 %", "viridis")
    panels = figure.axes[:5]
    for panel, image in zip(panels, (original, attacked), strict=False):
        np.testing.assert_array_equal(panel.images[0].get_array(), image if channels == 3 else image[:, :, 0])
        assert panel.images[0].get_clim() == (0, 255)
        (ring,) = panel.lines
        np.testing.assert_array_equal(ring.get_xydata(), [[18, 2]])
    for panel, layer in zip(panels[2:], layers, strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), layer.values)
        assert panel.images[0].get_clim() == (0, 1)
        assert panel.images[0].get_cmap().name == "viridis"
    assert all(panel.get_aspect() == 1 and panel.images[0].get_interpolation() == "nearest" for panel in panels)
    assert [panel.get_title() for panel in panels] == [
        "original\ncat 98\N{NO-BREAK SPACE}%",
        "attacked\ndog 61\N{NO-BREAK SPACE}%",
        f"conv1\n6×6, max\N{NO-BREAK SPACE}{np.max(layers[0].values):.2f}",
        f"pool\n3×3, max\N{NO-BREAK SPACE}{np.max(layers[1].values):.2f}",
        "fc\n1×1",
    ]
    assert [text.get_text() for text in panels[4].texts] == ["0.25"]
    assert panels[4].get_position().width < panels[3].get_position().width
    assert figure.axes[5].get_xlabel() == "max over channels of |change| / maximum of the original feature map"


def test_panels_stand_in_reading_order():
    figure = strip(RESNET20, noise(32, 32, 3), [(0, 0)])
    corners = [panel.get_position() for panel in figure.axes[:-1]]
    assert corners == sorted(corners, key=lambda corner: (-round(corner.y1, 6), corner.x0))
    assert [panel.get_title().split("\n")[0] for panel in figure.axes[2:-1]] == [*RESNET20]


def test_a_pixel_is_drawn_at_its_row_and_column():
    original = np.zeros((12, 20, 1), dtype=np.uint8)
    attacked = original.copy()
    attacked[2, 18] = 255
    figure = maps.strip(original, attacked, [(2, 18)], [maps.LayerMap("conv", np.eye(12, 20))], "", "", "", "gray")
    assert colour_at(figure, 0, 2, 18) == [0, 0, 0]
    assert colour_at(figure, 1, 2, 18) == [255, 255, 255]
    assert colour_at(figure, 1, 2, 10) == [0, 0, 0]
    assert colour_at(figure, 2, 11, 11) == [255, 255, 255]


@pytest.mark.parametrize("background", [0, 128, 255])
def test_the_ring_shows_on_any_background(background):
    image = np.full((32, 32, 1), background, dtype=np.uint8)
    canvas = FigureCanvasAgg(maps.strip(image, image, [(16, 16)], layer_maps({"conv1": 32}), "", "", "", "gray"))
    canvas.figure.dpi = 200
    canvas.draw()
    box = canvas.figure.axes[0].get_window_extent().padded(-3)
    top, bottom = (int(canvas.figure.bbox.height - y) for y in (box.y1, box.y0))
    shades = np.asarray(canvas.buffer_rgba())[top:bottom, int(box.x0) : int(box.x1), 0]
    assert {0, 255, background} <= set(np.unique(shades))


@pytest.mark.parametrize(
    ("values", "caption"),
    [
        ([[0.004, 0]], "conv\n1×2, max\N{NO-BREAK SPACE}<0.01"),
        ([[0, 0]], "conv\n1×2, max\N{NO-BREAK SPACE}0.00"),
        ([[123.4, 0]], "conv\n1×2, max\N{NO-BREAK SPACE}123"),
        ([[np.nan, np.nan]], "conv\n1×2, max\N{NO-BREAK SPACE}–"),
    ],
)
def test_the_maximum_is_told(values, caption):
    figure = maps.average([maps.LayerMap("conv", np.array(values, dtype=float))], "title", "magma")
    assert figure.axes[0].get_title() == caption
    assert misfits(figure) == []


@pytest.mark.parametrize(("value", "ink"), [(0.0, "white"), (0.3, "white"), (0.9, "black"), (1.5, "black")])
def test_a_value_is_written_in_contrast(value, ink):
    figure = maps.average([maps.LayerMap("fc", np.array([[value]]))], "title", "magma")
    assert [(text.get_text(), text.get_color()) for text in figure.axes[0].texts] == [(f"{value:.2f}", ink)]


def test_a_map_without_a_scale_is_grey():
    figure = maps.average([maps.LayerMap("conv", np.full((2, 2), np.nan))], "title", "magma")
    assert colour_at(figure, 0, 1, 1) == [153, 153, 153]


@pytest.mark.parametrize(
    "draw", [maps.average, lambda *args: maps.strip(*[noise(8, 8, 3)] * 2, [], *args[:2], "", "", args[2])]
)
def test_an_unknown_colour_map_is_named(draw):
    with pytest.raises(OnepixError, match=r"^figures.colour_map: 'magna' is unknown; did you mean 'magma'\?$"):
        draw(layer_maps(LENET), "title", "magna")


def test_an_image_must_be_8_bit():
    with pytest.raises(OnepixError, match=r"must be uint8 \(y, x, channel\), got float64 of shape \(8, 8, 3\)"):
        strip(LENET, np.zeros((8, 8, 3)), [(0, 0)])


# Growth


def test_growth_shows_the_table():
    table = growth_table([*RESNET20], 12, 88)
    figure = depth.growth(table.sample(frac=1, random_state=0), "title", confidence=0.9)
    for axes, quantity in zip(figure.axes, QUANTITIES, strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata()) == len(RESNET20)]
        for outcome, line, band in zip(("success", "failure"), lines, axes.collections, strict=True):
            rows = table[table["outcome"] == outcome]
            np.testing.assert_array_equal(line.get_xdata(), range(41))
            np.testing.assert_array_equal(line.get_ydata(), rows[quantity])
            corners = pd.DataFrame(band.get_paths()[0].vertices, columns=["x", "y"]).groupby("x")["y"]
            np.testing.assert_array_equal(corners.min(), rows[f"{quantity}_low"])
            np.testing.assert_array_equal(corners.max(), rows[f"{quantity}_high"])
        assert len({(line.get_marker(), line.get_linestyle(), line.get_color()) for line in lines}) == 2
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["success, n = 12", "failure, n = 88", "90 % interval"]
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == [*RESNET20]


def test_growth_of_one_success_has_no_band():
    figure = depth.growth(growth_table([*LENET], 1, 0), "title")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["success, n = 1"]
    assert not [path for axes in figure.axes for band in axes.collections for path in band.get_paths()]
    assert [len(axes.lines) for axes in figure.axes] == [1] * 6


def test_growth_over_one_layer_shows_the_interval():
    table = growth_table(["conv1"], 5, 0)
    figure = depth.growth(table, "title")
    (line,) = (c for c in figure.axes[2].collections if isinstance(c, LineCollection))
    expected = [[0, table["reach_low"][0]], [0, table["reach_high"][0]]]
    np.testing.assert_array_equal(line.get_segments()[0], expected)


def test_many_layers_are_named_now_and_then():
    figure = depth.growth(growth_table([*DENSE], 3, 3), "title")
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == [*DENSE][::3]
    assert figure.axes[-1].get_xlabel() == "layer, in network order (one name in 3 shown)"


def test_a_layer_known_by_number_is_named_by_its_operator():
    figure = depth.growth(growth_table(["features.0", "classifier.fc"], 3, 3), "title")
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == ["features.0 ReLU", "classifier.fc"]


def test_stages_are_parted_and_named():
    upper, *others = depth.growth(growth_table([*RESNET20], 3, 3), "title").axes
    for axes in (upper, *others):
        borders = {line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1}
        assert borders == {1.5, 13.5, 25.5, 38.5}  # After 2 layers, and after 12, 12 and 13 more.
    assert [text.get_text() for text in upper.texts] == ["layer1", "layer2", "layer3"]


# Position maps


@pytest.mark.parametrize(
    ("row", "column", "neighbourhood"),
    [
        (0, 0, {(0, 0), (0, 1), (1, 0), (1, 1)}),
        (3, 6, {(2, 5), (2, 6), (3, 5), (3, 6)}),
        (1, 4, {(row, column) for row in (0, 1, 2) for column in (3, 4, 5)}),
    ],
)
def test_a_position_map_marks_the_pixel_and_its_neighbours(row, column, neighbourhood):
    entry = position_map(4, 7, 3, row, column)
    upper, lower, _ = locality.position_maps([entry], "title").axes
    np.testing.assert_array_equal(upper.images[0].get_array(), entry.image)
    np.testing.assert_array_equal(lower.images[0].get_array(), entry.margin)
    np.testing.assert_array_equal(upper.lines[0].get_xydata(), [[column, row]])
    np.testing.assert_array_equal(lower.lines[0].get_xydata(), [[column, row]])
    for panel in (upper, lower):
        assert (panel.get_xlim(), panel.get_ylim()) == ((-0.5, 6.5), (3.5, -0.5))
    (frame,) = lower.patches
    (left, top), (right, bottom) = frame.get_bbox().get_points()
    framed = {
        (row, column)
        for row, column in itertools.product(range(-2, 6), range(-2, 9))
        if top <= row - 0.5 and row + 0.5 <= bottom and left <= column - 0.5 and column + 0.5 <= right
    }
    assert framed == neighbourhood


def test_the_margins_colours_are_centred_and_shared():
    entries = [position_map(4, 7, 3, 0, 0, seed) for seed in (0, 1)]
    images = [panel.images[0] for panel in locality.position_maps(entries, "title").axes[2:4]]
    span = max(np.abs(entry.margin).max() for entry in entries)
    assert [image.get_clim() for image in images] == [(-span, span)] * 2
    assert images[0].norm(0.0) == 0.5
    flip, stay = images[0].to_rgba(np.array([-span, span]))
    assert flip[0] > flip[2]
    assert stay[2] > stay[0]


def test_flips_are_counted():
    entry = position_map(4, 7, 1, 0, 0)
    assert (
        locality.position_maps([entry], "").axes[1].get_title()
        == f"flips at {(entry.margin < 0).sum()} of 28 positions"
    )


@examples(30)
@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_the_outline_parts_flips_from_the_rest(flips):
    height, width = flips.shape
    expected = set()
    for row, column in zip(*np.nonzero(flips), strict=True):
        for down, across in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            beside = row + down, column + across
            if not (0 <= beside[0] < height and 0 <= beside[1] < width and flips[beside]):
                # The edge's middle lies halfway between the two positions; it runs across the step.
                expected.add((column + across / 2, row + down / 2, across == 0))
    entry = locality.PositionMap(noise(height, width, 1), "", 0, 0, flips, np.zeros(flips.shape))
    lower = locality.position_maps([entry], "").axes[1]
    edges = np.array(lower.collections[0].get_segments()).reshape(-1, 2, 2)
    assert np.all(np.abs(edges[:, 1] - edges[:, 0]).sum(axis=1) == 1)
    middles = edges.mean(axis=1)
    found = [(x, y, level) for (x, y), level in zip(middles, edges[:, 0, 1] == edges[:, 1, 1], strict=True)]
    assert len(found) == len(expected)
    assert set(found) == expected


@examples(30)
@given(st.floats(1e-6, 1e6))
def test_the_margins_scale_is_named_on_both_sides(span):
    margin = np.array([[span, -span / 3]])
    entry = locality.PositionMap(noise(1, 2, 1), "", 0, 0, margin < 0, margin)
    bar = locality.position_maps([entry], "").axes[2]
    ticks = bar.get_xticks()
    np.testing.assert_array_equal(ticks, -ticks[::-1])
    assert 0 in ticks
    assert 7 <= len(ticks) <= 9
    assert ticks.max() <= span
    assert [float(tick.get_text().replace("−", "-")) for tick in bar.get_xticklabels()] == pytest.approx(ticks.tolist())


@pytest.mark.parametrize("count", [0, 9])
def test_a_figure_holds_1_to_8_position_maps(count):
    with pytest.raises(OnepixError, match=f"^position maps: a figure holds 1 to 8 images, got {count}$"):
        locality.position_maps([position_map(4, 7, 3, 0, 0)] * count, "title")


# Locality chart


def test_the_chart_shows_the_table():
    table = locality_table(["lenet", "resnet20"], 25)
    figure = locality.locality_chart(table, confidence=0.99)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [100, 25, 0] * 2
    assert all(bar.get_x() == 0 for bar in axes.patches)
    heights = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    assert heights == sorted(heights)
    assert axes.yaxis_inverted()
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [*table["change"]]
    np.testing.assert_allclose(axes.get_yticks(), heights)
    intervals = [segment for lines in axes.collections[::2] for segment in lines.get_segments()]
    np.testing.assert_allclose([segment[:, 0] for segment in intervals], [[70, 100], [10, 50], [0, 10]] * 2)
    np.testing.assert_allclose([segment[:, 1] for segment in intervals], np.stack([heights, heights], 1))
    assert [text.get_text().strip() for text in axes.texts] == [
        "100.0 %, n = 25",
        "25.0 %, n = 25",
        "0.0 %, n = 25",
    ] * 2
    assert [text.get_text() for text in figure.texts] == ["lenet", "resnet20"]
    assert "99 % interval" in axes.get_xlabel()


def test_a_network_without_successes_has_no_bars():
    table = pd.concat([locality_table(["lenet"], 0), locality_table(["resnet20"], 1)])
    (axes,) = locality.locality_chart(table).axes
    texts = [text.get_text().strip() for text in axes.texts]
    assert texts == ["n = 0"] * 3 + ["100.0 %, n = 1", "25.0 %, n = 1", "0.0 %, n = 1"]
    assert [bar.get_width() for bar in axes.patches] == [100, 25, 0]
    assert not [segment for lines in axes.collections[::2] for segment in lines.get_segments() if len(segment)]


def test_headings_name_what_varies():
    table = locality_table(["lenet"], 25, ("cifar10", "bundled"))
    texts = [text.get_text() for text in locality.locality_chart(table).texts]
    assert texts == ["lenet, cifar10", "lenet, bundled"]


# Distance profiles


def test_a_profile_shows_the_table():
    tables = {"lenet": profile(27, 12), "resnet20": profile(31, 40, 0.7)}
    shuffled = {name: table.sample(frac=1, random_state=0) for name, table in tables.items()}
    (axes,) = distance.distance_profile(shuffled, confidence=0.9).axes
    for index, table in enumerate(tables.values()):
        rate, chance = axes.lines[2 * index : 2 * index + 2]
        np.testing.assert_array_equal(rate.get_xydata(), table[["distance", "rate"]])
        np.testing.assert_array_equal(chance.get_xydata(), table[["distance", "chance"]])
        assert (rate.get_linestyle(), chance.get_linestyle()) == ("-", "--")
        assert rate.get_color() == chance.get_color()
        assert rate.get_marker() == chance.get_marker()
        corners = pd.DataFrame(axes.collections[index].get_paths()[0].vertices, columns=["x", "y"]).groupby("x")["y"]
        np.testing.assert_array_equal(corners.min(), table["low"])
        np.testing.assert_array_equal(corners.max(), table["high"])
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 0.75
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "lenet, n = 12",
        "resnet20, n = 40",
        "chance: any other position",
        "90 % interval",
    ]


def test_networks_differ_by_colour_and_marker():
    (axes,) = distance.distance_profile({f"network {n}": profile(5, 3) for n in range(28)}).axes
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 56
    few = distance.distance_profile({f"network {n}": profile(5, 3) for n in range(7)}).axes[0].lines
    assert len({line.get_marker() for line in few}) == 7, "in grey too"


def test_the_profile_of_one_success_has_no_band():
    (axes,) = distance.distance_profile({"lenet": profile(27, 1)}).axes
    assert not [path for band in axes.collections for path in band.get_paths()]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["lenet, n = 1", "chance: any other position"]


def test_the_profile_of_one_distance_shows_the_interval():
    table = profile(1, 5)
    (axes,) = distance.distance_profile({"lenet": table}).axes
    (line,) = (c for c in axes.collections if isinstance(c, LineCollection))
    np.testing.assert_array_equal(line.get_segments()[0], [[1, table["low"][0]], [1, table["high"][0]]])


def test_a_network_without_successes_has_no_line():
    (axes,) = distance.distance_profile({"lenet": profile(0, 1), "resnet20": profile(31, 9)}).axes
    assert len(axes.lines) == 2
    assert axes.get_legend().get_texts()[0].get_text() == "resnet20, n = 9"
    (text, _), *_ = drawn_texts(distance.distance_profile({}))
    assert text.get_text() == "no successful attack, hence no distance to show"


def test_distances_are_ticked_at_whole_pixels():
    for farthest in (1, 2, 5, 31, 223):
        (axes,) = distance.distance_profile({"lenet": profile(farthest, 3)}).axes
        ticks = axes.get_xticks()
        assert len(ticks)
        assert all(tick == int(tick) and 1 <= tick <= farthest for tick in ticks)


# Text and files


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80), st.floats(0.2, 3.0))
def test_wrapped_text_keeps_its_characters_and_the_width(text, width):
    lines = style.wrapped(text, 7.0, width).split("\n")
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(style.width_of(line, 7.0) <= width or len(line) == 1 for line in lines)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("layer3.2.relu2", ["layer3.2.", "relu2"]),
        ("black-and-tan", ["black-and-", "tan"]),
        ("up to 10.125", ["up to", "10.125"]),
        ("automobile 98 %", ["automobile", "98\N{NO-BREAK SPACE}%"]),
        ("a\nb", ["a", "b"]),
    ],
)
def test_lines_break_between_words(text, lines):
    assert style.wrapped(text, 7.0, 0.6).split("\n") == lines


def test_a_dollar_sign_is_a_dollar_sign():
    (text, _), *_ = drawn_texts(style.message_figure("class $x$ and $y$"))
    assert text.get_text() == "class $x$ and $y$"
    assert not text.get_parse_math()


def test_saved_files_have_the_size_and_whole_fonts(tmp_path):
    style.save(strip(LENET, noise(8, 8, 3), [(0, 0)]), tmp_path / "new" / "strip.v1", 100)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["strip.v1.pdf", "strip.v1.png"]
    with Image.open(tmp_path / "new" / "strip.v1.png") as image:
        assert image.width == 700
        assert image.info["dpi"] == pytest.approx((100, 100), abs=0.1)
    pdf = (tmp_path / "new" / "strip.v1.pdf").read_bytes()
    assert b"/MediaBox [ 0 0 504 " in pdf
    assert b"/FontFile2" in pdf  # TrueType, which is what font type 42 embeds.
    assert b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf


SAVE = """
import sys
from pathlib import Path
sys.path[:0] = ["tests/helpers", "tests/figures"]
import test_families
test_families.save_some(Path(sys.argv[1]))
"""
SAVED = ("strip of LeNet", "growth, LeNet, one success", "one position map", "chart of one network", "message")


def save_some(folder: Path) -> None:
    for name in SAVED:
        style.save(FIGURES[name](), folder / name, 72)


@pytest.mark.slow
def test_equal_figures_are_equal_files(tmp_path):
    save_some(tmp_path / "here")
    # Another process, later, with other hashes.
    environment = {**os.environ, "PYTHONHASHSEED": "20171024", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", SAVE, str(tmp_path / "there")], cwd=ROOT, env=environment, check=True)
    here, there = ({path.name: path.read_bytes() for path in (tmp_path / at).iterdir()} for at in ("here", "there"))
    assert set(here) == {f"{name}.{suffix}" for name in SAVED for suffix in ("png", "pdf")}
    assert here == there


def test_the_users_own_settings_change_nothing(tmp_path):
    def draw(stem: str) -> bytes:
        style.save(depth.growth(growth_table([*LENET], 3, 4), "title"), tmp_path / stem, 100)
        return (tmp_path / f"{stem}.png").read_bytes() + (tmp_path / f"{stem}.pdf").read_bytes()

    plain = draw("plain")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 5, "pdf.fonttype": 3, "savefig.bbox": "tight"}):
        assert draw("own") == plain


def test_figures_load_neither_torch_nor_pyplot():
    code = (
        "import sys; from onepix.figures import comparison, depth, distance, locality, maps; "
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
