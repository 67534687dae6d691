"""Sharing between networks, by hand, by counting every placement, and as drawn."""

import itertools
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgba
from test_figures import drawn_texts, misfits

from onepix.analysis.sharing import expected_jaccard, jaccard, sharing_table
from onepix.analysis.statistics import wilson
from onepix.config.statistics import Statistics
from onepix.errors import OnepixError
from onepix.figures import style
from onepix.figures.sharing import sharing

ROOT = Path(__file__).parents[2]
COLUMNS = ["source", "target", "successes", "transfer", "transfer_low", "transfer_high", "moved", "moved_low"]
COLUMNS += ["moved_high", "images", "jaccard", "jaccard_low", "jaccard_high", "chance", "chance_low", "chance_high"]
TITLE = "networks on cifar10, differential_evolution, with a title that is longer than a line of two columns is, really"


def drawn(*rows):
    """Return a map from lines of text in which # flips."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def of_size(shape, first, second):
    """Return two maps of one image, with so many positions."""
    maps = np.zeros((2, math.prod(shape)), dtype=bool)
    maps[0, :first] = maps[1, :second] = True
    return maps.reshape(2, 1, *shape)


# Jaccard index


def test_jaccard_by_hand():
    first = np.stack([drawn("##.", ".#."), drawn("#..", "..#"), drawn("...", "..."), drawn("###", "###")])
    second = np.stack([drawn("#..", ".##"), drawn(".##", "##."), drawn("...", ".#."), drawn("#.#", "...")])
    found = jaccard(first, second)
    assert found.dtype == np.float64
    assert found.tolist() == [2 / 4, 0, 0, 2 / 6]


def test_without_positions_or_images_there_is_no_index():
    empty = np.zeros((2, 3, 4), bool)
    for function in (jaccard, expected_jaccard):
        assert np.isnan(function(empty, empty)).all()
        nothing = function(empty[:0], empty[:0])
        assert (nothing.shape, nothing.dtype) == ((0,), np.float64)


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7))


@given(st.data())
def test_the_index_lies_in_0_1_is_symmetric_and_1_of_equals(data):
    shape = data.draw(SHAPES)
    first, second = (data.draw(arrays(bool, shape)) for _ in range(2))
    for function in (jaccard, expected_jaccard):
        there, back = function(first, second), function(second, first)
        np.testing.assert_allclose(there, back, rtol=1e-12)
        known = first.any((1, 2)) | second.any((1, 2))
        np.testing.assert_array_equal(np.isnan(there), ~known)
        assert ((there[known] >= 0) & (there[known] <= 1 + 1e-12)).all()
    occupied = first.any((1, 2))
    assert (jaccard(first, first)[occupied] == 1).all()
    assert (jaccard(first, ~first) == 0).all()


@given(st.data())
def test_the_index_equals_sets(data):
    first, second = (data.draw(arrays(bool, (1, 3, 5))) for _ in range(2))
    one, other = (set(map(tuple, np.argwhere(maps[0]).tolist())) for maps in (first, second))
    if one | other:
        assert jaccard(first, second).item() == len(one & other) / len(one | other)


# Chance


@pytest.mark.parametrize("shape", [(2, 3), (1, 5), (4, 1), (1, 1)])
def test_chance_is_the_mean_over_all_placements(shape):
    """Every placement of either map, with exact fractions; for each two numbers of positions."""
    places = range(math.prod(shape))
    subsets = [set(chosen) for size in range(len(places) + 1) for chosen in itertools.combinations(places, size)]
    indices: dict[tuple[int, int], list[Fraction]] = {}
    for one, other in itertools.product(subsets, repeat=2):
        if one | other:
            indices.setdefault((len(one), len(other)), []).append(Fraction(len(one & other), len(one | other)))
    assert len(indices) == (len(places) + 1) ** 2 - 1
    for (first, second), found in indices.items():
        expected = float(sum(found) / len(found))
        assert expected_jaccard(*of_size(shape, first, second)).item() == pytest.approx(expected, rel=1e-11)


def exact_chance(positions, first, second):
    """Return the mean of k / (a + b - k), weighted with whole numbers: the ways to have k positions in common."""
    least, most = max(0, first + second - positions), min(first, second)
    ways = math.comb(first, least) * math.comb(positions - first, second - least)
    total, weighted = 0, Fraction(0)
    for k in range(least, most + 1):
        total += ways
        # 40 decimals of each share are enough, and keep the fraction short.
        weighted += ways * (k * 10**40 // (first + second - k))
        ways = ways * (first - k) * (second - k) // ((k + 1) * (positions - first - second + k + 1))
    return float(weighted / total / 10**40)


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        ((32, 32), [(1, 1), (3, 1000), (512, 512), (200, 900), (1024, 17), (1024, 1024), (700, 40), (0, 5)]),
        ((28, 40), [(559, 561), (1119, 1119)]),
        ((224, 224), [(1, 50_176), (9, 49_000), (2500, 3100), (60, 60)]),
    ],
)
def test_chance_of_large_images_is_exact(shape, counts):
    """All in one call, so that sums of very different length stand side by side."""
    first, second = np.concatenate([of_size(shape, *pair) for pair in counts], axis=1)
    expected = [exact_chance(math.prod(shape), *pair) for pair in counts]
    np.testing.assert_allclose(expected_jaccard(first, second), expected, rtol=1e-9)


def test_chance_is_what_scattered_positions_have():
    """Uniform placements with 9 and 14 of 48 positions: their mean index lies within its own error of chance."""
    stream = np.random.default_rng(0)
    maps = [stream.permuted(np.arange(48) < np.full((6000, 1), count), axis=1) for count in (9, 14)]
    first, second = (positions.reshape(-1, 6, 8) for positions in maps)
    observed, chance = jaccard(first, second), expected_jaccard(first, second)
    assert len(set(chance)) == 1
    assert abs(observed.mean() - chance[0]) < 4 * observed.std() / np.sqrt(len(observed))


# Table


def position_maps(images, *maps):
    return xr.DataArray(np.stack(maps), dims=("image", "y", "x"), coords={"image": list(images)})


def tried(source, target, outcomes):
    """Return rows of transfers from pairs of letters: whether the attack flips, and whether the moved colour does."""
    return pd.DataFrame(
        {
            "image_id": range(len(outcomes)),
            "source": source,
            "target": target,
            "flips": [outcome[0] == "f" for outcome in outcomes],
            "moved": [outcome[1] == "m" for outcome in outcomes],
        }
    )


def made_up():
    """Three networks, of which one was not scanned; images 3, 5 and 8 are those that tell of the other two."""
    one = drawn("#..", "...")
    maps = {
        "lenet": position_maps([8, 5, 1, 3, 7], one, one, one, one, one & False),
        "resnet20": position_maps([2, 3, 5, 7, 8], one, np.roll(one, 1), np.roll(one, 4), one & False, one),
    }
    transfers = [
        tried("lenet", "resnet20", ["f.", "f.", "fm", "..", "..", "..", ".m", "..", "..", ".."]),
        tried("resnet20", "lenet", ["f.", "fm"]),
        tried("vgg16", "lenet", [".."]),
    ]
    return maps, pd.concat(transfers, ignore_index=True)


def pairs(table):
    return table.set_index(["source", "target"])


def test_the_table_by_hand():
    """Maps of one position each of 2 x 3: of the three images, one agrees (index 1), and chance is 1/6 for each."""
    table = sharing_table(*made_up(), Statistics())
    assert [*table.columns] == COLUMNS
    ordered = [("lenet", "resnet20"), ("lenet", "vgg16"), ("resnet20", "lenet"), ("resnet20", "vgg16")]
    ordered += [("vgg16", "lenet"), ("vgg16", "resnet20")]
    table = pairs(table)
    assert [*table.index] == ordered
    assert table["successes"].tolist() == [10, 0, 2, 0, 1, 0]
    expected = {("lenet", "resnet20"): (3, 2, 10), ("resnet20", "lenet"): (2, 1, 2), ("vgg16", "lenet"): (0, 0, 1)}
    for pair, (flips, moved, trials) in expected.items():
        for name, hits in (("transfer", flips), ("moved", moved)):
            estimate = table.loc[pair, [name, f"{name}_low", f"{name}_high"]].tolist()
            assert estimate == pytest.approx([hits / trials, *wilson(hits, trials, 0.95)])
    rates = ["transfer", "transfer_low", "transfer_high", "moved", "moved_low", "moved_high"]
    assert table.loc[[pair for pair in ordered if pair not in expected], rates].isna().all(axis=None)
    overlap = ["images", *COLUMNS[10:]]
    for pair in (("lenet", "resnet20"), ("resnet20", "lenet")):
        # A resample of 0, 0 and 1 has the mean 0 with probability 8/27, and 1 with probability 1/27 > 2.5 %.
        assert table.loc[pair, overlap].tolist() == pytest.approx([3, 1 / 3, 0, 1, 1 / 6, 1 / 6, 1 / 6])
    unscanned = table.loc[[pair for pair in ordered if "vgg16" in pair], overlap]
    assert unscanned["images"].tolist() == [0] * 4
    assert unscanned.drop(columns="images").isna().all(axis=None)


def test_the_order_of_images_changes_nothing():
    generator = np.random.default_rng(3)
    ids = np.arange(40) * 3
    maps = {
        name: position_maps(ids + shift, *(generator.random((40, 4, 7)) < 0.3))
        for name, shift in (("a", 0), ("b", 3), ("c", 0))
    }
    transfers = tried("a", "b", ["f.", "..", ".m"])
    table = sharing_table(maps, transfers, Statistics(resamples=200))
    order = generator.permutation(40)
    shuffled = {name: whole.isel(image=order) for name, whole in maps.items()}
    other = sharing_table(shuffled, transfers[::-1], Statistics(resamples=200))
    pd.testing.assert_frame_equal(other, table)
    indexed = pairs(table)
    assert indexed.loc[("a", "b"), "images"] == 39, "the images that both have"
    for one, two in itertools.combinations("abc", 2):
        pd.testing.assert_series_equal(
            indexed.loc[(one, two), COLUMNS[9:]], indexed.loc[(two, one), COLUMNS[9:]], check_names=False
        )
    common = [maps["a"].values[1:], maps["b"].values[:-1]]
    assert indexed.loc[("a", "b"), "jaccard"] == pytest.approx(jaccard(*common).mean())
    assert indexed.loc[("a", "b"), "chance"] == pytest.approx(expected_jaccard(*common).mean())


def test_the_intervals_follow_the_settings():
    maps, transfers = made_up()
    table = pairs(sharing_table(maps, transfers, Statistics(confidence=0.5))).loc[("lenet", "resnet20")]
    assert table[["transfer_low", "transfer_high"]].tolist() == pytest.approx(wilson(3, 10, 0.5))
    # A mean of 2/3 has probability 6/27, and 1 has 1/27: together about 26 %, the upper quarter.
    assert table[["jaccard_low", "jaccard_high"]].tolist() == pytest.approx([0, 2 / 3])


@pytest.mark.parametrize("names", [[], ["lenet"]])
def test_fewer_than_two_networks_share_nothing(names):
    maps, transfers = made_up()
    table = sharing_table({name: maps[name] for name in names}, transfers[:0], Statistics())
    assert table.empty
    assert [*table.columns] == COLUMNS


def test_maps_alone_and_transfers_alone():
    maps, transfers = made_up()
    alone = sharing_table(maps, transfers[:0], Statistics(resamples=200))
    assert alone["successes"].tolist() == [0, 0]
    assert alone["images"].tolist() == [3, 3]
    assert alone["transfer"].isna().all()
    alone = sharing_table({}, transfers, Statistics(resamples=200))
    assert alone["successes"].sum() == 13
    assert alone["images"].tolist() == [0] * 6
    assert alone["jaccard"].isna().all()


def test_networks_without_a_common_image_have_no_overlap():
    one = drawn("#.", "##")
    maps = {"a": position_maps([1], one), "b": position_maps([2], one)}
    table = sharing_table(maps, made_up()[1][:0], Statistics())
    assert table["images"].tolist() == [0, 0]
    assert table[["jaccard", "chance"]].isna().all(axis=None)


def test_maps_of_two_sizes_are_refused():
    maps = {"lenet": position_maps([4], drawn("#..", "...")), "vgg16": position_maps([4], drawn("#.", "..", ".."))}
    message = "^sharing: maps of lenet and vgg16 must be of one size, got 2×3 and 3×2$"
    with pytest.raises(OnepixError, match=message):
        sharing_table(maps, made_up()[1], Statistics())


# Figure


def made_table(networks, transfers=True, maps=True, successes=250):
    """Return a table in which each ordered pair has rates of its own."""
    stream = np.random.default_rng(len(networks))
    rows = []
    overlaps = {frozenset(pair): stream.random() for pair in itertools.combinations(networks, 2)}
    for index, pair in enumerate(itertools.permutations(networks, 2)):
        rate = stream.random() if transfers else np.nan
        share = overlaps[frozenset(pair)] if maps else np.nan
        estimates = []
        for count, value in ((successes if transfers else 0, rate), (1000 if maps else 0, share)):
            half = 0.05 if count > 1 else np.nan
            bounds = (max(value - half, 0), value, min(value + half, 1)) if half == half else (half, value, half)
            low, value, high = bounds
            estimates += [count + index if count > 1 else count, value, low, high, value / 4, low / 4, high / 4]
        rows.append([*pair, *estimates])
    return pd.DataFrame(rows, columns=COLUMNS)


def with_rates(**rates):
    """Return a table of four networks with some columns set to one value."""
    return made_table(NETWORKS[:4]).assign(**rates)


NETWORKS = ["lenet", "allconv", "nin", "vgg16", "resnet20", "resnet32", "resnet56", "densenet40", "wide_resnet28_10"]
NETWORKS += ["mobilenet_v2"]
TABLES = {
    **{f"{count} networks": made_table(NETWORKS[:count]) for count in (2, 3, 4, 5, 7, 10)},
    "10 long names": made_table([f"a-long-name-for-network-{n}" for n in range(10)]),
    "2 very long names": made_table([f"{'anamewithoutanybreak' * 3}{n}" for n in range(2)]),
    "12 networks": made_table([f"network{n}" for n in range(12)]),
    "10,000 successes": made_table(NETWORKS[:4], successes=10_000),
    "one success": made_table(NETWORKS[:3], successes=1),
    "transfers alone": made_table(NETWORKS[:4], maps=False),
    "maps alone": made_table(NETWORKS[:4], transfers=False),
    "all flip": with_rates(transfer=1.0, transfer_low=0.99, transfer_high=1.0, moved=1.0),
    "none flips": with_rates(transfer=0.0, transfer_low=0.0, transfer_high=0.004, moved=0.0),
}


@pytest.mark.parametrize("name", TABLES)
def test_all_text_is_legible(name):
    figure = sharing(TABLES[name], TITLE)
    assert figure.get_figwidth() == 7.0
    assert figure.get_figheight() <= 9.0
    assert misfits(figure) == []


def written(axes):
    """Return the lines of text of each cell, by row and column, from the top."""
    cells: dict[tuple[int, int], list[tuple[float, str, float]]] = {}
    for text in axes.texts:
        column, row = text.xy
        cells.setdefault((row, column), []).append((-text.get_position()[1], text.get_text(), text.get_fontsize()))
    return {place: [(text, size) for _, text, size in sorted(lines)] for place, lines in cells.items()}


def known_table():
    rows = [
        ["a", "b", 40, 0.25, 0.142, 0.402, 0.05, 0, 1, 7, 0.5, 0.4, 0.6, 0.046, 0, 1],
        ["b", "a", 8, 1.0, 0.676, 1.0, 0, 0, 1, 7, 0.5, 0.4, 0.6, 0.046, 0, 1],
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_a_cell_tells_the_table():
    """Rows are sources; the overlap, the same in both orders, is told once."""
    left, right = sharing(known_table(), "title", 0.9).axes[::2]
    texts = {place: [text for text, _ in lines] for place, lines in written(left).items()}
    assert texts == {(0, 1): ["25", "14–40", "moved 5.0", "n = 40"], (1, 0): ["100", "68–100", "moved 0", "n = 8"]}
    texts = {place: [text for text, _ in lines] for place, lines in written(right).items()}
    assert texts == {(1, 0): ["50", "40–60", "chance 4.6", "n = 7"]}
    for axes in (left, right):
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]
        assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
        assert axes.get_xlim() == (-0.5, 1.5)
        assert axes.get_ylim() == (1.5, -0.5), "the first row is on top"
    assert (left.get_ylabel(), left.get_xlabel()) == ("attacked network", "network shown the attacked image")


@pytest.mark.parametrize("count", [2, 4, 10])
def test_a_network_is_named_in_one_line_or_broken_between_words(count):
    for axes in sharing(made_table(NETWORKS[:count]), "title").axes[::2]:
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            names = [tick.get_text().split("\n") for tick in ticks]
            assert ["".join(lines) for lines in names] == NETWORKS[:count]
            assert all(line.endswith("_") for lines in names for line in lines[:-1])


@pytest.mark.parametrize("count", [2, 5, 10])
def test_the_value_held_against_is_in_smaller_type(count):
    table = made_table(NETWORKS[:count])
    for axes in sharing(table, "title").axes[::2]:
        for lines in written(axes).values():
            assert len(lines) >= 2
            assert lines[0][1] > max(size for _, size in lines[1:])


def test_of_ten_networks_each_cell_has_the_two_values_of_its_pair():
    table = pairs(made_table(NETWORKS).sample(frac=1, random_state=0))
    figure = sharing(table.reset_index(), "title")
    names = [tick.get_text().replace("\n", "") for tick in figure.axes[0].get_yticklabels()]
    assert sorted(names) == sorted(NETWORKS)
    places = set(itertools.permutations(range(10), 2))
    wanted = (places, "transfer", "moved"), ({place for place in places if place[0] > place[1]}, "jaccard", "chance")
    for axes, (where, value, other) in zip(figure.axes[::2], wanted, strict=True):
        cells = written(axes)
        assert set(cells) == where
        for (row, column), lines in cells.items():
            expected = table.loc[(names[row], names[column]), [value, other]]
            assert [float(text) for text, _ in lines] == pytest.approx(100 * expected, abs=0.5)


def test_colours_tell_the_values():
    figure = sharing(known_table(), "title")
    for axes, bar, values in zip(
        figure.axes[::2], figure.axes[1::2], ({(0, 1): 25, (1, 0): 100}, {(1, 0): 50}), strict=True
    ):
        shades = axes.images[0].get_array()
        highest = max(values.values())
        assert bar.get_xlim()[0] == 0
        assert highest <= bar.get_xlim()[1] <= 100
        for place in itertools.product(range(2), repeat=2):
            if place in values:
                expected = style.colour_map("Blues")(values[place] / bar.get_xlim()[1])
            else:
                expected = to_rgba(style.GREY) if place[0] == place[1] else (0, 0, 0, 0)
            np.testing.assert_allclose(shades[place], expected, atol=1e-9)


@pytest.mark.parametrize("highest", [0.0, 0.003, 0.31, 0.81, 0.96, 0.999, 1.0])
def test_the_scale_runs_from_0_to_the_next_round_number(highest):
    table = known_table().assign(transfer=[highest / 2, highest])
    bar = sharing(table, "title").axes[1]
    low, high = bar.get_xlim()
    assert low == 0
    assert 100 * highest <= high <= 100
    assert high < 100 * highest * 1.5 or highest == 0
    assert bar.get_xticks()[[0, -1]].tolist() == [low, high]


def test_what_is_unknown_is_neither_zero_nor_the_diagonal():
    table = known_table()
    table.loc[0, ["transfer", "transfer_low", "transfer_high", "moved"]] = np.nan
    table.loc[0, "successes"] = 0
    axes, bar = sharing(table, "title").axes[:2]
    assert [text for text, _ in written(axes)[0, 1]] == ["–", "n = 0"]
    assert bar.get_xlim() == (0, 100), "the other cell sets the scale"
    shades = axes.images[0].get_array()
    others = [shades[0, 0], shades[1, 0], style.colour_map("Blues")(0.0), (0, 0, 0, 0)]
    assert all(np.abs(shades[0, 1] - other).max() > 0.03 for other in others)


def contrast(one, other):
    """Return the ratio of contrast of two colours, as the Web Content Accessibility Guidelines define it."""
    lights = []
    for colour in (one, other):
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgba(colour)[:3]]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


def test_text_can_be_read_on_every_shade():
    figure = sharing(made_table(NETWORKS), "title")
    for axes in figure.axes[::2]:
        shades = axes.images[0].get_array()
        colours = {text.get_color() for text in axes.texts}
        assert colours == {"black", "white"}
        for text in axes.texts:
            column, row = text.xy
            assert contrast(text.get_color(), shades[row, column]) > 4.5


def notes(figure):
    return [text.get_text().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ") for text in figure.texts]


def test_the_notes_explain_the_cells():
    title, left, transfer, right, overlap = notes(sharing(known_table(), "two networks", 0.9))
    assert title == "two networks"
    assert left == "How often a success on one network flips another"
    assert right == "How far two networks' vulnerable positions overlap"
    explained = "the rate with the colour moved to a random position"
    assert transfer == f"In each cell, from the top: transfer rate (%), its 90 % interval, {explained}, successes (n)."
    chance = "the index expected by chance"
    assert overlap == f"In each cell, from the top: Jaccard index (%), its 90 % interval, {chance}, images (n)."
    _, _, transfer, _, overlap = notes(sharing(made_table(NETWORKS), "title"))
    # The 90 ordered pairs have 250 + 0 to 250 + 89 successes; the first of the lower triangle is the tenth of them.
    assert transfer == f"In each cell, from the top: transfer rate (%), {explained}. n = 250–339 successes."
    assert overlap == f"In each cell, from the top: Jaccard index (%), {chance}. n = 1009–1089 images."


def test_without_intervals_none_is_explained():
    _, _, transfer, _, overlap = notes(sharing(made_table(NETWORKS[:3], successes=1), "title"))
    assert "interval" not in transfer
    assert "95 % interval" in overlap


@pytest.mark.parametrize("table", [made_table([]), made_table(NETWORKS[:3], transfers=False, maps=False)])
def test_without_anything_known_a_message_says_so(table):
    figure = sharing(table, "networks on cifar10")
    assert not figure.axes
    ((text, _),) = drawn_texts(figure)
    message = "networks on cifar10: no two networks with a success or a vulnerable position to compare"
    assert text.get_text().replace("\n", " ") == message
    assert misfits(figure) == []


def test_neither_torch_nor_pyplot_is_loaded():
    code = (
        "import sys; from onepix import sharing; from onepix.figures import sharing; "
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
