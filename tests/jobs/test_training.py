"""Jobs that the small study does not run: training, and fetching what was trained."""

import json

import numpy as np
import pandas as pd
import pytest

from onepix.errors import OnepixError
from onepix.files.manifests import checked_data, digest, write_manifest
from onepix.files.records import RECORDS, SCHEMA, write_records
from onepix.images import ImageSet
from onepix.jobs import datasets as fetch_dataset
from onepix.jobs import networks as fetch_network
from onepix.jobs import training as train
from onepix.jobs import transfer
from onepix.networks.training import accuracy
from onepix.networks.weights import load_network_file, read_metadata

RECIPE = {"epochs": 2, "batch_size": 16, "peak_learning_rate": 0.05}
NETWORK = {"architecture": "resnet8", "weights": "train", "recipe": RECIPE, "seed": 3}


@pytest.fixture
def tiny_cifar10(monkeypatch):
    generator = np.random.default_rng(0)
    sets = {
        split: ImageSet(
            generator.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8),
            generator.integers(0, 10, count),
            np.arange(count),
            tuple("abcdefghij"),
            "made by a test",
        )
        for split, count in (("train", 48), ("test", 40))
    }
    monkeypatch.setattr(train, "read_cifar10", lambda _folder, split: sets[split])
    return sets


def test_trained_weights_state_recipe_seed_and_accuracy(tiny_cifar10, tmp_path):
    output = tmp_path / "trained" / "mine.safetensors"
    reached = train.run(json.dumps({"network": NETWORK}), tmp_path, output)
    metadata = read_metadata(output)
    assert reached == accuracy(load_network_file(output), tiny_cifar10["test"], "cpu")
    assert metadata["test_accuracy"] == reached
    assert (metadata["architecture"], metadata["seed"]) == ("resnet8", 3)
    assert metadata["recipe"]["epochs"] == 2
    assert [file.name for file in output.parent.iterdir()] == ["mine.safetensors"], "the checkpoint has served"
    manifest = tmp_path / "networks" / "mine" / "manifest.json"
    entry = {key: NETWORK[key] for key in ("architecture", "weights")}  # the file says how it was trained
    fetch_network.run(json.dumps({"network": entry}), manifest, output)
    again = load_network_file(checked_data(manifest))
    assert accuracy(again, tiny_cifar10["test"], "cpu") == reached
    fetched = read_metadata(checked_data(manifest))
    assert fetched.pop("weights")["sha256"] == digest(output)
    assert fetched.pop("logits") == "output"
    assert fetched == metadata


def test_another_recipe_starts_afresh_from_an_interrupted_one(tiny_cifar10, tmp_path, monkeypatch):
    output = tmp_path / "mine.safetensors"

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "accuracy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.run(json.dumps({"network": NETWORK}), tmp_path, output)
    monkeypatch.undo()
    monkeypatch.setattr(train, "read_cifar10", lambda _folder, split: tiny_cifar10[split])
    other = {**NETWORK, "recipe": {**RECIPE, "epochs": 1}}
    train.run(json.dumps({"network": other}), tmp_path, output)
    assert read_metadata(output)["recipe"]["epochs"] == 1


def test_training_reads_cifar10_beside_its_manifest(monkeypatch, tmp_path):
    """The workflow names the manifest, a person the folder."""
    read = []
    monkeypatch.setattr(train, "read_cifar10", lambda folder, _split: read.append(folder) or 1 / 0)
    (tmp_path / "cifar10.json").write_text(json.dumps({"data": "cifar10", "sha256": ""}))
    for place in (tmp_path / "cifar10.json", tmp_path / "cifar10"):
        with pytest.raises(ZeroDivisionError):
            train.run(json.dumps({"network": NETWORK}), place, tmp_path / "x.safetensors")
    assert read == [tmp_path / "cifar10"] * 2


def test_only_networks_for_cifar10_can_be_trained(tmp_path):
    network = {**NETWORK, "classes": 7}
    with pytest.raises(OnepixError, match="CIFAR-10 has 10 classes and 3 channels"):
        train.run(json.dumps({"network": network}), tmp_path, tmp_path / "x.safetensors")


def test_transfer_of_no_successes_is_an_empty_table(tmp_path):
    dataset, network = tmp_path / "sample" / "manifest.json", tmp_path / "lenet" / "manifest.json"
    fetch_dataset.run(json.dumps({"dataset": {"source": "bundled"}}), dataset)
    fetch_network.run(json.dumps({"network": {"architecture": "lenet"}}), network)
    attack = tmp_path / "other" / "de" / "attack" / "000000-000003.json"
    records = attack.with_suffix(".parquet")
    write_records(pd.DataFrame({field.name: [] for field in SCHEMA}), records)
    write_manifest(attack, records, {}, "onepix.jobs.attack", RECORDS)
    settings = {"target": "lenet", "seed": 0, "engine": {"device": "cpu"}}
    transfer.run(json.dumps(settings), dataset, network, [attack], tmp_path / "transfer.csv")
    assert (tmp_path / "transfer.csv").read_text() == "image_id,source,target,flips,moved\n"
