"""What is installed: the conda environment and the lock are in step with pyproject.toml."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from studies import ROOT


def test_conda_environment_is_in_step_with_pyproject():
    conda_names = {"matplotlib": "matplotlib-base", "torch": "pytorch"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"python": project["requires-python"], "nodejs": ">=20"}
    for requirement in project["dependencies"]:
        name, version = re.fullmatch(r"([a-z0-9-]+)(.*)", requirement).groups()
        wanted[conda_names.get(name, name)] = version
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert dict(entry.split(" ", 1) for entry in environment["dependencies"]) == wanted


def test_the_lock_satisfies_pyproject():
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^\s;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(requirement)
        assert wanted.specifier.contains(locked[wanted.name]), requirement
