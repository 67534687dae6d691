"""Whole studies of names that try to do more than they should."""

import os
from pathlib import Path

import numpy as np
import pytest
from hostile import SCRIPT, tree
from PIL import Image
from studies import new_study

from onepix.datasets.arrays import load_arrays

HARM = "touch harm; echo harm > ../harm"
HOSTILE = f"out 'x' \"y\" $({HARM}) `{HARM}`; {HARM} & > b *"
CLASSES = ["$(touch harm)", "'; touch harm", SCRIPT, "$x_{", "../../harm", *"fghij"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A study in a folder of its own, with home, cache and temporary folders that can be looked at."""
    for name in ("home", "cache", "tmp", "place"):
        (tmp_path / name).mkdir()
    for variable, name in (
        ("HOME", "home"),
        ("XDG_CACHE_HOME", "home/.cache"),
        ("ONEPIX_CACHE", "cache"),
        ("TMPDIR", "tmp"),
    ):
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return new_study(tmp_path / "place" / "study")


def bundled_arrays(study, path):
    with np.load(study.folder / "onepix/assets/cifar10_test_0-99.npz") as found:
        images, labels = found["images"][:4], found["labels"][:4]
    path.parent.mkdir(exist_ok=True)
    np.savez(path, images=images, labels=labels)


def check_nothing_elsewhere(study, before, *allowed):
    """Compare a study's folder and its parent with before: new files lie where they may, and no temporary ones do."""
    parent = study.folder.parent
    new = tree(parent) - before
    roots = [os.path.normpath(study.folder / name) for name in (*allowed, "logs", ".snakemake", "study.yaml")]
    stray = [path for path in new if not any(path == str(root) or path.startswith(f"{root}/") for root in roots)]
    assert stray == []
    hidden = [path for path in new if Path(path).name.startswith(".") and "/.snakemake" not in path]
    assert hidden == []
    assert not [path for path in tree(parent.parent) if Path(path).name.startswith("harm")]
    assert not list((parent.parent / "tmp").iterdir())


@pytest.mark.slow
def test_a_whole_study_of_hostile_names(place):
    """A command in the name of a folder, a file or a class is only a name."""
    own = place.folder / "my 'files' $(touch harm)"
    bundled_arrays(place, own / "a; touch harm.npz")
    weights = own / "-w `touch harm`.safetensors"
    weights.write_bytes((place.folder / "onepix/assets/lenet.safetensors").read_bytes())
    config = {
        "datasets": {"mine": {"source": "arrays", "path": f"{own.name}/a; touch harm.npz", "class_names": CLASSES}},
        "networks": {"lenet": {"architecture": "lenet", "weights": f"{own.name}/{weights.name}"}},
        "attacks": {"de": {"population": 4, "generations": 0}},
        "runs": [{"dataset": "mine", "networks": ["lenet"], "attacks": ["de"], "images": "0-1"}],
        "statistics": {"resamples": 100, "permutations": 99},
        "figures": {"dpi": 50},
        "data": f"d{HOSTILE}".replace("/", "_"),
        "results": HOSTILE.replace("/", "_"),
    }
    before = tree(place.folder.parent)
    run = place.snakemake(config=config)
    assert run.returncode == 0, run.stdout
    results = place.folder / config["results"]
    assert (results / "provenance.csv").is_file()
    assert (results / "mine/lenet/de/figures/average_propagation.png").is_file()
    check_nothing_elsewhere(place, before, config["data"], config["results"])
    assert place.plan(config) == {}, "Snakemake finds its files again"


def test_a_folder_of_hostile_files_attacked_into_another_folder(place):
    """Pictures and their labels may be called anything; results may lie where the user says."""
    pictures = place.folder / "pictures"
    names = ["$(touch harm).png", "a\nb.png", "-x.png", "{dataset}.png", "'; touch harm '.png", "<img src=x>.png"]
    for number, name in enumerate(names):
        path = pictures / ("cat; touch harm" if number % 2 else "$(dog)") / name
        path.parent.mkdir(exist_ok=True, parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    config = {
        "datasets": {"mine": {"source": "folder", "path": "pictures"}},
        "networks": {"lenet": {"architecture": "lenet", "mean": [0.5] * 3, "std": [0.25] * 3, "classes": 10}},
        "attacks": {"de": {"population": 4, "generations": 0}},
        "runs": [{"dataset": "mine", "networks": ["lenet"], "attacks": ["de"], "images": "0-1"}],
        "data": str(place.folder.parent / "a 'b'; c"),
        "results": "../else where",
    }
    before = tree(place.folder.parent)
    run = place.snakemake(f"{config['data']}/datasets/mine/manifest.json", config=config)
    assert run.returncode == 0, run.stdout
    assert sorted(load_arrays(Path(config["data"]) / "datasets/mine/images.npz").names) == sorted(
        f"{'cat; touch harm' if number % 2 else '$(dog)'}/{name}" for number, name in enumerate(names)
    )
    run = place.snakemake("../else where/configuration.yaml", config=config)
    assert run.returncode == 0, run.stdout
    check_nothing_elsewhere(place, before, "../a 'b'; c", "../else where")
