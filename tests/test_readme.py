"""What the README shows can be run."""

import re
import subprocess
import sys

import pytest
import yaml
from studies import ROOT

from onepix.config.study import parse

TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


PRINTED = {"reading results": "reach", "in a notebook": "adversarial_class", "wrapping a network": ""}


@pytest.mark.parametrize(
    ("snippet", "printed"), list(zip(blocks("python"), PRINTED.values(), strict=True)), ids=list(PRINTED)
)
def test_snippets_run(snippet, printed, finished_study):
    snippet = snippet.replace("results/cifar10-sample/resnet20/scan", "results/sample/resnet20/de")
    run = subprocess.run(
        [sys.executable, "-c", snippet], cwd=finished_study.folder, text=True, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert printed in run.stdout


def test_the_example_configuration_is_valid():
    (text,) = blocks("yaml")
    assert len(parse(yaml.safe_load(text), "README.md").runs) == 3


def test_every_key_is_explained():
    explained = (ROOT / "config/README.md").read_text()
    schema = (ROOT / "workflow/schemas/config.schema.json").read_text()
    keys = set(re.findall(r'^ {8}"(\w+)": \{$|^ {4}"(\w+)": \{$', schema, re.MULTILINE))
    names = {name for pair in keys for name in pair if name and name.islower()}
    assert len(names) > 30
    assert [name for name in sorted(names) if f"{name}" not in explained] == []
