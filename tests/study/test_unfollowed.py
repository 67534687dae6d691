"""What is not followed in a network stands in `onepix check`, in the manifest of the maps, and in the report."""

import json

import pandas as pd
import pytest
from html_pages import Page

from onepix.config.study import parse
from onepix.datasets.arrays import save_arrays
from onepix.datasets.bundled import load_bundled
from onepix.jobs import attack, datasets, networks, propagation, provenance
from onepix.study import check_table
from onepix.study.check import CheckedPair, _row

FACTORY = """
import torch
from torch import nn
import torch.nn.functional as F

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 4)
        self.head = nn.Linear(4, 10)

    def forward(self, images):
        maps = F.interpolate(self.conv(images), scale_factor=2)
        return self.head((maps * maps.mean(1, keepdim=True)).amax((2, 3)))

def network():
    torch.manual_seed(0)
    return Network()
"""
MINE = {"architecture": "scaling_up:network", "weights": "factory", "mean": [0.5] * 3, "std": [0.25] * 3}
LISTED = ["interpolate()", "mean()", "mul()"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("onepix.study.check.TRIED", 0.01)
    (tmp_path / "scaling_up.py").write_text(FACTORY)
    save_arrays(load_bundled().select([0, 1]), tmp_path / "two.npz")
    return parse(
        {
            "datasets": {"two": {"source": "arrays", "path": "two.npz"}},
            "networks": {"mine": MINE},
            "attacks": {"de": {"population": 4, "generations": 0}},
            "runs": [{"dataset": "two", "networks": ["mine"], "attacks": ["de"], "images": "0-1"}],
        },
        "study.yaml",
    )


def test_check_lists_it(study, capsys):
    row = _row(study, "two", "mine", 2, False, 1)
    assert (row.fault, row.unfollowed) == ("", LISTED)
    assert check_table.show(study, [row]) == 0
    assert "two × mine: not followed, or not as maps: interpolate(), mean(), mul()\n" in capsys.readouterr().out
    check_table.show(study, [CheckedPair("two", "mine")])
    assert "not followed" not in capsys.readouterr().out


def test_the_manifest_and_the_report_list_it(study):
    layout, run = study.layout, ("two", "mine", "de")
    images, network = layout.dataset("two"), layout.network("mine")
    datasets.run(json.dumps({"dataset": study.datasets["two"].model_dump(mode="json")}), images)
    networks.run(json.dumps({"network": MINE}), network)
    records, maps = (layout.chunk(stage, run, "000000-000001") for stage in ("attack", "propagation"))
    engine = {"micro_batch": 8}
    settings = study.attacks["de"].model_dump(mode="json", exclude={"method"})
    attack.run(json.dumps({"attack": settings, "image_ids": [0, 1], "engine": engine}), images, network, records)
    propagation.run(json.dumps({"layers": "auto", "engine": engine}), images, network, records, maps)
    assert json.loads(maps.read_text())["unfollowed"] == LISTED
    table = layout.results / "provenance.csv"
    provenance.run([images, records, maps], table)
    assert pd.read_csv(table)["unfollowed"].fillna("").tolist() == ["", "", "; ".join(LISTED)]
    assert "interpolate(); mean(); mul()" in table.with_suffix(".html").read_text()
    assert "details" in Page(table.with_suffix(".html")).tags
