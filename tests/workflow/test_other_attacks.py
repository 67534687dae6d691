"""The workflow with every other kind of attack: a scan, several pixels, targets."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from inside import run_inside
from studies import Study, new_study

from onepix.files.manifests import digest, read_manifest
from onepix.files.records import read_records

ATTACKS = {
    "scan": {"method": "scan"},
    "three": {"pixels": 3, "population": 60, "generations": 2, "variant": "best1bin"},
    "aimed": {"method": "random_search", "target": "all", "budget": 500, "objective": "margin"},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    study = new_study(tmp_path_factory.mktemp("others") / "study")
    runs = [
        {"dataset": "sample", "networks": ["lenet"], "attacks": list(ATTACKS), "images": "0-4"},
        {"dataset": "sample", "networks": ["twin"], "attacks": ["scan"], "images": "0-4"},
    ]
    networks = {name: {"architecture": "lenet"} for name in ("lenet", "twin")}
    config = {**Study.CONFIG, "networks": networks, "attacks": ATTACKS, "runs": runs, "images_per_job": 5}
    config["figures"] = {"dpi": 50, "strip_layers": ["conv*"]}
    run_inside(study, config=config)
    return study


def test_a_scan_leaves_its_position_maps(study):
    folder = study.folder / "results/sample/lenet/scan/attack"
    manifest = read_manifest(folder / "000000-000004.json")
    path = folder / manifest["position_maps"]["data"]
    assert digest(path) == manifest["position_maps"]["sha256"]
    assert manifest["evaluation"]["precision"] in ("float32", "bfloat16")
    maps = xr.open_datatree(path, engine="zarr").to_dataset()
    records = read_records([folder / "000000-000004.parquet"])
    attacked = records[records["eligible"]].reset_index(drop=True)
    assert maps["image"].values.tolist() == attacked["image_id"].tolist()
    assert maps["flips"].shape == (len(attacked), 8, 32, 32)
    assert maps["flips"].any(("colour", "y", "x")).values.tolist() == attacked["success"].tolist()
    np.testing.assert_array_equal(maps["flips"], maps["margin"] < 0)
    for index, record in attacked[attacked["success"].astype(bool)].iterrows():
        colour = maps["colours"][index].values.tolist().index(record["values"][0].tolist())
        assert maps["flips"][index, colour, record["rows"][0], record["columns"][0]]


def table_of_lenet(study, name):
    table = pd.read_csv(study.folder / f"results/tables/{name}.csv")
    return table[table["network"] == "lenet"].drop(columns="network")


def test_equal_networks_share_everything(study):
    """The twin has the same weights: every success flips it too, and the scans' maps are the same."""
    sharing = pd.read_csv(study.folder / "results/sharing/sample/scan.csv")
    assert sharing[["source", "target"]].to_numpy().tolist() == [["lenet", "twin"], ["twin", "lenet"]]
    assert sharing["successes"].tolist() == sharing["images"].tolist() == [3, 3]
    assert sharing["transfer"].tolist() == sharing["jaccard"].tolist() == [1, 1]
    assert (sharing["chance"] < 0.5).all()
    assert (sharing["moved"] < 1).all()
    assert not (study.folder / "results/sharing/sample/three.csv").exists(), "no other network is attacked so"


def test_attacks_of_several_pixels_have_no_controls(study):
    comparison = table_of_lenet(study, "comparison")
    against = comparison.groupby("attack")["against"].unique().apply(set).to_dict()
    assert against == {"scan": {"failure", "control"}, "three": {"failure"}, "aimed": {"failure", "control"}}
    maps = xr.open_datatree(study.folder / "results/sample/lenet/three/propagation/000000-000004.zarr", engine="zarr")
    assert maps.sizes["pixel"] == 3
    assert not maps["measures"]["outside_cone"].any(), "the cones of three pixels"


def test_tables_name_each_attack_and_both_readings(study):
    success = table_of_lenet(study, "success").set_index("attack")
    correct = success.loc["scan", "correct"]
    assert success["attacks"].to_dict() == {"scan": correct, "three": correct, "aimed": 9 * correct}
    assert success["any_target_rate"].isna().to_dict() == {"scan": True, "three": True, "aimed": False}
    assert success.loc["aimed", "any_target_rate"] >= success.loc["aimed", "success_rate"]
    assert success.loc["aimed", "class_flip_rate"] >= success.loc["aimed", "any_target_rate"]
    assert 0 < success.loc["scan", "class_flip_rate"] == success.loc["scan", "success_rate"]
    locality = table_of_lenet(study, "locality")
    changes = locality.groupby("attack", sort=False)["change"].apply(list).to_dict()
    assert changes["three"] == ["original attack"], "where three pixels would be moved to is not defined"
    assert changes["scan"] == changes["aimed"]
    assert len(changes["scan"]) == 5
    profile = table_of_lenet(study, "profile")
    assert set(profile["attack"]) == {"scan", "aimed"}
    neighbourhood = table_of_lenet(study, "neighbourhood").set_index("attack")
    assert neighbourhood["images"].to_dict() == {"scan": 3, "three": 0, "aimed": 2}


def test_propagation_maps_have_an_entry_a_target(study):
    run = study.folder / "results/sample/lenet/aimed"
    records = read_records([run / "attack/000000-000004.parquet"])
    attacked = records[records["eligible"]]
    maps = xr.open_datatree(run / "propagation/000000-000004.zarr", engine="zarr")
    assert maps["image"].values.tolist() == attacked["image_id"].tolist()
    assert maps["target"].values.tolist() == attacked["target"].tolist()
    positions = xr.open_datatree(run / "locality/000000-000004.zarr", engine="zarr").to_dataset()
    successes = attacked[attacked["success"].astype(bool)]
    assert positions["target"].values.tolist() == successes["target"].tolist()
    for index in range(positions.sizes["image"]):
        row, column = int(positions["row"][index]), int(positions["column"][index])
        assert positions["flips"][index, row, column], "at its own position the target is reached"


def test_every_figure_is_drawn(study):
    for attack in ATTACKS:
        for name in ("strip_success", "average_propagation", "average_aligned", "comparison", "position_maps"):
            assert (study.folder / f"results/sample/lenet/{attack}/figures/{name}.png").stat().st_size > 1000
