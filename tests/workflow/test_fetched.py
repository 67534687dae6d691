"""A folder of photographs and a network from the web, through the workflow; images chosen by a rule."""

import functools
import hashlib
import http.server
import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from inside import failure_inside, plan, run_inside
from PIL import Image
from studies import new_study

from onepix.datasets.arrays import load_arrays
from onepix.files.manifests import checked_data, read_manifest
from onepix.networks.build import build

TABLE = "results/pictures/far/de/summary/success.csv"


@pytest.fixture
def site(tmp_path):
    """A web server with the weights of a network of two classes, as a training script of several GPUs saves them."""
    (tmp_path / "www").mkdir()
    torch.manual_seed(1)
    state = {f"module.{name}": tensor for name, tensor in build("resnet8", classes=2).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7}, tmp_path / "www" / "far.th")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    handler = functools.partial(Handler, directory=tmp_path / "www")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.requests = requests
    server.url = f"http://127.0.0.1:{server.server_port}/far.th"
    server.sha256 = hashlib.sha256((tmp_path / "www" / "far.th").read_bytes()).hexdigest()
    yield server
    server.shutdown()
    server.server_close()


def paint(folder):
    """Eight pictures of two classes and of several sizes, none of them square."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "pictures" / name).mkdir(parents=True)
        for index, size in enumerate([(30, 40), (44, 24), (26, 50), (24, 31)]):
            pixels = generator.integers(0, 256, (*size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{index}.png")


def study(site, **images):
    return {
        "datasets": {"pictures": {"source": "folder", "path": "pictures", "resize": 24, "crop": [20, 22]}},
        "networks": {
            "far": {
                "architecture": "resnet8",
                "weights": site.url,
                "sha256": site.sha256[:8],
                "mean": [0.4, 0.5, 0.6],
                "std": [0.2, 0.25, 0.3],
                "classes": 2,
            }
        },
        "attacks": {"de": {"population": 10, "generations": 1}},
        "runs": [{"dataset": "pictures", "networks": ["far"], "attacks": ["de"], "images": images}],
        "images_per_job": 4,
        "statistics": {"resamples": 200},
        "propagation": {"layers": ["conv1", "linear"]},
    }


def test_pictures_and_a_network_from_the_web(site, monkeypatch, tmp_path):
    monkeypatch.setenv("ONEPIX_CACHE", str(tmp_path / "cache"))
    new, config = new_study(tmp_path / "study"), study(site, per_class=2, seed=3)
    folder = new.folder
    paint(folder)
    run_inside(new, TABLE, config=config)
    images = load_arrays(checked_data(folder / "data/datasets/pictures/manifest.json"))
    assert images.images.shape == (8, 20, 22, 3)
    assert images.names == tuple(f"{name}/{index}.png" for name in ("cat", "dog") for index in range(4))
    chosen = [int(line) for line in (folder / "data/selection/pictures/per-class-2-seed-3.txt").read_text().split()]
    assert sorted(images.labels[chosen].tolist()) == [0, 0, 1, 1]
    assert pd.read_csv(folder / TABLE)["images"].item() == 4
    (first, second) = sorted((folder / "results/pictures/far/de/attack").glob("*.json"))
    assert read_manifest(first)["settings"]["image_ids"] + read_manifest(second)["settings"]["image_ids"] == chosen
    assert read_manifest(first)["network"] == {
        "architecture": "resnet8",
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "logits": "output",
        "weights": {
            "origin": site.url,
            "sha256": site.sha256,
            "verified": "by the first 8 digits of its SHA-256, no more are known",
        },
    }
    assert "verified by the first 8 digits" in (folder / "logs/networks/far.log").read_text()
    assert site.requests == ["/far.th"]

    assert plan(folder, config, TABLE) == {}
    more = study(site, per_class=3, seed=3)
    jobs = plan(folder, more)  # the whole: see "Selection" in docs/architecture.md
    assert "selection" in jobs
    assert "datasets" not in jobs, "the pictures are the same"
    (folder / "pictures" / "cat" / "2.png").write_bytes((folder / "pictures" / "cat" / "3.png").read_bytes())
    assert "datasets" in plan(folder, config, TABLE)


def test_offline_the_log_names_the_file_and_its_place(site, monkeypatch, tmp_path):
    new = new_study(tmp_path / "study")
    monkeypatch.setenv("ONEPIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    said = failure_inside(new, "data/networks/far/manifest.json", config=study(site, first=2))
    place = tmp_path / "cache" / site.sha256[:8] / "far.th"
    told = f"onepix: {site.url}: not in the cache, and ONEPIX_OFFLINE is set; "
    assert f"{told}put the file (SHA-256 {site.sha256[:8]}…) at {place}" in said
    assert "Traceback" not in said
    assert site.requests == []
    place.parent.mkdir(parents=True)
    place.write_bytes((tmp_path / "www" / "far.th").read_bytes())
    run_inside(new, "data/networks/far/manifest.json", config=study(site, first=2))
    assert (new.folder / "data/networks/far/weights.safetensors").exists()


def test_a_file_of_ids(study_copy):
    config = study_copy.changed("runs", 0, "images", to={"file": "ids.txt"})
    (study_copy.folder / "ids.txt").write_text("# as before\n0-7\n")
    assert plan(study_copy.folder, config) == {"configuration": 1, "all": 1}, "the same images"
    (study_copy.folder / "ids.txt").write_text("0-11\n")
    assert plan(study_copy.folder, config)["attack"] == 1
    (study_copy.folder / "ids.txt").unlink()
    run = study_copy.snakemake("--dry-run", config=config)
    assert run.returncode == 1
    assert (
        "onepix: study.yaml:20: runs.0.images: ids.txt: No such file or directory; expected a text file of image ids"
        in run.stdout
    )
    assert "Traceback" not in run.stdout


def test_a_class_with_too_few_images(study_copy):
    """Snakemake itself would not see, where all results are there, that other images are wanted."""
    config = study_copy.changed("runs", 0, "images", to={"per_class": 50, "seed": 0})
    assert "selection" in plan(study_copy.folder, config)
    run = study_copy.snakemake(config=config)
    assert run.returncode == 1
    assert "onepix: sample: per_class: 50 is more than the" in run.stdout
    assert "Traceback" not in run.stdout


def test_classes_that_do_not_match(study_copy):
    """Two classes of pictures, ten of the network."""
    paint(study_copy.folder)
    dataset = {"source": "folder", "path": "pictures", "resize": 32, "crop": 32}
    config = study_copy.changed("datasets", "pictures", to=dataset)
    config["runs"] = [{"dataset": "pictures", "networks": ["lenet"], "attacks": ["de"], "images": "0-3"}]
    said = failure_inside(study_copy, "results/pictures/lenet/de/attack/000000-000003.json", config=config)
    assert "onepix: the network has 10 classes, the images have 2 (cat, dog)" in said
    assert "Traceback" not in said
    manifest = study_copy.folder / "data/datasets/pictures/manifest.json"
    assert json.loads(manifest.read_text())["class_names"] == ["cat", "dog"]
