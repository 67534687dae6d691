"""The configuration of a study is recorded whole, and can be read again."""

import json

import pytest
import yaml
from html_pages import HOSTILE, Page
from inside import plan
from snakemake.common.configfile import load_configfile
from studies import ROOT

from onepix.config.reading import canonical
from onepix.config.study import load, parse
from onepix.jobs import configuration


def recorded(config, tmp_path):
    configuration.run(canonical(config.model_dump(mode="json")), tmp_path / "configuration.yaml")
    return tmp_path / "configuration.yaml"


def test_the_configuration_is_recorded_whole(finished_study):
    path = finished_study.folder / "results/configuration.yaml"
    found, wanted = load(path), parse(finished_study.CONFIG, "study")
    assert found.model_copy(update={"runs": ()}) == wanted.model_copy(update={"runs": ()})
    assert sorted(found.runs, key=repr) == sorted(wanted.runs, key=repr), "their order means nothing"
    values = yaml.safe_load(path.read_text())
    assert values["attacks"]["de"]["generations"] == 4
    assert values["statistics"]["permutations"] == 999, "a default"
    assert plan(finished_study.folder, values) == {}, "Snakemake, too, reads it as the same configuration"


@pytest.mark.parametrize("name", ["config.yaml", "paper.yaml", "imagenet.yaml"])
def test_a_configuration_survives_the_round_trip(name, tmp_path):
    config = load(ROOT / "config/networks.yaml", ROOT / "config" / name)
    path = recorded(config, tmp_path)
    assert load(path) == config
    assert parse(json.loads(json.dumps(load_configfile(path))), "as Snakemake reads it") == config


def test_text_that_looks_like_something_else_survives(tmp_path):
    names = ["1e3", "1e5", "yes", "null", "~", "0x1f", "1:30", " a", "#x", "- x", "é", "2001-01-01", "!!python/name:os"]
    names += ["1e-3", "1_0", "0o7", "010", "on", "10:49", "<<", ".inf"]
    values = {
        "datasets": {"1e3": {"source": "arrays", "path": "012345678", "class_names": names}},
        "networks": {"0": {"architecture": "lenet", "weights": "1_0", "sha256": "12345678"}},
        "attacks": {"no": {}},
        "runs": [{"dataset": "1e3", "networks": ["0"], "attacks": ["no"], "images": 7}],
    }
    config = parse(values, "study")
    path = recorded(config, tmp_path)
    assert load(path) == config
    assert parse(load_configfile(path), "as Snakemake reads it") == config


def test_the_page_shows_the_same_and_runs_nothing(finished_study, tmp_path):
    """The report shows it; what it quotes is text, also where it looks like HTML."""
    path = finished_study.folder / "results/configuration.yaml"
    assert path.read_text() in Page(path.with_suffix(".html")).text
    config = finished_study.changed("datasets", "other", to={"source": "arrays", "path": HOSTILE})
    page = Page(recorded(parse(config, "study"), tmp_path).with_suffix(".html"))
    assert HOSTILE in page.text
    assert "script" not in page.tags
    assert "img" not in page.tags


def test_nothing_in_the_parameters_of_a_rule_ends_a_script(finished_study):
    """Snakemake's report puts them into a script of its page."""
    config = finished_study.changed("datasets", "other", to={"source": "arrays", "path": "</script><!--"})
    text = canonical(parse(config, "study").model_dump(mode="json"))
    assert "<" not in text
    assert parse(json.loads(text), "study") == parse(config, "study")
