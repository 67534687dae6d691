"""What a job depends on: found without importing anything, and held against what importing it loads."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import onepix
from onepix.config.attacks import DifferentialEvolution
from onepix.config.engine import Engine
from onepix.files.closure import closure
from onepix.files.manifests import source_digest
from onepix.jobs import __main__ as jobs
from onepix.jobs import attack

LIBRARY = Path(onepix.__file__).parent
# Imports modules one after the other, each as if it were the first; prints what each loads, and whether torch is there.
LOADED = """
import importlib, json, sys
for module in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split(".")[0] == "onepix"]:
        del sys.modules[name]
    importlib.import_module(module)
    ours = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "onepix"]
    print(json.dumps([ours, "torch" in sys.modules]))
"""
WITH_NETWORKS = (
    *("attack", "controls", "locality", "networks", "propagation", "receptive_fields", "training", "transfer"),
)


def names(module):
    return {file.relative_to(Path(onepix.__file__).parent).as_posix() for file in closure(module)}


@pytest.fixture
def library(tmp_path):
    """Copy the library, and have its copy taken for the one that is imported."""
    copy = shutil.copytree(LIBRARY, tmp_path / "onepix", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    with mock.patch.object(onepix, "__file__", str(copy / "__init__.py")):
        yield copy


@pytest.fixture
def made(tmp_path):
    """Return a function: write the modules of a small library, by name, in place of the real one."""

    def write(**modules):
        for name, text in {"__init__": "", **modules}.items():
            path = tmp_path / "small" / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "small"

    with mock.patch.object(onepix, "__file__", str(tmp_path / "small" / "__init__.py")):
        yield write


def test_every_way_to_import_a_module(made):
    made(
        a="import onepix.b\nfrom onepix import c\nfrom onepix.d import any\ndef f():\n    from onepix.e import g\n",
        **dict.fromkeys("bcdefgh", ""),
        wing__in____init__="import onepix.h",
        wing__in__inner="import json, onepix.f",
        z="from onepix.wing.inner import one",
    )
    assert names("onepix.a") == {"__init__.py", "a.py", "b.py", "c.py", "d.py", "e.py"}
    assert names("onepix.z") == {"__init__.py", "z.py", "wing/__init__.py", "wing/inner.py", "f.py", "h.py"}


def test_what_is_imported_for_types_only_is_left_out(made):
    made(
        a="import typing\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onepix.b\nelse:\n"
        "    import onepix.c\nif typing.TYPE_CHECKING:\n    from onepix import d\nif True:\n    import onepix.e\n",
        **dict.fromkeys("bcde", ""),
    )
    assert names("onepix.a") == {"__init__.py", "a.py", "c.py", "e.py"}


def test_modules_may_import_each_other(made):
    made(a="import onepix.b", b="import onepix.a")
    assert names("onepix.a") == names("onepix.b") == {"__init__.py", "a.py", "b.py"}


def test_an_edited_file_is_parsed_anew(made):
    folder = made(a="import onepix.b", b="", c="")
    assert "c.py" not in names("onepix.a")
    (folder / "b.py").write_text("import onepix.c")
    assert "c.py" in names("onepix.a")


@pytest.mark.usefixtures("library")
def test_a_file_is_parsed_once():
    with mock.patch("onepix.files.closure.ast.parse", wraps=ast.parse) as parse:
        found = [closure(f"onepix.jobs.{rule}") for rule in jobs.RULES]
        assert [closure(f"onepix.jobs.{rule}") for rule in jobs.RULES] == found
    assert parse.call_count == len({file for files in found for file in files})


def test_what_a_job_loads_is_in_its_closure_and_only_those_with_networks_load_torch():
    rules = sorted(jobs.RULES, key=lambda rule: rule in WITH_NETWORKS)
    command = [sys.executable, "-c", LOADED, *(f"onepix.jobs.{rule}" for rule in rules)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for rule, line in zip(rules, done.stdout.splitlines(), strict=True):
        loaded, with_torch = json.loads(line)
        assert {Path(file) for file in loaded} <= set(closure(f"onepix.jobs.{rule}")), rule
        assert with_torch == (rule in WITH_NETWORKS), rule


@pytest.mark.parametrize("rule", jobs.RULES)
def test_no_result_depends_on_how_commands_start_or_on_what_people_type(rule):
    assert not names(f"onepix.jobs.{rule}") & {"cli.py", "process.py", "notebook.py", "jobs/__main__.py"}


@pytest.mark.parametrize("section", ["figures", "study"])
def test_sections_of_the_configuration_that_only_some_need(section):
    rules = {rule for rule in jobs.RULES if f"config/{section}.py" in names(f"onepix.jobs.{rule}")}
    assert rules == {"figures": {"configuration", "figures"}, "study": {"configuration"}}[section]


def key_of_journal():
    job = attack.AttackJob(attack=DifferentialEvolution(), image_ids=(0,), engine=Engine())
    return attack._journal(job, Path("run/attack/000000-000024.json"), {"inputs": {}}).path


def test_a_key_for_figures_leaves_a_journal_valid(library):
    before, of_figures = key_of_journal(), source_digest("onepix.jobs.figures")
    section = library / "config" / "figures.py"
    text = section.read_text()
    section.write_text(
        text.replace("A Matplotlib colour map.", "A colour map of Matplotlib.") + "    grid: bool = False\n"
    )
    assert key_of_journal() == before
    assert source_digest("onepix.jobs.figures") != of_figures


@pytest.mark.parametrize("module", ["engine/evaluator.py", "attacks/search.py", "jobs/attack.py", "__init__.py"])
def test_an_edit_of_what_an_attack_runs_makes_another_journal(library, module):
    before = key_of_journal()
    file = library / module
    text = file.read_text()
    file.write_text(text + "# edited\n")
    assert key_of_journal() != before
    file.write_text(text)
    assert key_of_journal() == before


def test_the_digest_depends_on_names_too(made):
    digests = set()
    for name in ("b", "c"):
        folder = made(a=f"from onepix import {name:>1}", **{name: ""})
        digests.add(source_digest("onepix.a"))
        (folder / f"{name}.py").unlink()
    made(a="from onepix import b ", b="")
    assert source_digest("onepix.a") not in digests
    assert len(digests) == 2
