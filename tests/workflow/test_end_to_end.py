"""The small study, whole: every output opened and checked against the contract."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from inside import run_inside
from PIL import Image
from studies import ROOT, new_study

from onepix.analysis.maps import layers_of
from onepix.datasets.arrays import read_images
from onepix.engine.devices import choose_micro_batch
from onepix.engine.evaluator import logits
from onepix.files.manifests import checked_data, read_manifest
from onepix.files.records import attacked_images, read_records
from onepix.files.trees import read_tree
from onepix.networks.weights import load_network_file

RUNS = {"lenet": (range(8), ["000000-000003", "000004-000007"], 11), "resnet20": (range(4), ["000000-000003"], 49)}


@pytest.fixture(params=RUNS)
def network(request):
    return request.param


@pytest.fixture
def run(finished_study, network):
    return finished_study.folder / "results/sample" / network / "de"


@pytest.fixture
def records(run, network):
    return read_records([checked_data(run / "attack" / f"{chunk}.json") for chunk in RUNS[network][1]])


@pytest.fixture
def images(finished_study):
    return read_images(finished_study.folder / "data/datasets/sample/manifest.json")


@pytest.fixture
def classifier(finished_study, network):
    return load_network_file(checked_data(finished_study.folder / f"data/networks/{network}/manifest.json"))


def test_dataset(images):
    assert images.images.shape == (100, 32, 32, 3)
    assert images.ids.tolist() == list(range(100))
    assert images.class_names[:3] == ("airplane", "automobile", "bird")


def test_records_tell_what_the_network_says(records, images, classifier, network):
    assert records["image_id"].tolist() == list(RUNS[network][0])
    chosen = images.select(records["image_id"].tolist())
    assert records["label"].tolist() == chosen.labels.tolist()
    clean = logits(classifier, torch.from_numpy(chosen.images), 64)
    assert records["clean_class"].tolist() == clean.argmax(1).tolist()
    assert (records["eligible"] == (records["clean_class"] == records["label"])).all()
    attacked = records[records["eligible"]]
    originals = images.select(attacked["image_id"].tolist()).images
    rebuilt = attacked_images(originals, attacked)
    assert (((rebuilt != originals).any(3)).sum((1, 2)) <= 1).all()
    after = logits(classifier, torch.from_numpy(rebuilt), 64)
    assert attacked["adversarial_class"].tolist() == after.argmax(1).tolist()
    assert (attacked["success"] == (attacked["adversarial_class"] != attacked["label"])).all()
    np.testing.assert_allclose(attacked["adversarial_confidence"], after.softmax(1).amax(1), rtol=1e-6)
    assert (attacked["queries"] == 200 * (attacked["generations"] + 1)).all()
    assert (attacked.loc[~attacked["success"].astype(bool), "queries"] == 1000).all()


def test_manifests(run, network):
    for stage in ("attack", "propagation", "locality", "controls"):
        for chunk in RUNS[network][1]:
            manifest = read_manifest(run / stage / f"{chunk}.json")
            assert manifest["device"]
            assert len(manifest["inputs"]["network"]) == 64
            assert manifest["settings"]["engine"]["micro_batch"] == "auto"
            if stage == "attack":
                assert manifest["evaluation"]["micro_batch"] == choose_micro_batch("auto", "cpu", 32, 32)


def test_propagation_maps(run, records, network):
    attacked = records[records["eligible"]]
    trees = [read_tree(checked_data(run / "propagation" / f"{chunk}.json")) for chunk in RUNS[network][1]]
    for tree in trees:
        layers = layers_of([tree])
        assert len(layers) == RUNS[network][2]
        measured = tree["measures"].load().to_dataset()
        assert measured["layer"].values.tolist() == [attributes["layer"] for _, attributes in layers]
        for depth, (name, attributes) in enumerate(layers):
            maps, measures = tree[name].load().to_dataset(), measured.sel(layer=attributes["layer"])
            assert attributes["depth"] == depth
            assert name == f"{depth:03d}_{attributes['layer']}"
            assert set(attributes) == {"layer", "operator", "depth", "output_shape", "spatial"} | {
                "receptive_field",
                "receptive_field_start",
                "stride",
            }
            assert maps["max"].dims == maps["mean"].dims == ("image", "y", "x")
            shape = attributes["output_shape"]
            assert maps["max"].shape[1:] == (tuple(shape[1:]) if len(shape) == 3 else (1, 1))
            assert not any(np.isnan(maps[variable]).any() for variable in maps)
            undefined = {variable for variable in measures if np.isnan(measures[variable]).any()}
            assert undefined == (set() if attributes["spatial"] else {"distance", "spread"})
            assert not measures["outside_cone"].any(), "no change outside the pixel's theoretical forward cone"
            assert (measures["reach_1pct"] <= measures["reach"]).all()
            assert (maps["max"] >= maps["mean"]).all()
            np.testing.assert_array_equal(maps["max"].max(("y", "x")), measures["delta_peak"])
            np.testing.assert_allclose((maps["max"] > 0).mean(("y", "x")), measures["reach"], rtol=1e-6)
    together = xr.concat([tree.to_dataset() for tree in trees], dim="image")
    assert together["image"].values.tolist() == attacked["image_id"].tolist()
    assert together["success"].values.tolist() == attacked["success"].tolist()


def test_controls_are_the_same_colour_where_it_does_not_flip(run, records, images, classifier, network):
    successes = records[records["success"].fillna(False).astype(bool)].set_index("image_id")
    found = []
    for chunk in RUNS[network][1]:
        tree = read_tree(checked_data(run / "controls" / f"{chunk}.json")).load()
        for place, image in enumerate(tree["image"].values.tolist()):
            moved = images.select([image]).images.copy()
            row, column = int(tree["row"][place, 0]), int(tree["column"][place, 0])
            moved[0, row, column] = successes.loc[image, "values"][0]
            assert ([row], [column]) != (list(successes.loc[image, "rows"]), list(successes.loc[image, "columns"]))
            assert int(logits(classifier, torch.from_numpy(moved), 64).argmax()) == successes.loc[image, "label"]
            found.append(image)
        assert not tree["measures"]["outside_cone"].any()
    assert found == successes.index.tolist(), "every success has a control"


def test_transfer_is_what_the_other_network_says(finished_study, images):
    other = {"lenet": "resnet20", "resnet20": "lenet"}
    for target, source in other.items():
        folder = finished_study.folder / "results/sample"
        table = pd.read_csv(folder / target / "de/transfer.csv")
        network = load_network_file(checked_data(finished_study.folder / f"data/networks/{target}/manifest.json"))
        records = read_records([checked_data(folder / source / "de/attack" / f"{c}.json") for c in RUNS[source][1]])
        successes = records[records["success"].fillna(False).astype(bool)]
        originals = images.select(successes["image_id"].tolist())
        clean, seen = (
            logits(network, torch.from_numpy(pictures), 64).argmax(1).numpy()
            for pictures in (originals.images, attacked_images(originals.images, successes))
        )
        right = clean == originals.labels
        assert table["image_id"].tolist() == originals.ids[right].tolist()
        assert table["flips"].tolist() == (seen != originals.labels)[right].tolist()
        sharing = pd.read_csv(finished_study.folder / "results/sharing/sample/de.csv")
        row = sharing[(sharing["source"] == source) & (sharing["target"] == target)].iloc[0]
        assert row["successes"] == right.sum()
        assert row["transfer"] == pytest.approx(table["flips"].mean())


def test_receptive_fields(finished_study, network):
    table = pd.read_csv(finished_study.folder / f"results/sample/{network}/receptive_fields.csv")
    assert len(table) == RUNS[network][2]
    assert table["theoretical"][0] == {"lenet": 5, "resnet20": 3}[network]
    known = table["theoretical"].notna()
    assert (table["effective"][known] <= table["theoretical"][known] + 1e-6).all()
    assert table["effective"].iloc[-1] > table["effective"][0]


def test_several_chunks_join_as_one_lazy_tree(finished_study):
    paths = sorted((finished_study.folder / "results/sample/lenet/de/propagation").glob("*.zarr"))
    trees = [xr.open_datatree(path, engine="zarr", chunks={}) for path in paths]
    joined = xr.concat(trees, dim="image")
    assert len(paths) == 2
    assert joined["000_conv1"]["max"].chunks is not None, "nothing is read until it is asked for"
    assert joined["000_conv1"].sizes["image"] == sum(tree.sizes["image"] for tree in trees)


def test_position_maps(run, records, images, classifier, network):
    successes = records[records["success"].fillna(False).astype(bool)].set_index("image_id")
    trees = [read_tree(checked_data(run / "locality" / f"{chunk}.json")).load() for chunk in RUNS[network][1]]
    assert [int(image) for tree in trees for image in tree["image"].values] == successes.index.tolist()
    for tree in trees:
        assert tree["flips"].shape == (tree.sizes["image"], 32, 32)
        for image in tree["image"].values:
            maps = tree.to_dataset().sel(image=image)
            record = successes.loc[image]
            row, column = int(maps["row"]), int(maps["column"])
            assert ([row], [column]) == (list(record["rows"]), list(record["columns"]))
            assert maps["flips"].values[row, column], "at its own position, the colour flips the class"
            np.testing.assert_array_equal(maps["flips"], maps["margin"] < 0)
            moved = images.select([int(image)]).images.copy()
            moved[0, 31, 0] = maps["colour"].values
            output = logits(classifier, torch.from_numpy(moved), 64)[0]
            assert bool(maps["flips"].values[31, 0]) == (int(output.argmax()) != record["label"])


def test_the_study_shows_successes_and_failures(finished_study):
    """Otherwise much of what is tested here would hold of nothing."""
    table = pd.read_csv(finished_study.folder / "results/tables/success.csv")
    assert 0 < table["successes"].sum() < table["attacks"].sum()


def test_tables(finished_study, run, records, network):
    tables = finished_study.folder / "results/tables"
    success, layers, locality = (
        table[table["network"] == network].reset_index(drop=True)
        for table in (pd.read_csv(tables / f"{name}.csv") for name in ("success", "layers", "locality"))
    )
    attacked = records[records["eligible"]]
    assert success["attacks"].tolist() == [len(attacked)]
    assert success["success_rate"].item() == pytest.approx(attacked["success"].astype(bool).mean(), rel=1e-5)
    assert success["queries_total"].item() == attacked["queries"].sum()
    assert len(layers) == 3 * RUNS[network][2]
    assert (layers["outside_cone"] == 0).all()
    trees = [read_tree(path) for path in sorted((run / "propagation").glob("*.zarr"))]
    for _, row in layers[layers["outcome"] != "control"].iterrows():
        share, reach = [], []
        for tree in trees:
            layer = tree["measures"].to_dataset().sel(layer=row["layer"])
            chosen = tree["success"].values == (row["outcome"] == "success")
            share += (layer["delta_peak"] / layer["clean_peak"]).values[chosen].tolist()
            reach += layer["reach"].values[chosen].tolist()
        assert row["images"] == len(share)
        if share:
            assert row["share_of_peak"] == pytest.approx(np.mean(share), rel=1e-4)
            assert row["reach"] == pytest.approx(np.mean(reach), rel=1e-4)
    assert locality["change"].tolist() == [
        "original attack",
        "neighbours",
        "random position",
        "one neighbour",
        "one position",
    ]
    assert locality["rate"][0] == pytest.approx(success["success_rate"].item(), rel=1e-5)


def test_tables_of_the_comparison(finished_study, run, records, network):
    tables = finished_study.folder / "results/tables"
    comparison, claims, separation = (
        table[table["network"] == network].reset_index(drop=True)
        for table in (pd.read_csv(tables / f"{name}.csv") for name in ("comparison", "claims", "separation"))
    )
    assert len(comparison) == 2 * 6 * RUNS[network][2]
    assert len(separation) == 2 * 6
    trees = [read_tree(path).load() for path in sorted((run / "propagation").glob("*.zarr"))]
    controls = [read_tree(path).load() for path in sorted((run / "controls").glob("*.zarr"))]
    chosen = comparison[(comparison["against"] == "control") & (comparison["measure"] == "spread")]
    for _, row in chosen.iterrows():
        by_image: list[dict[int, float]] = [{}, {}]
        for found, group in zip(by_image, (trees, controls), strict=True):
            for tree in group:
                spread = tree["measures"]["spread"].sel(layer=row["layer"]).values.tolist()
                found.update(zip(tree["image"].values.tolist(), spread, strict=True))
        differences = [by_image[0][image] - by_image[1][image] for image in by_image[1]]
        if not np.isnan(differences).any():
            assert row["difference"] == pytest.approx(np.mean(differences), rel=1e-4, abs=1e-6)
    first = claims.iloc[0]
    assert first["images"] == records["eligible"].sum()
    assert set(claims["verdict"]) <= {"confirmed", "refuted", "undecided"}


def test_tables_of_the_locality_analysis(finished_study, run, records, network):
    tables = finished_study.folder / "results/tables"
    profile, clusters, neighbourhood, locality = (
        table[table["network"] == network].reset_index(drop=True)
        for table in (pd.read_csv(tables / f"{n}.csv") for n in ("profile", "clusters", "neighbourhood", "locality"))
    )
    successes = records[records["success"].fillna(False).astype(bool)]
    assert clusters["image_id"].tolist() == successes["image_id"].tolist()
    assert neighbourhood["images"].tolist() == [len(successes)]
    assert profile["distance"].tolist() == list(range(1, len(profile) + 1))
    neighbours = locality.set_index("change")["rate"]["neighbours"]
    assert profile["rate"][0] == pytest.approx(neighbours, rel=1e-4), "distance 1 is the neighbours"
    maps = xr.concat([read_tree(p).to_dataset() for p in sorted((run / "locality").glob("*.zarr"))], dim="image")
    assert clusters["flips"].tolist() == maps["flips"].sum(("y", "x")).values.tolist()
    assert ((clusters["moran_flips_p"] >= 0.001) & (clusters["moran_flips_p"] <= 1)).all()
    assert neighbourhood["tested"].item() == clusters["moran_flips_q"].notna().sum()


def test_figures(finished_study, run):
    names = ["strip_success", "strip_failure", "average_propagation", "average_aligned", "growth_by_depth"]
    stems = [run / "figures" / name for name in [*names, "comparison", "position_maps"]] + [
        finished_study.folder / "results/charts" / name
        for name in ("locality_chart", "distance_profile", "receptive_fields")
    ]
    stems.append(finished_study.folder / "results/sharing_figures/sample/de")
    for stem in stems:
        with Image.open(stem.with_suffix(".png")) as picture:
            picture.verify()
            assert min(picture.size) > 40
        assert stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_the_report_holds_every_figure_and_table(finished_study):
    run = finished_study.snakemake("--report", "report.html")
    assert run.returncode == 0, run.stdout
    text = (finished_study.folder / "report.html").read_text()
    for name in ("strip_success.png", "growth_by_depth.png", "locality_chart.png", "success.csv", "claims.csv"):
        assert name in text
    assert re.search(r"Propagation maps|propagation map of each layer", text)


def test_the_results_page_takes_its_tables_from_a_study(finished_study, tmp_path):
    shutil.copy(ROOT / "docs/results.py", tmp_path)
    page = tmp_path / "results.md"
    page.write_text("Before.\n\n<!-- tables: begin -->\noutdated\n<!-- tables: end -->\n\nAfter.\n")
    command = [sys.executable, tmp_path / "results.py", finished_study.folder / "results"]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    text = page.read_text()
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert "outdated" not in text
    success = pd.read_csv(finished_study.folder / "results/tables/success.csv").iloc[0]
    assert f"| lenet | de | 8 | {100 * success['accuracy']:.1f} % | {success['attacks']} |" in text
    assert "| the change reaches the last layer | resnet20 | de | 4 |" in text


def test_a_second_run_does_nothing(finished_study):
    run = finished_study.snakemake()
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout


def test_the_results_do_not_depend_on_the_chunks(study_copy, network, records):
    """One image a job gives the same records as four."""
    config = study_copy.changed("images_per_job", to=1)
    config["results"] = "single"
    config["runs"] = [{"dataset": "sample", "networks": [network], "attacks": ["de"], "images": "0-1"}]
    run_inside(study_copy, f"single/sample/{network}/de/attack/000001-000001.json", config=config)
    single = read_records([study_copy.folder / f"single/sample/{network}/de/attack/000001-000001.parquet"])
    expected = records[records["image_id"] == 1]
    assert json.loads(single.to_json()) == json.loads(expected.reset_index(drop=True).to_json())


def contents(folder, *parts):
    files = [path for part in parts for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_processes_make_the_bytes_that_jobs_in_one_process_make(finished_study, tmp_path):
    """A study as users run it, from nothing to the last table: so what is tested of the other one holds of theirs."""
    study = new_study(tmp_path / "study")
    run = study.snakemake()
    assert run.returncode == 0, run.stdout
    outside, inside = (contents(made.folder, "data", "results") for made in (study, finished_study))
    assert inside.keys() == outside.keys()
    assert [name for name in inside if inside[name] != outside[name]] == []
    assert (study.folder / "results/charts/locality_chart.pdf").exists()
    assert (study.folder / "results/provenance.html").exists()
