"""Records and tables, from made-up attacks whose rates are known."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr

from onepix.analysis.locality_tables import cluster_table, locality_table, neighbourhood_table, profile_table
from onepix.analysis.positions import positions
from onepix.analysis.spatial import morans_i
from onepix.analysis.statistics import wilson
from onepix.analysis.success import success_table
from onepix.config.statistics import Statistics
from onepix.files.records import SCHEMA, attacked_images, read_records, write_records


def made_up() -> pd.DataFrame:
    """Five images: one not eligible, two successes, two failures."""
    return pd.DataFrame(
        {
            "image_id": [4, 1, 0, 3, 2],
            "label": [0, 1, 2, 0, 1],
            "clean_class": [0, 1, 2, 0, 2],
            "clean_confidence": [0.9] * 5,
            "eligible": [True, True, True, True, False],
            "method": "differential_evolution",
            "target": pd.array([None] * 5, dtype="Int64"),
            "success": [True, False, True, False, None],
            "rows": [[3], [0], [1], [2], None],
            "columns": [[5], [1], [0], [4], None],
            "values": [[[255, 0, 7]], [[1, 2, 3]], [[0, 0, 0]], [[9, 9, 9]], None],
            "adversarial_class": pd.array([1, 1, 0, 0, None], dtype="Int64"),
            "true_probability_before": [0.9] * 5,
            "true_probability_after": [0.1, 0.8, 0.2, 0.7, np.nan],
            "target_probability_after": np.nan,
            "adversarial_confidence": [0.6, 0.8, 0.7, 0.7, np.nan],
            "queries": [400, 1200, 800, 1200, 0],
            "queries_to_success": pd.array([100, None, 500, None, None], dtype="Int64"),
            "rechecked": [64, 70, 64, 64, 0],
            "generations": [0, 2, 1, 2, 0],
            "seed": 0,
        }
    )


def test_records_survive_the_round_trip_in_the_order_of_images(tmp_path):
    records = made_up()
    write_records(records[:2], tmp_path / "b.parquet")
    write_records(records[2:], tmp_path / "a.parquet")
    assert pq.read_schema(tmp_path / "a.parquet").remove_metadata() == SCHEMA
    found = read_records([tmp_path / "b.parquet", tmp_path / "a.parquet"])
    assert found["image_id"].tolist() == [0, 1, 2, 3, 4]
    assert found["eligible"].tolist() == [True, True, False, True, True]
    assert found["success"].tolist() == [True, False, pd.NA, False, True]
    assert [value[0].tolist() for value in found.loc[found["eligible"], "values"]] == [
        [0, 0, 0],
        [1, 2, 3],
        [9, 9, 9],
        [255, 0, 7],
    ]
    assert found["queries_to_success"].tolist() == [500, pd.NA, pd.NA, pd.NA, 100]


def test_rebuilt_images_have_row_and_column_in_their_places():
    images = np.full((1, 4, 6, 3), 50, np.uint8)
    changed = attacked_images(images, made_up()[:1])
    assert changed[0, 3, 5].tolist() == [255, 0, 7]
    assert (changed != images).any(3).sum() == 1
    assert (images == 50).all()


def stored(tmp_path) -> pd.DataFrame:
    write_records(made_up(), tmp_path / "records.parquet")
    return read_records([tmp_path / "records.parquet"])


def test_success_table(tmp_path):
    row = success_table(stored(tmp_path), Statistics()).iloc[0]
    assert (row["images"], row["correct"], row["attacks"], row["successes"]) == (5, 4, 4, 2)
    assert (row["accuracy"], row["success_rate"], row["class_flip_rate"]) == (0.8, 0.5, 0.5)
    assert np.isnan(row["any_target_rate"]), "no attack had a target"
    assert (row["success_rate_low"], row["success_rate_high"]) == pytest.approx(wilson(2, 4, 0.95))
    assert (row["queries_total"], row["queries_median"], row["queries_to_success_median"]) == (3600, 1000, 300)


def test_both_readings_of_untargeted():
    """Three images × two targets: one reaches a target, one changes class but not to its target, one neither."""
    records = (
        made_up()
        .iloc[[0] * 6]
        .assign(
            image_id=[0, 0, 1, 1, 2, 2],
            label=0,
            target=pd.array([1, 2] * 3, dtype="Int64"),
            adversarial_class=pd.array([0, 2, 0, 3, 0, 0], dtype="Int64"),
            success=pd.array([False, True, False, False, False, False], dtype="boolean"),
        )
    )
    row = success_table(records, Statistics()).iloc[0]
    assert (row["images"], row["correct"], row["attacks"], row["successes"]) == (3, 3, 6, 1)
    assert (row["success_rate"], row["any_target_rate"], row["class_flip_rate"]) == (1 / 6, 1 / 3, 2 / 3)
    assert (row["any_target_rate_low"], row["any_target_rate_high"]) == pytest.approx(wilson(1, 3, 0.95))


def test_without_position_maps_there_is_the_original_attack(tmp_path):
    table = locality_table(stored(tmp_path), None, Statistics())
    assert table["change"].tolist() == ["original attack"]
    assert table["rate"].tolist() == [0.5]


def test_tables_without_an_attacked_image(tmp_path):
    records = stored(tmp_path)
    records = records[~records["eligible"]]
    row = success_table(records, Statistics()).iloc[0]
    assert (row["correct"], row["attacks"], row["successes"], row["queries_total"]) == (0, 0, 0, 0)
    assert np.isnan(row["success_rate"])
    table = locality_table(records, positions([chunk([], [], [])]), Statistics())
    assert table["images"].tolist() == [0] * 5
    assert table["rate"].isna().all()
    for maps in (None, positions([chunk([], [], [])])):
        clusters = cluster_table(maps, Statistics())
        assert len(clusters) == len(profile_table(maps, Statistics())) == 0
        summed = neighbourhood_table(clusters, maps, Statistics()).iloc[0]
        assert (summed["images"], summed["tested"]) == (0, 0)
        assert np.isnan(summed["half_distance"])


def chunk(flips, rows, columns) -> xr.DataTree:
    flips = np.array(flips, bool).reshape(-1, 3, 4)
    data = {
        "flips": (("image", "y", "x"), flips),
        "margin": (("image", "y", "x"), np.where(flips, -1.0, 1.0)),
        "row": ("image", np.array(rows, int)),
        "column": ("image", np.array(columns, int)),
        "target": ("image", np.full(len(flips), -1)),
        "colour": (("image", "channel"), np.zeros((len(flips), 3), np.uint8)),
    }
    return xr.DataTree(xr.Dataset(data, {"image": np.arange(len(flips))}))


def test_locality_table_by_hand(tmp_path):
    """Two successes on 3 × 4 images: one of 3 neighbours and 1 of 11 others; 2 of 8 neighbours and 4 of 11 others."""
    first = [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    second = [[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 1]]
    trees = [chunk([first], [0], [0]), chunk([second], [1], [1])]
    table = locality_table(stored(tmp_path), positions(trees), Statistics()).set_index("change")
    assert table["images"].to_dict()["original attack"] == 4
    assert (table["images"][1:] == 2).all()
    exact = {"original attack": 0.5, "neighbours": (1 / 3 + 2 / 8) / 2, "random position": (1 / 11 + 4 / 11) / 2}
    assert table["rate"][:3].to_dict() == pytest.approx(exact)
    for change in ("one neighbour", "one position"):
        hits = table.loc[change, "rate"] * 2
        assert hits in (0, 1, 2)
        assert table.loc[change, ["low", "high"]].tolist() == pytest.approx(wilson(int(hits), 2, 0.95))
    assert table.loc["neighbours", ["low", "high"]].tolist() == pytest.approx([2 / 8, 1 / 3])


def test_neighbourhood_by_hand():
    """A block of four that flips, a single one, a map that flips everywhere: two can be tested, one is clustered."""
    block, single, whole = np.zeros((3, 3, 4), bool)
    block[:2, :2] = single[1, 1] = True
    whole[:] = True
    trees = [chunk([block, single], [0, 1], [0, 1]), chunk([whole], [2], [2])]
    settings = Statistics(permutations=499)
    clusters = cluster_table(positions(trees), settings)
    assert clusters["flips"].tolist() == [4, 1, 12]
    assert clusters["largest_region"].tolist() == [4, 1, 12]
    summed = neighbourhood_table(clusters, positions(trees), settings).iloc[0]
    assert (summed["images"], summed["tested"]) == (3, 2)
    assert summed["moran_flips"] == pytest.approx(morans_i(np.stack([block, single])).mean())
    assert summed["moran_significant"] == (clusters["moran_flips_q"][:2] <= 0.05).mean() == 0.5
    profile = profile_table(positions(trees), settings)
    assert (profile["rate"][0], profile["images"][0]) == (pytest.approx(2 / 3), 3)  # 3 of 3, none of 8, 5 of 5
