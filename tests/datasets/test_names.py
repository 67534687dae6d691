"""Names of images and classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictured import noise
from refusals import refusal

from onepix.config.datasets import ArraysDataset
from onepix.datasets.arrays import load_arrays, save_arrays
from onepix.datasets.class_names import resolve
from onepix.datasets.sources import load_dataset
from onepix.images import ImageSet

# --- Names of images


def test_names_are_kept_selected_and_saved(tmp_path: Path) -> None:
    images = ImageSet(noise(3, 2, 2, 1), np.zeros(3, int), np.array([4, 5, 9]), ("a",), "drawn", ("x/é.png", "y", "z"))
    assert images.select([9, 4]).names == ("z", "x/é.png")
    save_arrays(images, tmp_path / "a.npz")
    assert load_arrays(tmp_path / "a.npz").names == ("x/é.png", "y", "z")


def test_sets_without_names_have_none_in_their_file(tmp_path: Path) -> None:
    images = ImageSet(noise(2, 2, 2, 1), np.zeros(2, int), np.arange(2), ("a",), "drawn")
    assert images.select([1]).names == ()
    save_arrays(images, tmp_path / "a.npz")
    assert set(np.load(tmp_path / "a.npz")) == {"images", "labels", "ids", "class_names", "provenance"}
    assert load_arrays(tmp_path / "a.npz").names == ()


@pytest.mark.parametrize(("names", "said"), [(["x"], "names must be 2"), ([1, 2], "text"), ([["x", "y"]], "text")])
def test_names_that_are_none_are_refused(names: Any, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=noise(2, 2, 2), labels=[0, 0], names=names)
    message = refusal(load_arrays, tmp_path / "a.npz")
    assert message.startswith(f"{tmp_path / 'a.npz'}: ")
    assert said in message


def test_imagenet_stands_for_its_thousand_names(tmp_path: Path) -> None:
    names = resolve("imagenet")
    assert names is not None
    assert (len(names), names[0], names[207], names[999]) == (1000, "tench", "golden retriever", "toilet tissue")
    np.savez(tmp_path / "a.npz", images=noise(1, 2, 2), labels=[207])
    own = load_dataset(ArraysDataset(source="arrays", path=str(tmp_path / "a.npz"), class_names="imagenet"))
    assert own.class_names == names
