"""A wheel takes the workflow along, laid out as in the repository."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TAKEN = ("Snakefile", "environment.yml", "config", "workflow")
SHARE = "onepix-{version}.data/data/share/onepix/"


def files_below(path):
    found = [path] if path.is_file() else path.rglob("*")
    return {file.relative_to(ROOT).as_posix() for file in found if file.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*TAKEN, "onepix", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, source]
    run = subprocess.run(command, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    with zipfile.ZipFile(*folder.glob("*.whl")) as archive:
        yield archive


def test_the_workflow_is_in_it(wheel):
    version = wheel.filename.rsplit("/", 1)[1].split("-")[1]
    share = SHARE.format(version=version)
    inside = {name.removeprefix(share) for name in wheel.namelist() if name.startswith(share)}
    expected = set().union(*(files_below(ROOT / name) for name in TAKEN))
    assert len(expected) > 30
    assert inside == expected
    for name in ("Snakefile", "workflow/rules/common.smk"):
        assert wheel.read(share + name) == (ROOT / name).read_bytes()


def test_the_library_is_in_it_and_nothing_else_is(wheel):
    modules = {f"onepix/{file.relative_to(ROOT / 'onepix').as_posix()}" for file in (ROOT / "onepix").rglob("*.py")}
    inside = set(wheel.namelist())
    assert {name for name in inside if name.endswith(".py")} == modules
    assert {"onepix/py.typed", "onepix/__init__.pyi", "onepix/assets/lenet.safetensors"} <= inside
    assert {name.split("/")[0].split("-")[0] for name in inside} == {"onepix"}
