"""The figure of receptive fields shows what its tables hold, and all its text is legible."""

import math
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from drawing import DENSE, LENET, RESNET20, drawn_texts, misfits
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from studies import ROOT

from onepix.figures import style
from onepix.figures.receptive_fields import receptive_fields

NAN = math.nan
TITLE = "resnet20 on cifar10, differential_evolution: the vulnerable neighbourhood against the layers' receptive fields"


def table(names: list[str], whole: int = 1, seed: int = 0) -> pd.DataFrame:
    """Return growing fields; the last `whole` layers see the whole image."""
    generator = np.random.default_rng(seed)
    theoretical = 3.0 + 2 * np.arange(len(names))
    theoretical[len(names) - whole :] = np.nan
    effective = 3 * (1 + np.arange(len(names))) ** generator.uniform(0.3, 0.6)
    columns = {"depth": 2 * np.arange(len(names)), "layer": names, "operator": "convolution"}
    return pd.DataFrame({**columns, "theoretical": theoretical, "effective": effective})


def small(*effective: float, theoretical: float = 9.0) -> pd.DataFrame:
    names = [f"layer{index}" for index in range(len(effective))]
    columns = {"depth": range(len(names)), "layer": names, "operator": "convolution"}
    return pd.DataFrame({**columns, "theoretical": theoretical, "effective": effective})


def draw(names: list[str], count: int) -> Figure:
    networks = [f"{'a-long-name-for-a-network' * (index % 3)}-{index}" for index in range(count)]
    lengths = {network: (1.5 + index, 1.2 + index / 2, 20 * (index + 1)) for index, network in enumerate(networks)}
    return receptive_fields({network: table(names, 2, seed) for seed, network in enumerate(networks)}, lengths, TITLE)


def line_of(axes: Axes, label_of: dict[str, object]) -> np.ndarray:
    """Return the points of the one line that has a look."""
    looks = {"color": "get_color", "linestyle": "get_linestyle", "marker": "get_marker"}
    (line,) = (
        line for line in axes.lines if all(getattr(line, looks[key])() == value for key, value in label_of.items())
    )
    return np.asarray(line.get_xydata())


EFFECTIVE = {"color": style.BLUE, "linestyle": "-"}
THEORETICAL = {"linestyle": ":", "marker": "s"}
WHOLE = {"linestyle": "None", "marker": "^"}
RING = {"linestyle": "None", "marker": "o"}
NEIGHBOURHOOD = {"color": style.VERMILLION, "linestyle": "--"}


FIGURES = {
    **{f"ResNet-20, {count} networks": lambda count=count: draw([*RESNET20], count) for count in (1, 2, 3, 5, 8, 10)},
    "LeNet, 4 networks": lambda: draw([*LENET], 4),
    "128 long names, 4 networks": lambda: draw([*DENSE], 4),
    "128 long names, 1 network": lambda: draw([*DENSE], 1),
    "one layer": lambda: draw(["conv1"], 1),
    "nothing known": lambda: receptive_fields({"a": small(NAN, NAN, theoretical=NAN)}, {"a": (NAN, NAN, NAN)}, TITLE),
    "huge fields": lambda: receptive_fields({"a": small(3, 5, theoretical=5000.0)}, {"a": (1000, 100, 4000)}, TITLE),
    "nothing": lambda: receptive_fields({"lenet": small()}, {}, "cifar10"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "long names" in name else ()) for name in FIGURES]
)
def test_all_text_is_legible_and_the_figure_fits_a_page(name):
    figure = FIGURES[name]()
    assert figure.get_figwidth() in (3.4, 7.0)
    assert figure.get_figheight() <= 9.0
    assert misfits(figure) == []


def test_the_figure_shows_the_tables():
    tables = {"lenet": table([*LENET], 5), "resnet20": table([*RESNET20], 2, seed=1)}
    lengths = {"lenet": (2.5, 1.5, 4.0), "resnet20": (1.0, 1.0, 1.25)}
    shuffled = {network: rows.sample(frac=1, random_state=0) for network, rows in tables.items()}
    figure = receptive_fields(shuffled, lengths, "title", confidence=0.9)
    widths = {"lenet": (6, 4, 9), "resnet20": (3, 3, 3.5)}
    for axes, (network, rows) in zip(figure.axes, tables.items(), strict=True):
        places = np.arange(len(rows))
        np.testing.assert_array_equal(line_of(axes, EFFECTIVE), np.column_stack([places, rows["effective"]]))
        np.testing.assert_array_equal(line_of(axes, THEORETICAL), np.column_stack([places, rows["theoretical"]]))
        whole = line_of(axes, WHOLE)
        np.testing.assert_array_equal(whole[:, 0], places[rows["theoretical"].isna()])
        width, low, high = widths[network]
        assert set(line_of(axes, NEIGHBOURHOOD)[:, 1]) == {width}
        (band,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
        assert (band.get_y(), band.get_y() + band.get_height()) == (low, high)
        first = next(place for place in places if rows["effective"][place] > width)
        np.testing.assert_array_equal(line_of(axes, RING), [[first, rows["effective"][first]]])
        assert axes.get_yscale() == "log"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "effective receptive field",
        "the first one wider than the neighbourhood",
        "theoretical receptive field",
        "theoretical: the whole image",
        "vulnerable neighbourhood",
        "90 % interval",
    ]


def texts_of(figure: Figure) -> list[str]:
    return [line for text in figure.texts for line in text.get_text().split("\n")]


@pytest.mark.parametrize(
    ("effective", "length", "expected"),
    [
        ((3, 5, 8), (2.0, 1.5, 3.0), ["neighbourhood 5.0 px (4.0–7.0)", "first exceeded in layer2"]),
        ((3, 6, 5), (2.0, NAN, NAN), ["neighbourhood 5.0 px", "first exceeded in layer1"]),
        ((NAN, 3, NAN, 5.1), (2.0, NAN, NAN), ["neighbourhood 5.0 px", "first exceeded in layer3"]),
        ((3, 5), (15.2, 10, 20.4), ["neighbourhood 31 px (21–42)", "exceeded in no layer"]),
        ((3, 5), (NAN, NAN, NAN), ["neighbourhood not known"]),
    ],
)
def test_the_neighbourhood_and_where_it_is_exceeded_are_told(effective, length, expected):
    figure = receptive_fields({"lenet": small(*effective)}, {"lenet": length}, "title")
    assert texts_of(figure) == ["title", "lenet", *expected, "layers in network order"]


def test_a_network_without_a_length_has_fields_only():
    figure = receptive_fields({"lenet": small(3, 5)}, {}, "title")
    (axes,) = figure.axes
    assert len(line_of(axes, EFFECTIVE)) == len(line_of(axes, THEORETICAL)) == 2
    assert [line.get_color() for line in axes.lines if line.get_color() == style.VERMILLION] == []
    assert not axes.patches
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["effective receptive field", "theoretical receptive field"]


def test_all_that_is_known_lies_within_the_axes():
    figure = receptive_fields({"a": small(2, 5), "b": small(30, theoretical=300.0)}, {"a": (0, 0, 200)}, "title")
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert 0 < low < 1
        assert high > 401
        ticks = axes.get_yticks()
        assert all(low <= tick <= high and math.log2(tick).is_integer() for tick in ticks)
        assert 3 <= len(ticks) <= 10


def test_many_layers_are_named_now_and_then():
    figure = draw([*DENSE], 4)
    names = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    places = figure.axes[0].get_xticks()
    assert 5 < len(names) < 20
    assert all(list(DENSE)[int(place)].endswith(name.lstrip("…")) for place, name in zip(places, names, strict=True))
    assert all(name.startswith("…") for name in names)
    assert texts_of(figure)[-1] == "layers in network order; some names are left out"


def test_a_layer_known_by_number_is_named_by_its_operator():
    rows = small(3, 7).assign(layer=["0", "f.1"], operator=["convolution", "pooling"])
    figure = receptive_fields({"vgg": rows}, {"vgg": (2, 1, 3)}, "title")
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0 convolution", "f.1 pooling"]
    assert "first exceeded in f.1 pooling" in texts_of(figure)


def test_networks_without_layers_are_left_out():
    figure = receptive_fields({"lenet": small(), "resnet20": small(3)}, {"lenet": (2, 1, 3)}, "title")
    assert len(figure.axes) == 1
    assert texts_of(figure)[1] == "resnet20"
    for tables in ({}, {"lenet": small()}):
        (text, _), *_ = drawn_texts(receptive_fields(tables, {}, "cifar10, de"))
        assert text.get_text().replace("\n", " ") == "cifar10, de: no layer has a receptive field to show"


def test_equal_tables_give_equal_files_whatever_the_users_settings(tmp_path):
    def saved(stem: str) -> bytes:
        style.save(draw([*LENET], 2), tmp_path / stem, 72)
        return (tmp_path / f"{stem}.png").read_bytes() + (tmp_path / f"{stem}.pdf").read_bytes()

    plain = saved("plain")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 5, "axes.grid": True}):
        assert saved("own") == plain


def test_the_figure_loads_neither_torch_nor_pyplot():
    code = (
        "import sys; from onepix.figures import receptive_fields; "
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
