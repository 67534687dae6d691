"""A user's own network and images: a factory with layers named by numbers, grey images that are not square."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from inside import plan, pretend, run_inside
from safetensors.torch import save_file
from studies import new_study

FACTORY = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(160, 2)
    )
"""


def test_own_network_and_images(tmp_path):
    study = new_study(tmp_path / "study")
    folder = study.folder
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "networks.py").write_text(FACTORY)
    spec = importlib.util.spec_from_file_location("networks", folder / "mypackage" / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network = module.make()
    save_file(network.state_dict(), folder / "my-weights.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (6, 24, 20)).astype(np.uint8)
    with torch.no_grad():
        labels = network((torch.from_numpy(images)[:, None] / 255 - 0.5) / 0.25).argmax(1).numpy()
    labels[3] = 1 - labels[3]
    np.savez(folder / "my-images.npz", images=images, labels=labels)
    scaling = {"mean": [0.5], "std": [0.25], "classes": 2, "channels": 1}
    run_inside(
        study,
        config={
            "datasets": {"1": {"source": "arrays", "path": "my-images.npz", "class_names": ["cat", "dog"]}},
            "networks": {
                "7": {"architecture": "mypackage.networks:make", "weights": "my-weights.safetensors", **scaling}
            },
            "attacks": {"de": {"population": 20, "generations": 2}},
            "runs": [{"dataset": "1", "networks": ["7"], "attacks": ["de"], "images": "0-5"}],
            "results": "own",
        },
    )
    success = pd.read_csv(folder / "own/tables/success.csv")
    assert (success["images"].item(), success["correct"].item()) == (6, 5)
    tree = xr.open_datatree(folder / "own/1/7/de/propagation/000000-000009.zarr", engine="zarr")
    assert tree["measures"]["layer"].values.tolist() == ["0", "1", "2", "4"]
    assert tree["000_0"]["max"].shape == (5, 11, 9)
    assert (folder / "own/1/7/de/figures/growth_by_depth.png").is_file()


@pytest.mark.slow
def test_an_edit_of_the_users_code_reruns_its_network_and_all_that_follows(tmp_path):
    """Also of a module that the factory's module imports; neither an installed package nor another module counts."""
    folder = new_study(tmp_path / "study").folder
    networks = {
        "own": {"architecture": "mypackage.networks:make", "weights": "factory", "mean": 0.5, "std": 0.25},
        "theirs": {"architecture": "timm:create_model", "arguments": {"model_name": "resnet18"}, "weights": "factory"},
    }
    config = {
        "datasets": {"sample": {"source": "bundled"}},
        "networks": networks,
        "attacks": {"de": {}},
        "runs": [{"dataset": "sample", "networks": list(networks), "attacks": ["de"], "images": 0}],
    }
    (folder / "mypackage").mkdir()
    files = {name: folder / "mypackage" / f"{name}.py" for name in ("networks", "blocks", "other")}
    files["networks"].write_text(f"from .blocks import width\n{FACTORY}")
    files["blocks"].write_text("width = 3\n")
    files["other"].write_text("")
    pretend(folder, config)
    assert plan(folder, config) == {}
    files["other"].write_text("edited = True\n")
    assert plan(folder, config) == {}
    for edited in ("blocks", "networks"):
        before = files[edited].read_text()
        files[edited].write_text(f"{before}# edited\n")
        planned = plan(folder, config)
        assert {rule: planned[rule] for rule in ("networks", "attack", "propagation", "locality")} == {
            **{"networks": 1, "attack": 1, "propagation": 1, "locality": 1}
        }
        files[edited].write_text(before)
    assert plan(folder, config) == {}
    files["blocks"].write_text("width = \n")
    with pytest.raises(SystemExit, match=r"blocks\.py: not Python: invalid syntax in line 1"):
        plan(folder, config)
