"""`onepix check` of networks that a user brings: what is taken of weights, and what factories fetch."""

import importlib
import io
import sys
from pathlib import Path

import pytest
import torch
from checks import check_in_this_process
from rich.console import Console

from onepix.config.study import parse
from onepix.study import check_table
from onepix.study.check import check

MODULE = """
import urllib.request
from torch import nn

def make(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

def downloads():
    urllib.request.urlopen("http://weights.example.org/file", timeout=1)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    check_in_this_process(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("checked_networks.py").write_text(MODULE)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("checked_networks", None)


def test_what_is_taken_left_over_and_to_be_fetched(monkeypatch):
    import checked_networks

    own = checked_networks.make().state_dict()
    ema = {f"module.{name}": tensor for name, tensor in own.items()}
    torch.save({"model": own, "ema": ema, "loss": {"weight": torch.ones(3)}}, "mine.pth")
    Path("pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    common = {"mean": 0.5, "std": 0.25}
    make = {"architecture": "checked_networks:make", **common}
    networks = {
        "plainest": {**make, "weights": "mine.pth"},
        "chosen": {**make, "weights": "mine.pth", "weights_key": "ema"},
        "wider": {**make, "weights": "factory", "arguments": {"width": 6}},
        "wrong": {**make, "weights": "factory", "arguments": {"depth": 6}},
        "fetched": {"architecture": "checked_networks:downloads", "weights": "factory", **common},
        "pointer": {**make, "weights": "pointer.pth"},
    }
    values = {
        "datasets": {"sample": {"source": "bundled"}},
        "networks": networks,
        "attacks": {"a": {"population": 8, "generations": 1}},
        "runs": [{"dataset": "sample", "networks": list(networks), "attacks": ["a"], "images": 0}],
    }
    config = parse(values, "study.yaml")
    said = io.StringIO()
    monkeypatch.setattr(check_table, "wide_console", lambda: Console(file=said, width=250))
    rows = {row.network: row for row in check(config)}
    assert check_table.show(config, rows.values()) == 2
    assert {name: row.fault for name, row in rows.items() if name not in ("wrong", "pointer")} == dict.fromkeys(
        ("plainest", "chosen", "wider", "fetched"), ""
    )
    assert "got an unexpected keyword argument 'depth'; it takes (width=4)" in rows["wrong"].fault
    lines = said.getvalue().splitlines()
    for line in (
        "weights of plainest: taken: the tensors of model; the tensors of ema.module would fit, too (weights_key "
        "chooses); left over: 1 tensor (loss.weight)",
        "weights of chosen: taken: the tensors of ema.module; left over: 5 tensors (model.0.weight, model.0.bias, "
        "model.3.weight, …)",
        "to be fetched: fetched: network architecture 'checked_networks:downloads': its factory would download from "
        "weights.example.org",
    ):
        assert line in lines
    assert any(line.startswith("sample × pointer: pointer.pth: it is a pointer of Git LFS") for line in lines)
