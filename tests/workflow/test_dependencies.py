"""An edit of the library reruns what depends on it: dry runs of a study whose results are stand-ins."""

import contextlib
import json
import shutil
from pathlib import Path
from unittest import mock

import pytest
import yaml
from conftest import ROOT
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

import onepix

CONFIG = {
    "datasets": {"sample": {"source": "bundled"}},
    "networks": {"lenet": {"architecture": "lenet"}, "resnet20": {"architecture": "resnet20"}},
    "attacks": {"de": {"population": 4, "generations": 1}},
    "runs": [{"dataset": "sample", "networks": ["lenet", "resnet20"], "attacks": ["de"], "images": "0-3"}],
}


@contextlib.contextmanager
def workflow(folder, executor="dryrun"):
    """Give the workflow after a dry run, or after touching all outputs; its library is the one in the folder."""
    quiet = OutputSettings(dryrun=executor == "dryrun", quiet=frozenset({Quietness.ALL}), enable_file_logging=False)
    with mock.patch.object(onepix, "__file__", str(folder / "onepix" / "__init__.py")), SnakemakeApi(quiet) as api:
        settings = ConfigSettings(configfiles=[folder / "study.yaml"])
        study = api.workflow(ResourceSettings(cores=2), settings, snakefile=folder / "Snakefile", workdir=folder)
        study.dag(DAGSettings(forceall=executor == "touch")).execute_workflow(executor=executor)
        yield study._workflow


def to_run(folder):
    with workflow(folder) as planned:
        return {job.rule.name for job in planned.dag.needrun_jobs(exclude_finished=False)} - {"all"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a folder with a study in which a file stands in for each result."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    folder.mkdir()
    for name in ("workflow", "onepix"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "Snakefile", folder)
    shutil.copy2(ROOT / "environment.yml", folder)
    (folder / "study.yaml").write_text(yaml.safe_dump(CONFIG))
    with workflow(folder) as planned:
        outputs = [folder / output for job in planned.dag.jobs for output in job.output]
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(output.name)
    with workflow(folder, "touch"):
        pass
    return folder


@pytest.fixture
def study(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "study"))


OF_SUCCESSES = {"propagation", "locality", "controls", "transfer", "summary", "tables", "sharing"}
DRAWN = {"figures", "charts", "sharing_figures"}


@pytest.mark.parametrize(
    ("module", "before", "after", "rules"),
    [
        ("config/figures.py", "A Matplotlib colour map.", "A colour map of Matplotlib.", {"figures", "configuration"}),
        ("config/figures.py", "    dpi: int", "    grid: bool = False\n    dpi: int", {"figures", "configuration"}),
        ("config/study.py", '"""A study."""', '"""A whole study."""', {"configuration"}),
        ("figures/style.py", '"""\n', '"""  # edited\n', DRAWN),
        (
            "engine/evaluator.py",
            '"""\n',
            '"""  # edited\n',
            {"attack", "receptive_fields", "provenance", *OF_SUCCESSES, *DRAWN},
        ),
        ("process.py", '"""\n', '"""  # edited\n', set()),
        ("jobs/__main__.py", '"""\n', '"""  # edited\n', set()),
        ("cli.py", '"""\n', '"""  # edited\n', set()),
    ],
)
def test_an_edit_reruns_what_depends_on_it(study, module, before, after, rules):
    file = study / "onepix" / module
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    assert to_run(study) == rules


def test_nothing_runs_without_an_edit(study):
    assert to_run(study) == set()


def test_results_of_another_version_are_told_at_the_start(study, capsys):
    for chunk in ("lenet/de/attack/000000-000024", "resnet20/de/attack/000000-000024"):
        manifest = {"data": "x", "sha256": "", "format": "attack records", "version": 0}
        (study / f"results/sample/{chunk}.json").write_text(json.dumps(manifest))
    with workflow(study):
        pass
    assert capsys.readouterr().err.splitlines()[0] == (
        "onepix: 2 results hold attack records of version 0, expected version 1: "
        "these and all results made from them will be made again"
    )


def test_a_version_is_raised_where_its_format_is_written(study):
    """Then what the line above says comes true."""
    file = study / "onepix" / "files" / "records.py"
    text = file.read_text()
    assert 'Format("attack records", 1)' in text
    file.write_text(text.replace('Format("attack records", 1)', 'Format("attack records", 2)'))
    assert {"attack", *OF_SUCCESSES, "figures"} <= to_run(study)
