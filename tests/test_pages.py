"""The pages name what is there: files, modules, rules and wings."""

import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

import onepix
from onepix.jobs.__main__ import RULES

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/cluster.md",
    "docs/imagenet.md",
    "config/README.md",
)
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b")  # as in onepix/jobs/RULE.py
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_files_and_modules_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text()
    named = re.findall(r"(?<![\w/.:-])(?:onepix|workflow|config|docs|benchmarks|tests)/[\w./-]*\w", text)
    named = [path for path in named if not PLACEHOLDER.search(path.replace("README", ""))]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert named or links
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    modules = re.findall(r"\bonepix\.[a-z_0-9.]*[a-z_0-9]", text)
    assert [name for name in modules if not importable(name)] == []


def importable(name):
    """Tell whether a dotted name is a module or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_table_of_rules_is_that_of_the_workflow():
    declared = re.compile(r"^(?:rule|checkpoint) (\w+):", re.MULTILINE)
    rules = [rule for file in (ROOT / "workflow/rules").glob("*.smk") for rule in declared.findall(file.read_text())]
    table = ARCHITECTURE.partition("| rule | jobs |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == sorted(rules) == sorted(RULES)


def test_the_floors_are_those_of_the_import_contract():
    table = ARCHITECTURE.partition("| floor | wing |")[2].partition("\n\n")[0]
    floors = {}
    for floor, wings in re.findall(r"^\| (\d+) \| ([^|]+) \|", table, re.MULTILINE):
        floors.setdefault(int(floor), set()).update(re.findall(r"`(\w+)(?:/|\.py)`", wings))
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    expected = [set(layer.split(" | ")) for layer in layers if layer != "__main__"]
    assert [floors[floor] for floor in sorted(floors, reverse=True)] == expected


def test_the_version_is_the_same_everywhere():
    version = onepix.__version__
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version
    newest = re.search(
        r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert newest[1] == version
