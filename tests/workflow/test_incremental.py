"""Which rules run again after which change: dry runs on a finished study of three chunks (LeNet two, ResNet-20 one)."""

import os
import time

import pytest

CHARTS = {"draw_locality_chart": 1, "draw_distance_profile": 1, "draw_receptive_fields": 1, "all": 1}
AFTER_ALL_RUNS = {"gather_tables": 9, **CHARTS}
WITH_FIELDS = {"gather_tables": 10, **CHARTS}
SHARING = {"share": 1, "draw_sharing": 1}
MAPS = {"propagate": 3, "propagate_controls": 3, "summarise": 2, "draw": 2}
ALL_ATTACKS = {"attack": 3, "locality": 3, "transfer": 2, **MAPS, **SHARING, **AFTER_ALL_RUNS}
ONE_NEW_CHUNK = {
    **{"attack": 1, "propagate": 1, "locality": 1, "propagate_controls": 1, "summarise": 1, "draw": 1},
    **{"find_receptive_fields": 1, **WITH_FIELDS},  # these come from the first 16 images
}
IN_COMPANY = {"transfer": 1, **SHARING}  # the other network is tried on new successes
FIGURES = {"draw": 2, "draw_sharing": 1, **CHARTS}
DRAWN_FIELDS = {"draw_receptive_fields": 1, "all": 1}


def test_nothing_changed(finished_study):
    assert finished_study.plan() == {}


def test_files_are_only_touched(study_copy):
    later = time.time() + 60
    for folder in ("onepix", "config", "workflow", "data", "results"):
        for file in (study_copy.folder / folder).rglob("*"):
            if file.is_file():
                os.utime(file, (later, later))
    assert study_copy.plan() == {}


def test_a_configuration_in_another_order_with_defaults_written_out(finished_study):
    config = dict(reversed(finished_study.CONFIG.items()))
    config["attacks"] = {"de": {"generations": 4, "differential_weight": 0.5, "population": 200}}
    assert finished_study.plan(config) == {}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (["runs", 0, "images"], "0-11", ONE_NEW_CHUNK | IN_COMPANY),
        (["runs", 1, "images"], "0-7", ONE_NEW_CHUNK | IN_COMPANY),
        (
            ["runs", 0, "images"],
            "0-6",
            ONE_NEW_CHUNK | IN_COMPANY,
        ),  # the second block wants three, not four
        (["attacks", "de", "generations"], 5, ALL_ATTACKS),
        (["attacks", "de", "seed"], 1, ALL_ATTACKS),
        (["engine", "micro_batch"], 32, ALL_ATTACKS | {"find_receptive_fields": 2} | WITH_FIELDS),
        (["propagation", "layers"], ["*conv*"], {**MAPS, "find_receptive_fields": 2, **WITH_FIELDS}),
        (["propagation", "gradient_images"], 2, {"find_receptive_fields": 2, "gather_tables": 1} | DRAWN_FIELDS),
        (["statistics", "resamples"], 300, {"summarise": 2, "draw": 2, **SHARING, **AFTER_ALL_RUNS}),
        (
            ["statistics", "seed"],
            1,
            {"propagate_controls": 3, "summarise": 2, "draw": 2, "transfer": 2, **SHARING, **AFTER_ALL_RUNS},
        ),
        (["figures", "dpi"], 90, FIGURES),
        (["figures", "colour_map"], "viridis", FIGURES),
    ],
)
def test_a_setting_changes(finished_study, path, value, expected):
    assert finished_study.plan(finished_study.changed(*path, to=value)) == expected


def test_a_network_is_added(finished_study):
    config = finished_study.changed("networks", "other", to={"architecture": "lenet"})
    assert finished_study.plan(config) == {}, "no run names it yet"
    config["runs"][1]["networks"] = ["resnet20", "other"]
    assert finished_study.plan(config) == {"fetch_network": 1, **ONE_NEW_CHUNK, "transfer": 3, **SHARING}


def test_a_network_to_be_trained_fetches_cifar10_and_trains(finished_study):
    config = finished_study.changed("networks", "other", to={"architecture": "resnet32", "weights": "train"})
    config["runs"][1]["networks"] = ["resnet20", "other"]
    fetched = {"fetch_cifar10": 1, "train": 1, "fetch_network": 1}
    assert finished_study.plan(config) == {**fetched, **ONE_NEW_CHUNK, "transfer": 3, **SHARING}


def test_a_dataset_of_cifar10_is_fetched(finished_study):
    config = finished_study.changed("datasets", "test", to={"source": "cifar10"})
    config["runs"].append({"dataset": "test", "networks": ["lenet"], "attacks": ["de"], "images": "0-3"})
    assert finished_study.plan(config) == {"fetch_cifar10": 1, "fetch_dataset": 1, **ONE_NEW_CHUNK}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("attacks/differential_evolution.py", ALL_ATTACKS),
        ("pixels.py", ALL_ATTACKS | {"find_receptive_fields": 2} | WITH_FIELDS),
        ("propagation.py", {**MAPS, **AFTER_ALL_RUNS}),
        (
            "position_maps.py",
            {"locality": 3, "propagate_controls": 3, "summarise": 2, "draw": 2, **SHARING, **AFTER_ALL_RUNS},
        ),
        ("effective_field.py", {"find_receptive_fields": 2, "gather_tables": 1} | DRAWN_FIELDS),
        ("figures/depth.py", {"draw": 2, "all": 1}),
        ("cli.py", {}),
    ],
)
def test_a_module_is_edited(study_copy, module, expected):
    with (study_copy.folder / "onepix" / module).open("a") as file:
        file.write("# edited\n")
    assert study_copy.plan() == expected
