"""Attacks in one call, as in a notebook."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from analytic import PixelRule

import onepix
from onepix import notebook
from onepix.engine.devices import choose_micro_batch
from onepix.errors import OnepixError
from onepix.networks.build import build


def bright(row, column):
    """Class 1 where the red of a pixel is above 100."""
    return onepix.Classifier(PixelRule(lambda x: x[:, 0, row, column] - 100.5)).eval()


def dark(count=3, shape=(4, 6, 3)):
    return np.zeros((count, *shape), np.uint8), np.zeros(count, np.int64)


@pytest.mark.parametrize("method", ["differential_evolution", "scan", "random_search"])
def test_a_table_and_the_attacked_images(method):
    images, labels = dark()
    labels[1] = 1  # the network is wrong about it already
    table, attacked = onepix.attack(bright(3, 5), images, labels, method=method)
    assert table["eligible"].tolist() == [True, False, True]
    assert table["success"][[0, 2]].tolist() == [True, True]
    assert table["success"].isna().tolist() == [False, True, False]
    assert table.attrs["evaluation"]["micro_batch"] == choose_micro_batch("auto", "cpu", 4, 6)
    assert attacked.dtype == np.uint8
    assert not images.any(), "what was given is left as it was"
    assert (attacked != 0).any(3).nonzero()[0].tolist() == [0, 2]
    for image in (0, 2):
        assert (attacked[image] != 0).any(2).nonzero() == (3, 5)
        assert attacked[image, 3, 5].tolist() == table["values"][image][0]


def test_a_network_is_wrapped_in_one_line():
    """Any size, one channel, images without a channel axis, lists for labels."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    )
    images = np.random.default_rng(0).integers(0, 256, (4, 17, 9)).astype(np.uint8)
    classifier = onepix.Classifier(network.eval())
    labels = classifier(torch.from_numpy(images[..., None])).argmax(1).tolist()
    table, attacked = onepix.attack(classifier, images, labels, "scan", colours="grid", levels=4, stop="first")
    assert table["eligible"].all()
    assert attacked.shape == (4, 17, 9, 1)
    after = classifier(torch.from_numpy(attacked)).argmax(1)
    assert after.tolist() == table["adversarial_class"].tolist()


def test_all_targets_give_an_image_each():
    table, attacked = onepix.attack(bright(0, 0), *dark(2), "scan", target="all")
    assert table[["image_id", "target"]].to_numpy().tolist() == [[0, 1], [1, 1]]
    assert len(attacked) == 2


def test_ids_set_the_streams():
    images, labels = dark(2)
    options = {"budget": 5, "stop": "budget", "method": "random_search"}
    first, _ = onepix.attack(bright(0, 0), images, labels, ids=[7, 8], **options)
    swapped, _ = onepix.attack(bright(0, 0), images, labels, ids=[8, 7], **options)
    assert first["rows"].tolist() == swapped["rows"].tolist()[::-1]
    assert first["values"].tolist() == swapped["values"].tolist()[::-1]


def test_position_maps():
    maps = onepix.scan(bright(2, 1), *dark(2))
    assert maps["flips"].dims == ("image", "colour", "y", "x")
    assert maps["flips"].sum() == 8
    assert maps["flips"].sel(colour=7)[:, 2, 1].all()
    assert maps["margin"].sel(image=0, colour=7)[2, 1] == 100.5 - 255


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"method": "scann"}, "attack method 'scann' is unknown; did you mean 'scan'?"),
        ({"populaton": 7}, "differential_evolution: unknown key 'populaton'; did you mean 'population'?"),
        ({"population": 2}, "differential_evolution: population: Input should be greater than or equal to 4, got 2"),
        ({"images": np.zeros((1, 4, 6, 3))}, "image set: images must be uint8, got float64"),
        ({"images": np.zeros((2, 4, 6, 3), np.uint8)}, r"labels must have the shape \(2,\)"),
        ({"images": np.zeros((0, 4, 6, 3), np.uint8), "labels": []}, "expected images and whole-number labels, got 0"),
        ({"labels": [0.5]}, "expected images and whole-number labels, got 1 and float64"),
        ({"labels": [2]}, "labels must lie in 0–1"),
        ({"engine": {"precision": "float8"}}, "engine: precision: Input should be 'auto', 'float32' or 'bfloat16'"),
        ({"classifier": PixelRule(torch.sum)}, r"expected an onepix.Classifier, got PixelRule; onepix.Classifier\("),
        ({"classifier": onepix.Classifier(PixelRule(torch.sum))}, "training mode"),
        ({"classifier": onepix.Classifier(torch.nn.Identity()).eval()}, r"outputs of shape \(1, 3, 4, 6\), expected"),
        ({"classifier": onepix.Classifier(build("lenet")).eval()}, "network .* cannot take images of 4×6×3"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, told):
    images, labels = dark(1)
    with pytest.raises(OnepixError, match=told) as caught:
        onepix.attack(**{"classifier": bright(0, 0), "images": images, "labels": labels, **arguments})
    assert "\n" not in str(caught.value)


@pytest.fixture
def busy(monkeypatch):
    """Another program keeps one of two cores busy, and PyTorch has two threads, which wait as they do by default."""
    for name in notebook.WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(notebook, "_looked", False)
    monkeypatch.setattr(notebook.machine, "busy_cores", lambda: 1.0)
    monkeypatch.setattr(notebook.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def attacked():
    """Attack, and return the table and what was warned."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        table, _ = onepix.attack(bright(3, 5), *dark(1), method="scan")
    return table, [(str(warning.message), warning.filename) for warning in warned]


@pytest.mark.usefixtures("busy")
def test_on_a_busy_machine_the_cure_is_told_once():
    first, warned = attacked()
    ((said, where),) = warned
    assert said.startswith("other programs use 1.0 of the 2 cores, and beside them PyTorch's waiting threads")
    assert 'os.environ["OMP_WAIT_POLICY"] = "passive"' in said
    assert "torch.set_num_threads(1)" in said
    assert where == __file__
    second, warned = attacked()
    assert warned == []
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(
    "calm",
    [
        lambda monkeypatch: monkeypatch.setenv("OMP_WAIT_POLICY", "passive"),
        lambda monkeypatch: monkeypatch.setenv("GOMP_SPINCOUNT", "0"),
        lambda monkeypatch: monkeypatch.setattr(torch, "get_num_threads", lambda: 1),
        lambda monkeypatch: monkeypatch.setattr(notebook.machine, "busy_cores", lambda: 0.2),
        lambda monkeypatch: monkeypatch.setattr(notebook.machine, "busy_cores", lambda: None),
        lambda monkeypatch: monkeypatch.setattr(notebook.os, "cpu_count", lambda: 8),
    ],
    ids=["passive", "no spinning", "one thread", "idle", "not known", "more cores"],
)
def test_otherwise_nothing_is_told(monkeypatch, calm):
    calm(monkeypatch)
    assert attacked()[1] == []


def test_what_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        _ = onepix.atack
