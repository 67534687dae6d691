"""Trees of arrays, written and read."""

import json
import time

import numpy as np
import pytest
import xarray as xr

from onepix.files.manifests import digest
from onepix.files.trees import read_tree, write_tree


def tree(images: int) -> xr.DataTree:
    values = np.arange(images * 12, dtype=np.float32).reshape(images, 3, 4)
    ids = {"image": np.arange(images) + 5}
    layer = xr.Dataset({"max": (("image", "y", "x"), values), "reach": ("image", values[:, 0, 0])}, ids, {"depth": 0})
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=ids), "/000_conv1": layer})


@pytest.mark.parametrize("images", [0, 1, 3])
def test_a_tree_survives_the_round_trip(tmp_path, images):
    write_tree(tree(images), tmp_path / "maps.zarr")
    found = read_tree(tmp_path / "maps.zarr")
    xr.testing.assert_identical(found.load(), tree(images))


def test_a_tree_is_chunked_along_its_images(tmp_path, monkeypatch):
    """Maps of 48 bytes and chunks of 100: two images a chunk; an image larger than a chunk has one of its own."""
    for size, chunk, files in ((1 << 22, 3, 1), (100, 2, 2), (10, 1, 3)):
        monkeypatch.setattr("onepix.files.trees.CHUNK", size)
        path = tmp_path / f"{size}.zarr"
        write_tree(tree(3), path)
        layer = read_tree(path)["000_conv1"].to_dataset()
        assert layer["max"].encoding["chunks"] == (chunk, 3, 4)
        assert json.loads((path / "zarr.json").read_text())["zarr_format"] == 3
        assert len([file for file in (path / "000_conv1/max/c").rglob("*") if file.is_file()]) == files
        xr.testing.assert_identical(read_tree(path).load(), tree(3))


def test_the_same_tree_has_the_same_digest(tmp_path):
    for name in ("a", "b"):
        write_tree(tree(2), tmp_path / name)
        time.sleep(0.01)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
