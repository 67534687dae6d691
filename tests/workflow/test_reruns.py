"""Which rules run again after which change: every key of the configuration, by dry runs in this process.

The small study has been run for real; in the wide one, files stand in for results, and Snakemake is told that they are.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from inside import plan, pretend, workflow
from reruns import (
    ALWAYS,
    ATTACKS,
    CHANGES,
    CHARTS,
    FIELDS,
    MAPS,
    OWN_FILES,
    SHARING,
    SMALL,
    STUDIES,
    SUMMARY,
    TRACE,
    WIDE,
    changed,
    keys,
    page,
)
from studies import ROOT, Study, new_study

from onepix.config.reading import canonical


def wide_copy(folder, config, chosen):
    """Make a study of stand-ins; `chosen` lists the ids that rules would choose."""
    new_study(folder)
    for name, contents in {**OWN_FILES, **chosen}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(contents)
    if chosen:
        pretend(folder, config, *chosen)
    pretend(folder, config)
    return folder


@pytest.fixture(scope="session")
def wide_study(tmp_path_factory):
    """Return a folder with a study of every kind of dataset, network, attack and selection."""
    chosen = {name: ids for name, ids in OWN_FILES.items() if name.startswith("data/")}
    folder = wide_copy(tmp_path_factory.mktemp("wide") / "study", WIDE, chosen)
    assert plan(folder, WIDE) == {}
    return folder


@pytest.fixture
def folder_of(request):
    """Return a function: a study's folder, made when it is asked for. Tests must leave it as it was."""
    made = {"small": lambda: request.getfixturevalue("finished_study").folder}
    made["wide"] = lambda: request.getfixturevalue("wide_study")
    return lambda name: made[name]()


def test_the_table_is_of_the_studies_that_are_tested():
    assert Study.CONFIG == SMALL


def test_every_key_has_an_entry():
    assert not set(keys()) - {change.key for change in CHANGES}
    assert {change.key for change in CHANGES} - set(keys()) == {"networks.NAME"}, "a network that no run names"


def test_the_page_is_the_tables():
    assert (ROOT / "docs" / "reruns.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.key}-{change.study}")
def test_a_key_changes(folder_of, tmp_path, change):
    """Exactly these jobs run; of images chosen by a rule, the rule first, and then exactly these."""
    folder, jobs = folder_of(change.study), dict(change.outcome.jobs)
    if change.chosen:
        assert plan(folder, change.config)["selection"] == jobs.pop("selection")
        folder = Path(shutil.copytree(folder, tmp_path / "study"))
        for name, ids in change.chosen.items():
            (folder / name).write_text(ids)
        pretend(folder, change.config, *change.chosen)
    assert plan(folder, change.config) == {**jobs, **ALWAYS}


@pytest.mark.parametrize("name", ["small", "wide"])
def test_each_rule_has_at_most_one_parameter_and_it_is_canonical_json(folder_of, name):
    with workflow(folder_of(name), STUDIES[name]) as planned:
        for rule in planned.rules:
            assert len(rule.params) == len(list(rule.params.keys()))
            assert set(rule.params.keys()) <= {"settings"}, rule.name
        for job in planned.dag.jobs:
            for settings in job.params:
                assert settings == canonical(json.loads(settings)), job.rule.name
            assert planned.persistence.has_metadata(job) or not job.output


def turned(values):
    """Return settings with all tables in the opposite order."""
    if isinstance(values, dict):
        return {key: turned(value) for key, value in reversed(values.items())}
    return [turned(value) for value in values] if isinstance(values, list) else values


@pytest.mark.parametrize("name", ["small", "wide"])
def test_the_order_of_keys_and_runs_means_nothing(folder_of, name):
    config = turned(STUDIES[name])
    config["runs"].reverse()
    assert plan(folder_of(name), config) == {}


def test_comments_and_defaults_written_out_mean_nothing(finished_study):
    config = changed(
        SMALL,
        {
            ("attacks", "de", "differential_weight"): 0.5,
            ("attacks", "de", "method"): "differential_evolution",
            ("networks", "lenet", "weights"): "bundled",
            ("engine", "device"): "auto",
            ("figures", "strips"): ["success", "failure"],
            ("propagation", "layers"): "auto",
            ("data",): "./data",
        },
    )
    text = yaml.safe_dump(config, indent=4, default_flow_style=False)
    assert plan(finished_study.folder, "# A comment.\n" + text.replace("\n", "  # Another one.\n", 1)) == {}


def test_the_order_of_lists_and_the_spelling_of_images_mean_nothing(tmp_path):
    """Of networks and attacks within a run too; numbers in names count as numbers."""
    config = {
        **{"datasets": {"sample": {"source": "bundled"}}, "images_per_job": 4},
        "networks": {"net110": {"architecture": "resnet110"}, "net20": {"architecture": "resnet20"}},
        "attacks": {"scan": {"method": "scan"}, "de": {}},
        "runs": [{"dataset": "sample", "networks": ["net20", "net110"], "attacks": ["de", "scan"], "images": "0-2,9"}],
        "propagation": {"layers": ["*conv*", "linear"]},
        "figures": {"strips": ["success", 9, 2], "strip_layers": ["conv1", "linear"]},
    }
    folder = wide_copy(tmp_path / "study", config, {})
    edits = {
        ("runs", 0, "networks"): ["net110", "net20"],
        ("runs", 0, "attacks"): ["scan", "de"],
        ("propagation", "layers"): ["linear", "*conv*", "linear"],
        ("figures", "strips"): [2, 9, "success"],
        ("figures", "strip_layers"): ["linear", "conv1"],
    }
    for images in ("0-2, 9", "9, 0-1, 2", [9, 0, 2, 1, 1]):
        assert plan(folder, changed(config, {**edits, ("runs", 0, "images"): images})) == {}
    apart = {**config["runs"][0], "networks": ["net110"]}, {**config["runs"][0], "networks": ["net20"]}
    assert plan(folder, {**config, "runs": apart}).keys() == {"configuration", "all"}, "the same runs"
    with workflow(folder, config) as planned:
        (rule,) = (rule for rule in planned.rules if rule.name == "provenance")
        (job,) = (job for job in planned.dag.jobs if job.rule is rule)
        networks = [Path(file).parent.name for file in job.input if "networks" in file]
    assert networks == ["net20", "net110"]


def test_other_ids_in_the_same_file(wide_study, tmp_path):
    """The ids count, and not how they are written."""
    folder = Path(shutil.copytree(wide_study, tmp_path / "study"))
    (folder / "ids.txt").write_text("# The same.\n3\n0, 1-2\n")
    assert plan(folder, WIDE) == {}
    (folder / "ids.txt").write_text("0-2\n")
    assert plan(folder, WIDE)["attack"] == 1


POSITION_MAPS = {"locality": 3, "controls": 3, **SUMMARY, **SHARING, **TRACE}
DRAWN_FIELDS = {"receptive_fields": 2, "tables": 1, "charts": 1, **TRACE}
DRAWN = {"figures": 2, "sharing_figures": 1, **CHARTS}
RECORDED = {"figures": 2, "configuration": 1}
COMMENT = ('"""\n', '"""  # edited\n')  # files are compared by content


@pytest.mark.parametrize(
    ("module", "edit", "jobs"),
    [
        ("attacks/differential_evolution.py", COMMENT, ATTACKS),
        ("jobs/attack.py", COMMENT, ATTACKS),
        ("engine/evaluator.py", COMMENT, {**ATTACKS, **FIELDS}),
        ("pixels.py", COMMENT, {**ATTACKS, **FIELDS}),
        ("layers/propagation.py", COMMENT, {**MAPS, **SUMMARY, **TRACE}),
        ("attacks/position_maps.py", COMMENT, POSITION_MAPS),
        ("layers/effective_field.py", COMMENT, DRAWN_FIELDS),
        ("analysis/sharing.py", COMMENT, SHARING),
        ("figures/depth.py", COMMENT, {"figures": 2}),
        ("figures/style.py", COMMENT, DRAWN),
        ("jobs/summary.py", COMMENT, SUMMARY),
        ("config/figures.py", ("A Matplotlib colour map.", "A colour map of Matplotlib."), RECORDED),
        ("config/figures.py", ("    dpi: int", "    grid: bool = False\n    dpi: int"), RECORDED),
        ("config/study.py", COMMENT, {"configuration": 1}),
        ("files/records.py", ('Format("attack records", 3)', 'Format("attack records", 4)'), {**ATTACKS, **TRACE}),
        ("process.py", COMMENT, {}),
        ("jobs/__main__.py", COMMENT, {}),
        ("cli.py", COMMENT, {}),
    ],
)
def test_a_module_is_edited(study_copy, module, edit, jobs):
    """What depends on it runs again, and nothing else: of a section of the configuration, what is told its values."""
    file, (before, after) = study_copy.folder / "onepix" / module, edit
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    assert plan(study_copy.folder, SMALL) == (jobs and {**jobs, "all": 1})


def test_results_of_another_version_are_told_at_the_start(study_copy, capsys):
    """Then they are made anew: see files/records.py above."""
    for chunk in ("lenet/de/attack/000000-000003", "resnet20/de/attack/000000-000003"):
        manifest = {"data": "x", "sha256": "", "format": "attack records", "version": 0}
        (study_copy.folder / f"results/sample/{chunk}.json").write_text(json.dumps(manifest))
    with workflow(study_copy.folder, SMALL):
        pass
    assert capsys.readouterr().err.splitlines()[0] == (
        "onepix: 2 results hold attack records of version 0, expected version 3: "
        "these and all results made from them will be made again"
    )


def test_a_comment_in_the_rules_means_nothing(study_copy):
    for file in (study_copy.folder / "workflow" / "rules").glob("*.smk"):
        file.write_text(file.read_text().replace("    output:\n", "    # A comment.\n    output:\n"))
    assert plan(study_copy.folder, SMALL) == {}
