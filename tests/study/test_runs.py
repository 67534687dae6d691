"""What a configuration means, worked out by hand for one that has every kind of dataset, network and attack."""

import json
from pathlib import Path

import pytest

from onepix.config.reading import canonical
from onepix.config.study import parse
from onepix.errors import OnepixError
from onepix.study.runs import RUN_TABLES, Runs, image_ids, rule_of

CONFIG = {
    "datasets": {
        "cifar": {"source": "cifar10"},
        "own": {"source": "arrays", "path": "own.npz"},
        "pictures": {"source": "folder", "path": "pictures", "labels": "labels.csv"},
        "package": {"source": "folder", "path": "package:skimage/data"},
        "web": {"source": "torchvision:CIFAR100"},
        "copy": {"source": "torchvision:CIFAR100", "root": "copy"},
        "sample": {"source": "bundled"},
    },
    "networks": {
        "net20": {"architecture": "resnet20"},
        "net110": {"architecture": "resnet110", "weights": "train", "sha256": "12345678"},
        "file": {"architecture": "resnet8", "weights": "mine.safetensors", "sha256": "12345678"},
        "web": {"architecture": "resnet8", "weights": "https://x.org/a.pt", "sha256": "12345678"},
    },
    "attacks": {
        "de": {},
        "several": {"pixels": 3},
        "all": {"method": "scan"},
        "first": {"method": "scan", "stop": "first"},
        "targeted": {"method": "random_search", "target": 3},
    },
    "runs": [
        {
            "dataset": "sample",
            "networks": ["net110", "net20"],
            "attacks": ["de", "several", "targeted"],
            "images": "0-5",
        },
        {"dataset": "sample", "networks": ["net110", "net20"], "attacks": ["all", "first"], "images": {"first": 3}},
        {"dataset": "cifar", "networks": ["file"], "attacks": ["de"], "images": {"per_class": 1, "seed": 4}},
        {"dataset": "web", "networks": ["web"], "attacks": ["de"], "images": "7"},
    ],
    "images_per_job": 4,
    "propagation": {"gradient_images": 4},
    "results": "out",
}
IDS = [[0, 1, 2, 3, 4, 5], [0, 5, 9], [8], [7]]


@pytest.fixture
def runs():
    return Runs(parse(CONFIG, "study"), lambda index: IDS[index])


def paths(files):
    return [file.as_posix() for file in files]


def test_runs_stand_in_the_order_of_their_names_whose_numbers_count(runs):
    networks = [run[1] for run in runs.indices if run[0] == "sample" and run[2] == "de"]
    assert networks == runs.networks("sample", "de") == ["net20", "net110"]
    assert next(iter(runs.indices)) == ("cifar", "file", "de")
    assert runs.indices["sample", "net20", "first"] == 1
    assert len(runs.indices) == 12
    assert runs.pairs == [("cifar", "file"), ("sample", "net20"), ("sample", "net110"), ("web", "web")]
    turned = parse({**CONFIG, "runs": CONFIG["runs"][::-1]}, "study")
    assert list(Runs(turned, lambda _: []).indices) == list(runs.indices)


def test_chunks_are_fixed_blocks_with_the_ids_wanted_of_each(runs):
    assert runs.chunks(("sample", "net20", "de")) == {"000000-000003": [0, 1, 2, 3], "000004-000007": [4, 5]}
    wanted = {"000000-000003": [0], "000004-000007": [5], "000008-000011": [9]}
    assert runs.chunks(("sample", "net20", "all")) == wanted


def test_a_run_may_have_chunks_of_its_own_size():
    first, *others = CONFIG["runs"]
    own = Runs(parse({**CONFIG, "runs": [{**first, "images_per_job": 5}, *others]}, "study"), lambda index: IDS[index])
    assert own.chunks(("sample", "net20", "de")) == {"000000-000004": [0, 1, 2, 3, 4], "000005-000009": [5]}
    assert list(own.chunks(("sample", "net20", "all"))) == ["000000-000003", "000004-000007", "000008-000011"]
    assert [path.name for path in own.manifests("attack", ("sample", "net20", "de"))] == [
        "000000-000004.json",
        "000005-000009.json",
    ]


def test_by_default_a_small_study_has_several_chunks():
    values = {key: value for key, value in CONFIG.items() if key != "images_per_job"}
    assert list(Runs(parse(values, "study"), lambda _: range(16)).chunks(("web", "web", "de"))) == [
        "000000-000009",
        "000010-000019",
    ]


@pytest.mark.parametrize(
    ("attack", "stages"),
    [("de", ["attack", "propagation", "locality", "controls"]), ("several", ["attack", "propagation"])],
)
def test_changes_of_several_pixels_have_no_position_maps(runs, attack, stages):
    assert runs.stages(attack) == stages
    run = ("sample", "net20", attack)
    manifests = [f"out/sample/net20/{attack}/locality/{chunk}.json" for chunk in ("000000-000003", "000004-000007")]
    assert paths(runs.manifests("locality", run)) == (manifests if "locality" in stages else [])


def test_what_networks_share(runs):
    """Not of several pixels, nor of targeted attacks, nor of a network alone."""
    assert runs.shared == [("sample", "all"), ("sample", "de"), ("sample", "first")]
    tables = ["out/sample/net20/de/transfer.csv", "out/sample/net110/de/transfer.csv"]
    assert paths(runs.transfers("sample", "de")) == tables
    chunks = ("000000-000003", "000004-000007")
    others = [f"out/sample/net20/de/attack/{chunk}.json" for chunk in chunks]
    assert paths(runs.attacks_of_others(("sample", "net110", "de"))) == others
    assert paths(runs.attacks_of_others(("cifar", "file", "de"))) == []


@pytest.mark.parametrize(("attack", "stage"), [("all", "attack"), ("first", "locality"), ("de", "locality")])
def test_vulnerable_positions_come_from_whole_scans_else_from_position_maps(runs, attack, stage):
    found = runs.vulnerable("sample", attack)
    assert {path.parent.name for path in found} == {stage}
    assert [path.parts[2] for path in found] == ["net20"] * (len(found) // 2) + ["net110"] * (len(found) // 2)


def test_the_first_images_of_a_network_over_its_runs(runs):
    assert runs.first_images("sample", "net20") == [0, 1, 2, 3]
    assert runs.first_images("cifar", "file") == [8]


def test_all_manifests(runs):
    found = paths(runs.all_manifests())
    assert len(found) == len(set(found))
    fetched = [path for path in found if path.startswith("data/")]
    assert fetched == [
        *(f"data/datasets/{name}/manifest.json" for name in ("cifar", "sample", "web")),
        *(f"data/networks/{name}/manifest.json" for name in ("file", "net20", "net110", "web")),
    ]
    fields = [path for path in found if "receptive" in path]
    assert fields == [
        f"out/{pair}/receptive_fields.json" for pair in ("cifar/file", "sample/net20", "sample/net110", "web/web")
    ]
    # Chunks and stages: 1 × 4 on cifar and web; on sample and each network 2 × (4 + 2 + 4) and 3 × (4 + 4).
    assert len(found) - len(fetched) - len(fields) == 4 + 4 + 2 * (20 + 24)


def test_tables_to_gather(runs):
    assert len(runs.tables_to_gather("success.csv")) == 12
    assert paths(runs.tables_to_gather("success.csv"))[0] == "out/cifar/file/de/summary/success.csv"
    assert paths(runs.tables_to_gather("receptive_fields.csv"))[1] == "out/sample/net20/receptive_fields.csv"
    assert len(runs.tables_to_gather("receptive_fields.csv")) == 4


def test_what_is_fetched_or_made_before(runs):
    assert paths(runs.cifar10_of("cifar")) == ["data/cifar10.json"]
    assert runs.cifar10_of("sample") == []
    assert paths(runs.trained_weights("net110")) == ["data/training/net110.safetensors"]
    assert runs.trained_weights("net20") == []


def test_the_users_own_files(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pictures/b/2.png", "pictures/a.png", "pictures/.hidden", "pictures/{x}.png"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert paths(runs.own_images("pictures")) == ["pictures/a.png", "pictures/b/2.png", "labels.csv"]
    assert paths(runs.own_images("own")) == ["own.npz"]
    assert paths(runs.own_weights("file")) == ["mine.safetensors"]
    for nothing in (
        runs.own_images("package"),
        runs.own_images("web"),
        *map(runs.own_weights, ("net20", "net110", "web")),
    ):
        assert nothing == []


def test_rules_that_choose_images(runs):
    assert set(runs.selections) == {"first-3", "per-class-1-seed-4"}
    assert runs.chosen("sample", "net20") == ["first-3"]
    assert runs.chosen("web", "web") == []
    lists = [path for path in paths(runs.targets) if "selection" in path]
    assert lists == ["data/selection/sample/first-3.txt", "data/selection/cifar/per-class-1-seed-4.txt"]


def test_targets(runs):
    found = paths(runs.targets)
    assert len(found) == len(set(found))
    assert {"out/configuration.yaml", "out/provenance.csv", "out/charts/distance_profile.png"} <= set(found)
    assert {f"out/tables/{table}" for table in (*RUN_TABLES, "receptive_fields.csv")} <= set(found)
    for pair in ("sample/all", "sample/de", "sample/first"):
        assert {f"out/sharing/{pair}.csv", f"out/sharing_figures/{pair}.png"} <= set(found)
    of_run = [path for path in found if path.startswith("out/web/web/de/")]
    names = "strip_failure strip_success average_propagation average_aligned growth_by_depth comparison position_maps"
    assert of_run == [f"out/web/web/de/figures/{name}.png" for name in names.split()]


NAMES = {"dataset": "sample", "network": "net20", "attack": "de", "chunk": "000004-000007", "selection": "first-3"}
PASSES = {"device": "auto", "micro_batch": "auto"}


@pytest.mark.parametrize(
    ("rule", "names", "expected"),
    [
        ("cifar10", (), {"existing": None}),
        ("datasets", ("dataset",), {"dataset": {"source": "bundled"}}),
        ("selection", ("dataset", "selection"), {"images": {"first": 3}}),
        ("propagation", ("dataset", "network", "attack", "chunk"), {"layers": "auto", "engine": PASSES}),
        ("controls", ("dataset", "network", "attack", "chunk"), {"layers": "auto", "engine": PASSES, "seed": 0}),
        ("receptive_fields", ("dataset", "network"), {"layers": "auto", "device": "auto", "image_ids": [0, 1, 2, 3]}),
        ("transfer", ("dataset", "network", "attack"), {"target": "net20", "seed": 0, "engine": PASSES}),
        (
            "sharing",
            ("dataset", "attack"),
            {"dataset": "sample", "attack": "de", "statistics": {"confidence": 0.95, "resamples": 9999, "seed": 0}},
        ),
        (
            "sharing_figures",
            ("dataset", "attack"),
            {"dataset": "sample", "attack": "de", "dpi": 200, "confidence": 0.95},
        ),
        ("charts", (), {"dpi": 200, "confidence": 0.95}),
    ],
)
def test_what_rules_are_told(runs, rule, names, expected):
    assert json.loads(canonical(runs.settings(rule, {name: NAMES[name] for name in names}))) == expected


def test_an_attack_is_told_its_ids_and_nothing_idle(runs):
    told = json.loads(canonical(runs.settings("attack", NAMES)))
    assert told["image_ids"] == [4, 5]
    assert told["attack"]["population"] == 400
    assert not {"true_threshold", "target_threshold"} & told["attack"].keys(), "it stops at a flip"
    assert told["engine"]["precision"] == "auto"


def test_where_torchvision_downloads_to(runs):
    assert runs.settings("datasets", {"dataset": "web"})["downloads"] == "data/torchvision"
    assert "downloads" not in runs.settings("datasets", {"dataset": "copy"})


def test_a_digest_is_told_where_it_is_compared(runs):
    assert runs.settings("networks", {"network": "file"})["network"]["sha256"] == "12345678"
    assert runs.settings("networks", {"network": "net110"})["network"]["sha256"] is None
    assert "sha256" not in runs.settings("training", {"network": "net110"})["network"]


def test_the_whole_configuration_does_not_depend_on_the_order_of_runs(runs):
    turned = Runs(parse({**CONFIG, "runs": CONFIG["runs"][::-1]}, "study"), lambda _: [])
    assert canonical(runs.settings("configuration", {})) == canonical(turned.settings("configuration", {}))


def test_a_rule_that_is_told_nothing(runs):
    with pytest.raises(ValueError, match="the rule 'tables' has no settings"):
        runs.settings("tables", {})


def test_images_listed_and_chosen(tmp_path):
    config = parse(CONFIG, "study")
    asked = []

    def chosen(dataset, selection):
        asked.append((dataset, selection))
        (tmp_path / "ids.txt").write_text("4\n2\n")
        return tmp_path / "ids.txt"

    assert image_ids(config, 0, chosen) == (0, 1, 2, 3, 4, 5)
    assert asked == []
    assert image_ids(config, 1, chosen) == (2, 4)
    assert asked == [("sample", "first-3")]


def test_a_list_of_ids_that_is_not_there():
    values = {**CONFIG, "runs": [{**CONFIG["runs"][0], "images": {"file": "nowhere.txt"}}]}
    config = parse(values, "study")
    assert rule_of(config.runs[0].images) is None
    with pytest.raises(OnepixError, match=r"runs\.0\.images: nowhere\.txt"):
        image_ids(config, 0, None)
