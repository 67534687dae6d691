"""Arrays in the forms that people have: found, put right, or refused by their cause."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from pictured import noise
from refusals import Bomb, names_in, refusal

from onepix.config.datasets import ArraysDataset
from onepix.datasets.arrays import load_arrays, save_arrays
from onepix.datasets.class_names import for_network
from onepix.datasets.sources import load_dataset
from onepix.images import ImageSet


def load(folder: Path, arrays: dict[str, Any], **settings: Any) -> ImageSet:
    np.savez(folder / "own.npz", **arrays)
    return load_dataset(ArraysDataset(source="arrays", path=str(folder / "own.npz"), **settings))


def refused(folder: Path, arrays: dict[str, Any], **settings: Any) -> str:
    return refusal(lambda: load(folder, arrays, **settings))


LABELS = np.array([2, 0, 1, 1])


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first_are_put_last_and_told(channels: int, tmp_path: Path) -> None:
    images = noise(4, 6, 5, channels)
    loaded = load(tmp_path, {"images": images.transpose(0, 3, 1, 2), "labels": LABELS[:, np.newaxis]})
    np.testing.assert_array_equal(loaded.images, images)
    assert loaded.labels.tolist() == LABELS.tolist()
    assert loaded.notes == (f"images of shape (4, {channels}, 6, 5) have channels first; they are put last",)


def test_an_opaque_fourth_channel_is_dropped(tmp_path: Path) -> None:
    images = noise(4, 6, 5, 4)
    assert load(tmp_path, {"images": images, "labels": LABELS}).images.shape == (4, 6, 5, 4)
    images[..., 3] = 255
    loaded = load(tmp_path, {"images": images, "labels": LABELS})
    np.testing.assert_array_equal(loaded.images, images[..., :3])
    assert "opaque alpha channel" in loaded.notes[0]


@pytest.mark.parametrize("shape", [(4, 3, 5, 3), (4, 3, 7, 1), (4, 2, 5, 4), (4, 6, 5, 2)])
def test_axes_that_may_be_right_stay(shape: tuple[int, ...], tmp_path: Path) -> None:
    loaded = load(tmp_path, {"images": noise(*shape), "labels": LABELS})
    assert (loaded.images.shape, loaded.notes) == (shape, ())


def test_stored_sets_come_back_as_they_are(tmp_path: Path) -> None:
    """Of three rows and two channels, the rows could be taken for channels."""
    saved = ImageSet(noise(1, 3, 5, 2), np.zeros(1, np.int64), np.arange(1), ("a",), "here", notes=("one", "two"))
    save_arrays(saved, tmp_path / "a.npz")
    loaded = load_arrays(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.images, saved.images)
    assert loaded.notes == ("one", "two")


def parts(images: str, labels: str, *splits: str) -> dict[str, Any]:
    """Return arrays of several splits, of as many images each; the first pixel tells the split."""
    arrays: dict[str, Any] = {}
    for number, split in enumerate(splits):
        arrays[images.format(split)] = np.full((4, 6, 5, 3), number, np.uint8)
        arrays[labels.format(split)] = np.full((4, 1), number)
    return arrays


@pytest.mark.parametrize(
    ("images", "labels", "splits"),
    [
        ("{}_images", "{}_labels", ("train", "val", "test")),  # MedMNIST
        ("x_{}", "y_{}", ("train", "test")),  # Keras
        ("X_{}", "Y_{}", ("test", "valid")),
        ("{}X", "{}Y", ("train", "test")),
        ("{}.data", "{}.target", ("test", "extra")),
    ],
)
def test_the_split_is_chosen_by_name_and_told(
    images: str, labels: str, splits: tuple[str, ...], tmp_path: Path
) -> None:
    arrays = parts(images, labels, *splits)
    test = load(tmp_path, arrays)
    assert set(test.images.ravel()) == set(test.labels) == {splits.index("test")}
    assert f"images are taken from {images.format('test')}, labels from {labels.format('test')}, not" in test.notes[0]
    for number, split in enumerate(splits):
        chosen = load(tmp_path, arrays, split=split)
        assert set(chosen.images.ravel()) == set(chosen.labels) == {number}


def test_splits_that_are_not_there_are_refused(tmp_path: Path) -> None:
    arrays = parts("x_{}", "y_{}", "train", "val")
    assert "split test: expected it in the name of one array of images; found x_train and y_train" in refused(
        tmp_path, arrays
    )
    assert "split fold: " in refused(tmp_path, arrays, split="fold")


@pytest.mark.parametrize(
    ("images", "labels", "others"),
    [
        ("arr_0", "arr_1", {}),
        ("data", "target", {"weights": np.ones(4), "boxes": np.ones((4, 4))}),
        ("pictures", "species", {"version": np.array(3)}),
    ],
)
def test_one_pair_needs_no_names(images: str, labels: str, others: dict[str, Any], tmp_path: Path) -> None:
    loaded = load(tmp_path, {images: noise(4, 6, 5), labels: LABELS, **others})
    assert loaded.images.shape == (4, 6, 5, 1)
    assert loaded.labels.tolist() == LABELS.tolist()
    assert loaded.notes == (f"images are taken from {images}, labels from {labels}",)


def test_labels_are_one_hot_or_text_or_true_and_false(tmp_path: Path) -> None:
    images = noise(4, 6, 5, 3)
    assert load(tmp_path, {"images": images, "labels": np.eye(3)[LABELS]}).labels.tolist() == LABELS.tolist()
    assert load(tmp_path, {"images": images, "labels": LABELS == 0}).labels.tolist() == [0, 1, 0, 0]
    words = {"images": images, "labels": np.array(["c10", "c9", "b", "b"])}
    assert load(tmp_path, words).class_names == ("b", "c9", "c10")
    assert load(tmp_path, words).labels.tolist() == [2, 1, 0, 0]
    assert load(tmp_path, words, class_names=("c10", "b", "a", "c9")).labels.tolist() == [0, 3, 1, 1]


def test_names_and_ids_of_imagenet_are_mapped(tmp_path: Path) -> None:
    arrays = {"images": noise(4, 6, 5, 3), "labels": LABELS}
    known = arrays | {"class_names": np.array(["n03445777", "church", "tench"])}
    assert load(tmp_path, known, class_names="imagenet").labels.tolist() == [0, 574, 497, 497]
    assert for_network(load(tmp_path, known), 1000).labels.tolist() == [0, 574, 497, 497]
    strange = arrays | {"class_names": np.array(["airplane", "cat", "dog"])}
    assert "'airplane' is neither a name" in refused(tmp_path, strange, class_names="imagenet")


@pytest.mark.parametrize(
    ("scale", "dtype"), [(255, np.float32), (255, np.float16), (255, np.float64), (1, np.float32), (1, np.int64)]
)
def test_numbers_that_are_bytes_become_bytes(scale: int, dtype: Any, tmp_path: Path) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(4, 4, 4, 4)[..., :3]
    loaded = load(tmp_path, {"images": (images / scale).astype(dtype), "labels": LABELS})
    np.testing.assert_array_equal(loaded.images, images)
    assert "made uint8; nothing is lost" in loaded.notes[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: images / 255 - 0.5, "expected 0–255, before any normalisation"),
        (lambda images: images.astype(np.uint16) * 256 + 1, "expected 0–255"),
        (lambda images: images / 300, "that are no 255ths"),
        (lambda images: images > 100, "got bool"),
        (lambda images: (images > 100).astype(float), "of only 0 and 1, which may mean 0 and 255"),
        (lambda images: np.where(images > 100, np.nan, 0), "values that are not finite"),
        (lambda images: images.transpose(1, 2, 3, 0), "have the shape (6, 5, 3, 4) for 4 labels"),
        (lambda images: images.reshape(4, -1), "(image, y, x, channel), got (4, 90)"),
        (lambda images: np.array([*images, None], object)[:4], "an array of Python objects"),
    ],
)
def test_images_that_are_no_bytes_are_refused_by_their_cause(change: Any, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, {"images": change(noise(4, 6, 5, 3)), "labels": LABELS})


def test_images_that_are_almost_black_are_told(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"images": noise(4, 6, 5, 3) // 128, "labels": LABELS})
    assert loaded.notes == ("all values of images are 0 or 1, of 255; perhaps they were to be multiplied by 255",)


def test_labels_that_are_none_are_refused_by_their_cause(tmp_path: Path) -> None:
    images = noise(4, 6, 5, 3)
    several = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert "expected one label per image, or one-hot rows" in refused(tmp_path, {"images": images, "labels": several})
    deep = refused(tmp_path, {"images": images, "labels": np.zeros((4, 1, 1, 2), int)})
    assert "labels have the shape (4, 1, 1, 2)" in deep
    both = {"data": images, "fine_labels": LABELS, "coarse_labels": LABELS}
    assert "fine_labels, coarse_labels may all be the labels of data" in refused(tmp_path, both)
    from_one = load(tmp_path, {"images": images, "labels": LABELS + 1})
    message = refusal(for_network, from_one, 3)
    assert message.endswith("numbers are 1–3, the network's 0–2: if yours begin at 1, subtract 1")


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("a.npz", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("a.npz", b"<html></html>", "a web page"),
        ("a.npz", gzip.compress(b"words", mtime=0), "compressed by gzip"),
        ("a.npz", b"", "an empty file"),
        ("a.npz", b"words", "neither .npz nor .npy"),
        ("a.parquet", b"PAR1", "a Parquet file"),
    ],
)
def test_files_of_another_kind_are_told_by_it(name: str, contents: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(contents)
    assert said in refusal(load_arrays, tmp_path / name)


def test_formats_of_other_programs_are_told(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"images": noise(2, 3)})
    assert "a MATLAB file; scipy.io.loadmat reads it" in refusal(load_arrays, tmp_path / "a.mat")
    h5py.File(tmp_path / "a.h5", "w").close()
    assert "an HDF5 file" in refusal(load_arrays, tmp_path / "a.h5")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))
    assert "a Python pickle, which is never opened" in refusal(load_arrays, tmp_path / "a.pkl")
    np.save(tmp_path / "a.npy", noise(2, 3, 3))
    assert "np.savez(path, images=…, labels=…)" in refusal(load_arrays, tmp_path / "a.npy")
    assert names_in(tmp_path) == ["a.h5", "a.mat", "a.npy", "a.pkl"]


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.uint16])
def test_numbers_of_any_width_are_refused_and_not_overflowed(dtype: Any, tmp_path: Path) -> None:
    ones = np.ones((2, 6, 5, 3), dtype)
    assert "of only 0 and 1" in refused(tmp_path, {"images": ones, "labels": LABELS[:2]})
    assert "got" in refused(tmp_path, {"images": ones[:, :0], "labels": LABELS[:2]})
