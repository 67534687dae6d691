"""`onepix check`: what it finds out about a configuration before it runs."""

import dataclasses
import hashlib
import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from analytic import blank
from checks import InThisProcess, check_in_this_process
from typer.testing import CliRunner

from onepix.cli import app
from onepix.config.study import parse
from onepix.datasets.arrays import save_arrays
from onepix.datasets.bundled import load_bundled
from onepix.files.fetching import cached_path
from onepix.files.manifests import read_manifest
from onepix.jobs import networks as fetch_network
from onepix.networks.training import accuracy
from onepix.networks.weights import bundled, load_network_file
from onepix.study.check import KILLED, CheckedPair, check, check_pair
from onepix.study.check_table import cells

URL = "https://example.org/mine.th"


@pytest.fixture
def in_this_process(monkeypatch):
    check_in_this_process(monkeypatch)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONEPIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ONEPIX_OFFLINE", raising=False)


def study(**changes):
    return {
        "datasets": {"sample": {"source": "bundled"}},
        "networks": {"lenet": {"architecture": "lenet"}},
        "attacks": {"a": {}},
        "runs": [{"dataset": "sample", "networks": ["lenet"], "attacks": ["a"], "images": "0-19"}],
        **changes,
    }


def rows(values, **options):
    return list(check(parse(values, "study.yaml"), **options))


@pytest.mark.slow
def test_a_bundled_network_on_bundled_images():
    (row,) = rows(study(), sample=12)
    expected = accuracy(load_network_file(bundled()["lenet"]), load_bundled().select(range(12)), "cpu")
    assert row.accuracy == (round(12 * expected), 12)
    assert (row.selected, row.images, row.shape, row.classes) == (20, 100, (32, 32, 3), 10)
    assert row.scaling == {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}
    assert row.passes > 0
    assert row.memory > 100e6, "torch alone takes more"
    assert (row.weights, row.fetches, row.fault) == ("bundled", [], "")
    assert cells(row)[:6] == [
        "sample",
        "lenet",
        "20 of 100",
        "32×32×3",
        "10",
        f"{row.accuracy[0]} of 12 ({row.accuracy[0] / 12:.1%})",
    ]


@pytest.mark.usefixtures("in_this_process")
def test_each_pair_once_with_the_images_of_all_its_runs():
    values = study(attacks={"a": {}, "b": {"method": "scan"}})
    values["runs"] = [
        {"dataset": "sample", "networks": ["lenet"], "attacks": ["a"], "images": "0-4"},
        {"dataset": "sample", "networks": ["lenet"], "attacks": ["b"], "images": {"first": 9}},
    ]
    (row,) = rows(values)
    assert row.selected == 9


@pytest.mark.usefixtures("in_this_process")
def test_what_would_be_fetched_is_named_and_not_fetched(tmp_path):
    hash_ = "ab" * 32
    networks = {
        "far": {"architecture": "resnet8", "weights": URL, "sha256": hash_, "mean": [0.5] * 3, "std": [0.25] * 3},
        "later": {"architecture": "resnet8", "weights": "train"},
    }
    values = study(networks=networks, datasets={"sample": {"source": "bundled"}, "whole": {"source": "cifar10"}})
    values["runs"] = [
        {"dataset": "sample", "networks": ["far", "later"], "attacks": ["a"], "images": 0},
        {"dataset": "whole", "networks": ["later"], "attacks": ["a"], "images": 0},
    ]
    far, later, whole = rows(values)
    assert far.fetches == [f"far: {URL}: not in the cache"]
    assert (far.accuracy, far.fault) == (None, "")
    assert far.passes > 0, "speed does not depend on the weights"
    assert far.scaling == {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    assert (later.weights, later.accuracy, later.fetches) == ("to be trained", None, [])
    assert whole.fetches == ["whole: CIFAR-10: not in data/cifar10"]
    assert (whole.shape, whole.classes, whole.selected, whole.fault) == ((32, 32, 3), 10, None, "")
    assert whole.passes > 0, "nor on the images"
    assert not list(tmp_path.rglob("cache/**/*.th"))


@pytest.mark.usefixtures("in_this_process")
def test_a_url_in_the_cache_is_checked_and_says_how_it_is_verified():
    state = load_network_file(bundled()["lenet"]).network.state_dict()
    torch.save(state, "mine.th")
    hash_ = hashlib.sha256(Path("mine.th").read_bytes()).hexdigest()
    place = cached_path(URL, hash_)
    place.parent.mkdir(parents=True)
    torch.save(state, place)
    assert hashlib.sha256(place.read_bytes()).hexdigest() == hash_
    entry = {"architecture": "lenet", "weights": URL, "sha256": hash_[:8], "mean": [0.5] * 3, "std": [0.25] * 3}
    (row,) = rows(study(networks={"lenet": entry}))
    assert (row.weights, row.verified) == (URL, "by the first 8 digits of its SHA-256, no more are known")
    assert cells(row)[-1] == "mine.th, by the first 8 digits of its SHA-256, no more are known"
    assert row.accuracy[1] == 20


def test_one_number_of_scaling_may_hold_for_all_channels():
    assert cells(CheckedPair("a", "b", scaling={"mean": 0.5, "std": 0.25}))[6] == "0.5 / 0.25"
    assert cells(CheckedPair("a", "b", scaling={"mean": (0.5, 0.1), "std": (0.25, 1.0)}))[6] == "0.5 0.1 / 0.25 1"


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"networks": {"lenet": {"architecture": "lenett"}}}, "no weights are bundled for it"),
        ({"networks": {"lenet": {"architecture": "lenet", "weights": "no.th"}}}, "no.th: No such file or directory"),
        ({"networks": {"lenet": {"architecture": "nowhere:make", "weights": "factory"}}}, "ModuleNotFoundError"),
        ({"datasets": {"sample": {"source": "arrays", "path": "no.npz"}}}, "no.npz: No such file or directory"),
        ({"datasets": {"sample": {"source": "folder", "path": "nowhere"}}}, "nowhere"),
        (
            {"datasets": {"sample": {"source": "arrays", "path": "two.npz"}}},
            "the network has 10 classes, the images have 2 (cat, dog)",
        ),
        (
            {"datasets": {"sample": {"source": "arrays", "path": "small.npz"}}},
            "cannot take images of 4×6×3 (height, width, channels)",
        ),
    ],
)
def test_what_would_stop_the_run_stands_in_the_row(changes, fault, tmp_path):
    pictures = blank(20, 32, 32)
    save_arrays(dataclasses.replace(pictures, class_names=("cat", "dog")), tmp_path / "two.npz")
    save_arrays(dataclasses.replace(blank(20, 4, 6), class_names=tuple("0123456789")), tmp_path / "small.npz")
    (row,) = rows(study(**changes))
    assert fault in row.fault
    assert "\n" not in row.fault
    assert row.accuracy is None


@pytest.mark.usefixtures("in_this_process")
def test_a_network_that_does_not_fit_is_found_before_the_images_are_fetched():
    networks = {"grey": {"architecture": "resnet8", "channels": 1, "weights": "train"}}
    runs = [{"dataset": "whole", "networks": ["grey"], "attacks": ["a"], "images": 0}]
    (row,) = rows(study(networks=networks, datasets={"whole": {"source": "cifar10"}}, runs=runs))
    assert row.fetches == ["whole: CIFAR-10: not in data/cifar10"]
    assert "cannot take images of 32×32×3 (height, width, channels)" in row.fault
    assert row.passes is None


@pytest.mark.usefixtures("in_this_process")
def test_a_trial_keeps_to_the_threads_that_it_is_given(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    row = check_pair(parse(study(), "study.yaml"), "sample", "lenet", sample=1, threads=3)
    assert (asked, row.accuracy[1], row.fault) == ([3], 1, "")
    assert rows(study())[0].passes > 0
    assert asked == [3, 1], "a check has one, as a job"


def test_a_process_that_is_killed_is_told_as_such(monkeypatch):
    class Killed(InThisProcess):
        def submit(self, *_):
            raise BrokenProcessPool

    monkeypatch.setattr("onepix.study.check.ProcessPoolExecutor", Killed)
    assert rows(study()) == [CheckedPair("sample", "lenet", fault=KILLED)]


@pytest.mark.usefixtures("in_this_process")
def test_too_few_images():
    values = study()
    values["runs"][0]["images"] = {"per_class": 50}
    (row,) = rows(values)
    assert "runs.0.images: per_class: 50 is more than the" in row.fault
    values["runs"][0]["images"] = "95-105"
    assert "image ids: 100 is not in the set" in rows(values)[0].fault


def test_the_command_prints_a_table_and_fails_where_a_run_would(tmp_path):
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(study()))
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"networks": {"spare": {"architecture": "resnet20"}}}))
    runner = CliRunner()
    done = runner.invoke(app, ["check", "more.yaml", "good.yaml", "--sample", "5"])
    assert done.exit_code == 0
    header, line, classes, *_, unused = (line for line in done.stdout.splitlines() if line.strip())
    assert classes == "sample × lenet: class, name, images"
    assert header.split()[:4] == ["dataset", "network", "images", "size"]
    assert line.split()[:5] == ["sample", "lenet", "20", "of", "100"]
    assert unused == "in no run, and not checked: spare"
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(study(networks={"lenet": {"architecture": "lenett"}})))
    done = runner.invoke(app, ["check", "bad.yaml"])
    assert done.exit_code != 0
    assert "sample × lenet: network lenett: no weights are bundled for it" in done.stdout
    assert str(done.exception) == "1 of the rows above would stop the run"


@pytest.mark.usefixtures("in_this_process")
def test_a_dataset_that_was_fetched_already_is_used(tmp_path):
    """Of another configuration it is not: what is checked must be what would run."""
    folder = tmp_path / "data" / "datasets" / "sample"
    own = {"source": "arrays", "path": "mine.npz"}
    pictures = load_bundled().select(range(20))
    save_arrays(pictures, tmp_path / "mine.npz")
    fetch = {"dataset": {**own, "class_names": None}}
    from onepix.jobs import datasets as fetch_dataset

    fetch_dataset.run(json.dumps(fetch), folder / "manifest.json")
    (tmp_path / "mine.npz").unlink()
    (row,) = rows(study(datasets={"sample": own}))
    assert (row.images, row.fault) == (20, "")
    (row,) = rows(study(datasets={"sample": {**own, "class_names": list("abcdefghij")}}))
    assert "mine.npz: No such file or directory" in row.fault


def test_manifests_record_the_input_scaling(tmp_path):
    output = tmp_path / "n" / "manifest.json"
    settings = {"network": {"architecture": "lenet", "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}}
    fetch_network.run(json.dumps(settings), output)
    metadata = read_manifest(output)["metadata"]
    assert (metadata["mean"], metadata["std"]) == ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    assert np.allclose(load_network_file(output.parent / "weights.safetensors").mean.flatten(), [0.1, 0.2, 0.3])
