"""Tables and averages by layer, from made-up maps whose answers are known by hand."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from onepix.analysis import positions as stored
from onepix.analysis.claims import claim_table
from onepix.analysis.depth import aligned_maps, average_maps, comparison_table, layer_table, separation_table
from onepix.analysis.maps import measured
from onepix.config.statistics import Statistics

SETTINGS = Statistics(resamples=400)
VARIABLES = ("clean_peak", "delta_peak", "clean_energy", "delta_energy", "reach", "reach_1pct", "distance", "spread")


def tree(ids, layers, success=None, pixels=None, targets=None, maps=None, stride=1) -> xr.DataTree:
    """Return a tree; `layers` maps a name to its variables, each a value or one per image."""
    count = len(ids)
    pixels = np.zeros((count, 2), int) if pixels is None else np.array(pixels).reshape(count, 2)
    root = {
        "row": (("image", "pixel"), pixels[:, :1]),
        "column": (("image", "pixel"), pixels[:, 1:]),
        "target": ("image", np.full(count, -1) if targets is None else np.array(targets)),
    }
    if success is not None:
        root["success"] = ("image", np.array(success, bool))
    groups = {"/": xr.Dataset(root, {"image": list(ids)}, {"image_shape": [4, 6]})}
    groups["/measures"] = xr.Dataset(
        {
            key: (
                ("layer", "image"),
                [np.full(count, 1.0) * np.array(given.get(key, 1.0)) for given in layers.values()],
            )
            for key in (*VARIABLES, "outside_cone")
        },
        {"layer": list(layers)},
    )
    shown = np.zeros((count, 4, 6)) if maps is None else np.array(maps, float)
    for depth, name in enumerate(layers):
        groups[f"/{depth:03d}_{name}"] = xr.Dataset(
            {"max": (("image", "y", "x"), shown)},
            attrs={
                "layer": name,
                "operator": "convolution",
                "depth": depth,
                "spatial": shown.shape[1:] != (1, 1),
                "stride": [stride, stride],
                "receptive_field": [3, 5],
                "receptive_field_start": [-1, -2],
            },
        )
    return xr.DataTree.from_dict(groups)


TREES = (
    tree(
        [0, 1],
        {"conv1": {"clean_peak": [4, 2], "delta_peak": [1, 0.5], "reach": [0.5, 0.25], "outside_cone": [0, 3]}},
        [True, False],
    ),
    tree([3], {"conv1": {"clean_peak": 2, "delta_peak": 1.5, "reach": 1, "outside_cone": 0}}, [True]),
    tree([], {"conv1": {}}, []),
)


def test_layer_table_by_hand():
    table = layer_table(measured(TREES), None, SETTINGS).set_index("outcome")
    assert table["images"].to_dict() == {"success": 2, "failure": 1}
    assert table["share_of_peak"].to_dict() == {"success": 0.5, "failure": 0.25}
    assert table["reach"].to_dict() == {"success": 0.75, "failure": 0.25}
    assert table.loc["success", ["share_of_peak_low", "share_of_peak_high"]].tolist() == [0.25, 0.75]
    assert np.isnan(table.loc["failure", "reach_low"])
    assert table["receptive_field"].tolist() == ["3×5", "3×5"]
    assert table["outside_cone"].to_dict() == {"success": 0, "failure": 3}
    assert table["changed"].tolist() == [1, 1]


def test_energy_is_in_decibels_and_gain_is_by_image():
    """Energy ratios 1/100 and 1/10, then 1/10 and 1/10: gains of 10 and 0 dB, none where the change has died out."""
    layers = {
        "one": {"clean_energy": [100, 10, 5], "delta_energy": [1, 1, 1]},
        "two": {"clean_energy": [10, 10, 5], "delta_energy": [1, 1, 0]},
    }
    table = layer_table(measured([tree([0, 1, 2], layers, [True] * 3)]), None, SETTINGS)
    one, two = (row for _, row in table[table["outcome"] == "success"].iterrows())
    assert one["energy"] == pytest.approx((-20 - 10 + 10 * np.log10(0.2)) / 3)
    assert two["energy"] == pytest.approx(-10)
    assert np.isnan(one["gain"])
    assert two["gain"] == pytest.approx(5)


def test_a_layer_that_is_zero_on_an_image_is_left_out_of_the_share():
    given = {"conv1": {"clean_peak": [0, 2], "delta_peak": [1, 1]}}
    table = layer_table(measured([tree([0, 1], given, [True, True])]), None, SETTINGS).set_index("outcome")
    assert table.loc["success", "share_of_peak"] == 0.5
    assert table.loc["success", "images"] == 2


def test_controls_are_an_outcome_of_their_own():
    controls = [tree([0, 3], {"conv1": {"clean_peak": 2, "delta_peak": [0, 1]}})]
    table = layer_table(measured(TREES), measured(controls), SETTINGS).set_index("outcome")
    assert table["images"].to_dict() == {"success": 2, "failure": 1, "control": 2}
    assert table.loc["control", "share_of_peak"] == 0.25
    assert table.loc["control", "changed"] == 0.5


def paired(count, differences):
    """Return attacks that all succeed, in an order of their own, and controls that differ by layer."""
    stream = np.random.default_rng(0)
    base = stream.uniform(1, 2, count)
    attacks = {f"l{n}": {"delta_peak": base + d} for n, d in enumerate(differences)}
    controls = {f"l{n}": {"delta_peak": base[::-1]} for n in range(len(differences))}
    ids = np.arange(count)
    return [tree(ids, attacks, [True] * count)], [tree(ids[::-1], controls)]


def test_paired_differences_find_their_partners():
    """Controls stand in the opposite order; only matched by image is each difference exactly 0.5."""
    trees, controls = paired(12, [0.5, 0.0, -0.25])
    table = comparison_table(measured(trees), measured(controls), SETTINGS)
    rows = table[(table["against"] == "control") & (table["measure"] == "share_of_peak")]
    np.testing.assert_allclose(rows["difference"], [0.5, 0, -0.25], atol=1e-12)
    np.testing.assert_allclose(rows["low"], [0.5, 0, -0.25], atol=1e-12)
    assert rows["superiority"].tolist() == [1, 0.5, 0]
    assert rows["p"].tolist() == pytest.approx([2 / 2**12, 1, 2 / 2**12]), "all signs alike: 2 of 2¹² ways"
    assert rows["apart"].tolist() == [True, False, True]
    failures = table[table["against"] == "failure"]
    assert (failures["others"] == 0).all()
    assert failures["p"].isna().all()


def test_unpaired_differences():
    """Three successes above two failures: U is 6 of 6, its exact p is 2 / C(5, 2)."""
    given = {"conv1": {"delta_peak": [0.9, 0.1, 0.8, 0.2, 0.7]}}
    table = comparison_table(measured([tree(range(5), given, [True, False, True, False, True])]), None, SETTINGS)
    row = table[table["measure"] == "share_of_peak"].iloc[0]
    assert (row["images"], row["others"], row["superiority"]) == (3, 2, 1)
    assert row["difference"] == pytest.approx(0.8 - 0.15)
    assert row["p"] == pytest.approx(2 / 10)
    assert 0.5 < row["low"] < row["difference"] < row["high"] <= 0.8 + 1e-12
    equal = table[table["measure"] == "reach"].iloc[0]
    assert (equal["difference"], equal["superiority"]) == (0, 0.5)


def test_separation_is_the_depth_from_which_all_deeper_layers_are_apart():
    trees, controls = paired(12, [0.5, 0.0, 0.4, 0.6])
    table = comparison_table(measured(trees), measured(controls), SETTINGS)
    separation = separation_table(table).set_index(["against", "measure"])
    assert separation.loc[("control", "share_of_peak"), ["depth", "layer", "layers"]].tolist() == [2, "l2", 4]
    assert pd.isna(separation.loc[("control", "reach"), "depth"]), "no difference at all"
    assert separation.loc[("failure", "share_of_peak"), "layers"] == 0
    trees, controls = paired(12, [0.5, 0.4, 0.0])
    table = comparison_table(measured(trees), measured(controls), SETTINGS)
    separation = separation_table(table).set_index(["against", "measure"])
    assert pd.isna(separation.loc[("control", "share_of_peak"), "depth"]), "not apart in the last layer"


def test_average_maps_by_hand():
    """Peaks 1/4, 0.5/2 and 1.5/2 average to 5/12."""
    maps = np.zeros((3, 4, 6))
    maps[:, 1, 2] = [1, 0.5, 1.5]
    trees = [
        tree([0, 1], {"conv1": {"clean_peak": [4, 2]}}, [True] * 2, maps=maps[:2]),
        tree([2, 3], {"conv1": {"clean_peak": [2, 0]}}, [True] * 2, maps=np.stack([maps[2], maps[2] + 7])),
    ]
    average = average_maps(trees)["conv1"]
    assert average[1, 2] == pytest.approx(5 / 12)
    assert average.sum() == pytest.approx(5 / 12)
    assert np.isnan(average_maps([tree([], {"conv1": {}}, [])])["conv1"]).all()


def test_aligned_maps_put_the_attacked_pixel_in_the_middle():
    """Each map is 1 at the attacked pixel and 0.5 to its right: so is the average, wherever the pixels lie."""
    pixels = [(0, 0), (3, 5), (2, 4), (1, 2)]
    maps = np.zeros((4, 4, 6))
    for image, (row, column) in enumerate(pixels):
        maps[image, row, column] = 1
        if column < 5:
            maps[image, row, column + 1] = 0.5
    found = aligned_maps([tree(range(4), {"conv1": {}}, [True] * 4, pixels=pixels, maps=maps)])["conv1"]
    assert found.shape[0] % 2 == found.shape[1] % 2 == 1
    middle = found.shape[0] // 2, found.shape[1] // 2
    assert found[middle] == 1
    assert found[middle[0], middle[1] + 1] == 0.5, "over the three images that reach so far"
    assert np.nansum(found) == 1.5
    assert found.shape == (5, 9), "two images reach two rows up and two down, four columns left and three right"
    assert np.isnan(found[0, 0]) == (sum(r >= 2 and c >= 4 for r, c in pixels) < 2)


def test_aligned_maps_of_a_strided_layer():
    """With stride 2 and fields centred on even pixels, pixel (2, 4) is seen best by position (1, 2)."""
    maps = np.zeros((1, 4, 6))
    maps[0, 1, 2] = 1
    found = aligned_maps([tree([0], {"conv1": {}}, [True], pixels=[(2, 4)], maps=maps, stride=2)])["conv1"]
    assert found[found.shape[0] // 2, found.shape[1] // 2] == 1


def test_layers_without_space_are_not_aligned():
    assert aligned_maps([tree([0], {"linear": {}}, [True], maps=np.ones((1, 1, 1)))]) == {}
    assert aligned_maps([tree([], {"conv1": {}}, [])]) == {}


def positions(flips, rows, columns) -> xr.DataTree:
    flips = np.array(flips, bool)
    data = {
        "flips": (("image", "y", "x"), flips),
        "row": ("image", np.array(rows, int)),
        "column": ("image", np.array(columns, int)),
        "margin": (("image", "y", "x"), np.where(flips, -1.0, 1.0)),
        "target": ("image", np.full(len(flips), -1)),
        "colour": (("image", "channel"), np.zeros((len(flips), 3), np.uint8)),
    }
    return xr.DataTree(xr.Dataset(data, {"image": np.arange(len(flips))}))


def test_claims_by_hand():
    layers = {
        "conv": {"reach_1pct": 0.2, "delta_peak": 5},
        "last": {"delta_peak": [0.9] * 9 + [0.001]},
    }
    trees = [tree(range(10), layers, [True] * 6 + [False] * 4)]
    around = np.zeros((1, 5, 5), bool)
    around[:, 1:4, 1:4] = True
    maps = [positions(np.repeat(around, 6, 0), [2] * 6, [2] * 6)]
    clusters = pd.DataFrame({"moran_flips_q": [0.01] * 5 + [np.nan]})
    table = claim_table(measured(trees), stored.positions(maps), clusters, SETTINGS)
    assert table["images"].tolist() == [10, 6, 6, 6, 5]
    expected = [0.9, 1, 0.9, 1 - 8 / 24, 1]  # 8 of 8 neighbours, 8 of 24 other positions
    assert table["estimate"].tolist() == pytest.approx(expected)
    assert table["verdict"].tolist() == ["undecided", "confirmed", "confirmed", "confirmed", "confirmed"]
    local = [tree(range(10), {"conv": {"reach_1pct": 0.2, "delta_peak": 0.3}}, [True] * 10)]
    assert claim_table(measured(local), None, clusters.iloc[:0], SETTINGS)["verdict"].tolist() == [
        "undecided",  # all ten attacks, but Wilson's interval of 10 of 10 begins at 0.72
        "refuted",
        "refuted",
        "undecided",
        "undecided",
    ]
