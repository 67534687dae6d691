"""The table of successes, from made-up attacks whose rates are known."""

import numpy as np
import pandas as pd
import pytest
from made_up import chunk, made_up, stored

from onepix.analysis.locality_tables import cluster_table, locality_table, neighbourhood_table, profile_table
from onepix.analysis.positions import positions
from onepix.analysis.statistics import wilson
from onepix.analysis.success import success_table
from onepix.config.statistics import Statistics
from onepix.files.records import read_records, write_records


def test_success_table(tmp_path):
    row = success_table(stored(tmp_path), Statistics()).iloc[0]
    assert (row["images"], row["correct"], row["attacks"], row["successes"]) == (5, 4, 4, 2)
    assert (row["accuracy"], row["success_rate"], row["class_flip_rate"]) == (0.8, 0.5, 0.5)
    assert np.isnan(row["any_target_rate"]), "no attack had a target"
    assert (row["success_rate_low"], row["success_rate_high"]) == pytest.approx(wilson(2, 4, 0.95))
    assert (row["queries_total"], row["queries_median"], row["queries_to_success_median"]) == (3600, 1000, 300)
    assert (row["stop"], row["budget"], row["queries_mean"]) == ("flip", 1200, 900)
    assert row[["threshold_rate", "queries_to_threshold_median"]].isna().all(), "nothing looked for it"


@pytest.mark.parametrize("stop", ["budget", "threshold"])
def test_one_attack_gives_the_rates_of_both_stop_rules(stop, tmp_path):
    """Three of four attacks flip the class; two of them pass the threshold, after 300 and 700 candidates."""
    past = pd.array([300, None, 700, None, None], dtype="Int64")
    seen = pd.array([1, 1, 0, 2, None], dtype="Int64")
    records = made_up().assign(stop=stop, queries_to_threshold=past, adversarial_class=seen, queries=[1200] * 4 + [0])
    records["success"] = [True, False, True, True, None]
    write_records(records, tmp_path / "records.parquet")
    row = success_table(read_records([tmp_path / "records.parquet"]), Statistics()).iloc[0]
    assert (row["stop"], row["budget"], row["attacks"], row["queries_mean"]) == (stop, 1200, 4, 1200)
    assert (row["success_rate"], row["threshold_rate"]) == (0.75, 0.5)
    assert (row["threshold_rate_low"], row["threshold_rate_high"]) == pytest.approx(wilson(2, 4, 0.95))
    assert (row["queries_to_success_median"], row["queries_to_threshold_median"]) == (300, 500)


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
