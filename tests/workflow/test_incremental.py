"""Which rules run again, as the command line tells it too; test_reruns.py goes through all keys of a configuration."""

import os
import time

import pytest
from inside import plan
from reruns import ALWAYS, ATTACKS, CHANGES, FIELDS, IN_COMPANY, ONE_PAIR, SHARING

NEW_NETWORK = {**ONE_PAIR, "transfer": 3, **SHARING}  # each of three networks is tried on the others' successes


def test_nothing_changed(finished_study):
    assert finished_study.plan() == {}


def test_files_are_only_touched(study_copy):
    later = time.time() + 60
    for file in study_copy.folder.rglob("*"):
        if file.is_file() and ".snakemake" not in file.parts:
            os.utime(file, (later, later))
    assert study_copy.plan() == {}


@pytest.mark.parametrize(
    ("path", "value", "jobs"),
    [
        (["runs", 0, "images"], "0-11", {**ONE_PAIR, **IN_COMPANY}),
        (["attacks", "de", "generations"], 5, ATTACKS),
        (["engine", "device"], "cpu", {**ATTACKS, **FIELDS}),
        (["figures", "colour_map"], "viridis", {"figures": 2}),
    ],
)
def test_a_setting_changes(finished_study, path, value, jobs):
    assert plan(finished_study.folder, finished_study.changed(*path, to=value)) == {**jobs, **ALWAYS}


def test_the_command_line_and_the_dry_runs_of_test_reruns_agree(finished_study):
    """The same changes, told by the same table."""
    told = {change.key: change for change in CHANGES if change.study == "small"}
    for key in ("statistics.seed", "data"):
        assert finished_study.plan(told[key].config) == {**told[key].outcome.jobs, **ALWAYS}


def test_a_network_is_added(finished_study):
    config = finished_study.changed("networks", "other", to={"architecture": "lenet"})
    assert plan(finished_study.folder, config) == ALWAYS, "no run names it yet"


def test_a_network_to_be_trained_fetches_cifar10_and_trains(finished_study):
    config = finished_study.changed("networks", "other", to={"architecture": "resnet32", "weights": "train"})
    config["runs"][1]["networks"] = ["resnet20", "other"]
    fetched = {"cifar10": 1, "training": 1, "networks": 1}
    assert plan(finished_study.folder, config) == {**fetched, **NEW_NETWORK, **ALWAYS}


def test_a_dataset_of_cifar10_is_fetched(finished_study):
    config = finished_study.changed("datasets", "test", to={"source": "cifar10"})
    config["runs"].append({"dataset": "test", "networks": ["lenet"], "attacks": ["de"], "images": "0-3"})
    assert plan(finished_study.folder, config) == {"cifar10": 1, "datasets": 1, **ONE_PAIR, **ALWAYS}
