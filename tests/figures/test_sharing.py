"""The figure of sharing tells its table."""

import itertools

import numpy as np
import pandas as pd
import pytest
from drawing import drawn_texts, misfits
from matplotlib.colors import to_rgba
from sharing_tables import COLUMNS, pairs

from onepix.figures import style
from onepix.figures.sharing import sharing

TITLE = "networks on cifar10, differential_evolution, with a title that is longer than a line of two columns is, really"


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
