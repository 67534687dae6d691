"""How the library is built, besides what the import contract (`lint-imports`) says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "onepix"
WINGS = sorted(path.parent for path in LIBRARY.glob("*/__init__.py"))


def test_few_modules_lie_beside_the_wings():
    assert len(list(LIBRARY.glob("*.py"))) <= 10


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
def test_a_wing_says_what_it_is_for_and_nothing_else(wing):
    body = ast.parse((wing / "__init__.py").read_text()).body
    assert [type(statement) for statement in body] == [ast.Expr]
    assert isinstance(body[0].value.value, str)


def test_what_draws_or_summarises_does_not_load_torch():
    """Nor do commands before they have set how PyTorch's threads wait."""
    rules = ("charts", "configuration", "figures", "provenance", "sharing", "sharing_figures", "summary", "tables")
    program = "import onepix.cli, onepix.jobs.__main__\n" + "\n".join(f"import onepix.jobs.{rule}" for rule in rules)
    program += "\nimport sys; print({'onepix.jobs.tables', 'torch', 'torchvision', 'snakemake'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=True)
    assert run.stdout.strip() == "{'onepix.jobs.tables'}"
