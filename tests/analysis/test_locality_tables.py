"""Tables of locality and neighbourhood by hand."""

import numpy as np
import pytest
from made_up import chunk, stored

from onepix.analysis.locality_tables import cluster_table, locality_table, neighbourhood_table, profile_table
from onepix.analysis.positions import positions
from onepix.analysis.spatial import morans_i
from onepix.analysis.statistics import wilson
from onepix.config.statistics import Statistics


def test_without_position_maps_there_is_the_original_attack(tmp_path):
    table = locality_table(stored(tmp_path), None, Statistics())
    assert table["change"].tolist() == ["original attack"]
    assert table["rate"].tolist() == [0.5]


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
