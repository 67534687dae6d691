"""The configuration: what is read, and how mistakes are told."""

import json
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import ROOT

from onepix.config.reading import canonical
from onepix.config.selection import as_ranges, parse_ids
from onepix.config.study import json_schema, load, parse
from onepix.errors import OnepixError
from onepix.names import natural

GOOD = {
    "datasets": {"sample": {"source": "bundled"}},
    "networks": {"lenet": {"architecture": "lenet"}},
    "attacks": {"de": {"population": 10}},
    "runs": [{"dataset": "sample", "networks": ["lenet"], "attacks": ["de"], "images": "0-9"}],
}


def changed(path, value):
    values = deepcopy(GOOD)
    *parents, last = path
    target = values
    for key in parents:
        target = target[key]
    target[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["networks", "lenet", "wieghts"], "x", "networks.lenet: unknown key 'wieghts'; did you mean 'weights'?"),
        (["atacks"], {}, "unknown key 'atacks'; did you mean 'attacks'?"),
        (["attacks", "de", "population"], "many", "attacks.de.population: Input should be a valid integer"),
        (
            ["attacks", "de", "population"],
            3,
            "attacks.de.population: Input should be greater than or equal to 4, got 3",
        ),
        (["statistics"], {"confidence": 1.5}, "statistics.confidence: Input should be less than 1, got 1.5"),
        (
            ["datasets", "sample", "source"],
            "cifar",
            "datasets.sample: source 'cifar' is unknown; expected one of: 'bundled'",
        ),
        (["runs", 0, "networks"], ["lenett"], "runs.0.networks: 'lenett' is unknown; did you mean 'lenet'?"),
        (["runs", 0, "dataset"], "other", "runs.0.dataset: 'other' is unknown; expected one of: sample"),
        (["runs", 0, "images"], "9-0", "runs.0.images: cannot read '9-0'; expected ids such as"),
        (["runs", 0, "images"], [-1], "runs.0.images: image ids are not negative, got -1"),
        (["runs", 0, "images"], [], "runs.0.images: no image is selected"),
        (["runs"], GOOD["runs"] * 2, "sample/lenet/de is named twice"),
        (["networks", "a b"], {"architecture": "lenet"}, "String should match pattern"),
        (["networks", "a;b"], {"architecture": "lenet"}, "String should match pattern"),
        (["networks", "lenet", "mean"], [0.5, 0.5, 0.5], "mean and std go together"),
        (["networks", "lenet", "sha256"], "12", "networks.lenet.sha256: expected 64 hexadecimal digits, or at least"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(path, value, told):
    with pytest.raises(OnepixError) as caught:
        parse(changed(path, value), "study.yaml")
    assert str(caught.value).startswith("study.yaml: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_mistake_is_told():
    values = changed(["attacks", "de", "population"], 1)
    values["engine"] = {"devise": "cpu"}
    with pytest.raises(OnepixError) as caught:
        parse(values, "study.yaml")
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_missing_or_no_yaml(tmp_path):
    with pytest.raises(OnepixError, match="No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(OnepixError, match=r"bad\.yaml:1: not YAML"):
        load(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (7, (7,)),
        ("7", (7,)),
        ("0-3", (0, 1, 2, 3)),
        ("5, 0-1 ,5", (0, 1, 5)),
        ([3, 1, 3], (1, 3)),
        (" 2 - 4 ", (2, 3, 4)),
    ],
)
def test_image_ids(text, ids):
    assert parse_ids(text) == ids


@given(st.sets(st.integers(0, 300), min_size=1))
def test_ids_written_in_any_way_are_the_same_selection(ids):
    assert parse_ids(", ".join(map(str, ids))) == parse_ids(list(ids)) == tuple(sorted(ids))


@given(st.sets(st.integers(0, 300), min_size=1))
def test_ids_in_short_are_the_same_ids(ids):
    assert parse_ids(as_ranges(sorted(ids))) == tuple(sorted(ids))


def test_ids_in_short():
    assert as_ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"


def test_numbers_in_names_count_as_numbers():
    assert sorted(["resnet110", "resnet20", "lenet", "2", "10"], key=natural) == [
        *("2", "10", "lenet", "resnet20", "resnet110")
    ]


def test_lists_whose_order_means_nothing_have_one_order():
    study = deepcopy(GOOD)
    study["networks"] |= {"net110": {"architecture": "resnet110"}, "net20": {"architecture": "resnet20"}}
    study["runs"][0] |= {"networks": ["net110", "lenet", "net20", "lenet"], "images": [9, 7, 8, 2, 2]}
    study["figures"] = {"strips": ["success", 30, 4], "strip_layers": ["b", "a"]}
    study["propagation"] = {"layers": ["fc", "conv*", "fc"]}
    read = parse(study, "study.yaml")
    assert read.runs[0].networks == ("lenet", "net20", "net110")
    assert read.runs[0].images == "2, 7-9"
    assert read.figures.strips == (4, 30, "success")
    assert read.figures.strip_layers == ("a", "b")
    assert read.propagation.layers == ("conv*", "fc")


@pytest.mark.parametrize(
    ("attack", "idle"),
    [
        ({}, {"true_threshold", "target_threshold"}),
        ({"stop": "threshold"}, {"target_threshold"}),
        ({"stop": "threshold", "target": "all"}, {"true_threshold"}),
        ({"stop": "threshold", "variant": "best1bin"}, {"target_threshold", "colour_mean", "colour_std"}),
        ({"method": "random_search"}, {"true_threshold", "target_threshold"}),
        ({"method": "random_search", "stop": "budget"}, {"target_threshold"}),
        ({"stop": "budget", "target": 3}, {"true_threshold"}),
        ({"method": "scan"}, {"levels", "palette_size", "refine_budget"}),
        ({"method": "scan", "colours": "grid", "refine": 1}, {"palette_size"}),
        ({"method": "scan", "colours": "palette", "refine": 1}, {"levels"}),
    ],
)
def test_keys_that_make_no_difference(attack, idle):
    assert parse(changed(["attacks", "de"], attack), "study.yaml").attacks["de"].idle == idle


def test_canonical_json_depends_on_values_alone():
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1}) == '{"a":1,"b":2}'
    assert canonical({"a": 2, "b": 1}) != canonical({"a": 1, "b": 2})


NETWORKS = ROOT / "config" / "networks.yaml"
STUDIES = sorted(set((ROOT / "config").glob("*.yaml")) - {NETWORKS})


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.name)
def test_configurations_that_come_with_onepix_are_valid(file):
    assert load(file).runs


def test_later_files_add_to_earlier_ones_as_snakemake_does():
    joined = load(NETWORKS, ROOT / "config" / "config.yaml")
    assert {"lenet", "resnet20", "resnet1202-akamaster", "lenet-keras"} <= set(joined.networks)
    assert joined.runs == load(ROOT / "config" / "config.yaml").runs


def test_the_schema_in_the_repository_is_the_models():
    assert (ROOT / "workflow/schemas/config.schema.json").read_text() == json_schema()
    assert json.loads(json_schema())["additionalProperties"] is False
