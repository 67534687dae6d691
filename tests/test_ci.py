"""The commands of continuous integration and of pre-commit are those of README, .ci/run and the Makefile."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def lines(pattern, file):
    return [line.strip() for line in re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)]


TWO_COMMANDS = lines(r"^\$ (make \w+) .*$", "README.md")
BEFORE_LANDING = lines(r"^make [\w-]+", ".ci/run")
CHECKS = lines(r"^\t(.+)$", "Makefile")
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
(JOB,) = WORKFLOW["jobs"].values()


def test_continuous_integration_runs_readmes_commands_and_all_of_ci_run():
    assert TWO_COMMANDS == ["make run", "make test"]
    assert BEFORE_LANDING[0] == "make test"
    commands = [step["run"] for step in JOB["steps"] if "run" in step]
    assert commands == [*TWO_COMMANDS, *BEFORE_LANDING[1:]]


def test_make_knows_every_target():
    targets = set(lines(r"^([a-z-]+):", "Makefile"))
    assert {word for command in [*TWO_COMMANDS, *BEFORE_LANDING] for word in command.split()[1:]} <= targets


def test_it_runs_on_the_oldest_python_that_is_supported_and_on_the_newest():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest, newest = JOB["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={oldest}"
    assert newest == "3.x"


def test_pre_commit_downloads_nothing_and_runs_checks_of_make_test():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"] in CHECKS
    assert {hook["entry"].split()[0] for hook in repository["hooks"]} == {"ruff", "snakefmt", "mypy", "lint-imports"}
