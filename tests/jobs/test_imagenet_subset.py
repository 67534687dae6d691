"""A few WordNet ids on a network of ImageNet's 1,000 classes: every job means the network's outputs by labels."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from pictured import written

from onepix.analysis.positions import read_positions
from onepix.datasets.arrays import read_images
from onepix.datasets.class_names import for_network
from onepix.files.manifests import read_manifest
from onepix.files.records import stored_records
from onepix.jobs import attack, datasets, locality, networks, transfer

SPRINGER, PARACHUTE = 217, 701
FACTORY = """
import torch
from torch import nn

class Red(nn.Module):
    '''Class 217, unless the reddest pixel has more than half of the full red: then 701.'''

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.linear = nn.Linear(3, 1000)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, -9.0)
        with torch.no_grad():
            self.linear.bias[217], self.linear.bias[701] = 5.0, 0.0
            self.linear.weight[701, 0] = 10.0

    def forward(self, x):
        return self.linear(self.pool(x).flatten(1))
"""
SCAN = {"method": "scan", "colours": "extremes", "stop": "first"}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The manifests of a dataset of two WordNet ids, of the network, and of an attack on all images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "thousand_classes.py").write_text(FACTORY)
    dark, red = np.full((6, 5, 3), 20, np.uint8), np.full((6, 5, 3), (200, 10, 10), np.uint8)
    written(tmp_path / "pictures" / "n02102040" / "a.png", dark)
    written(tmp_path / "pictures" / "n03888257" / "a.png", red)
    made = {name: tmp_path / name / "manifest.json" for name in ("nette", "thousand")}
    made["attack"] = tmp_path / "nette" / "thousand" / "red" / "attack" / "000000-000001.json"
    datasets.run(json.dumps({"dataset": {"source": "folder", "path": "pictures"}}), made["nette"])
    entry = {"architecture": "thousand_classes:Red", "weights": "factory", "mean": [0.0] * 3, "std": [1.0] * 3}
    networks.run(json.dumps({"network": entry}), made["thousand"])
    settings = {"attack": SCAN, "image_ids": [0, 1], "engine": {"device": "cpu"}}
    attack.run(json.dumps(settings), made["nette"], made["thousand"], made["attack"])
    yield made
    sys.modules.pop("thousand_classes", None)


def test_labels_are_the_networks_outputs_in_every_job(study, tmp_path):
    records = stored_records([study["attack"]])
    assert records["label"].tolist() == [SPRINGER, PARACHUTE]
    assert records["classes"].tolist() == [1000, 1000]
    assert records["eligible"].tolist() == [True, True], "both are classified as their folders say"
    assert records["adversarial_class"][0] == PARACHUTE
    assert records["success"].tolist()[0]

    where = tmp_path / "nette" / "thousand" / "red" / "locality" / "000000-000001.json"
    locality.run(json.dumps({"engine": {"device": "cpu"}}), study["nette"], study["thousand"], study["attack"], where)
    positions = read_positions([where])
    assert positions.flips.all(), "a red pixel flips the class wherever it stands"

    table = tmp_path / "transfer.csv"
    settings = {"target": "thousand", "seed": 0, "engine": {"device": "cpu"}}
    transfer.run(json.dumps(settings), study["nette"], study["thousand"], [study["attack"]], table)
    assert pd.read_csv(table)[["image_id", "flips", "moved"]].to_numpy().tolist() == [[0, True, True]]


def test_the_dataset_keeps_its_own_names_and_notes(study):
    manifest = read_manifest(study["nette"])
    assert (manifest["class_names"], manifest["notes"]) == (["n02102040", "n03888257"], [])
    images = read_images(study["nette"])
    assert for_network(images, 2).labels.tolist() == [0, 1]
    assert for_network(images, 1000).class_names[PARACHUTE] == "parachute"
