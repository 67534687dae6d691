"""torchvision's datasets: read, fitted, downloaded, or refused in one line."""

import hashlib
import pickle
import struct
import urllib.error
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import tenacity
import torch
import torchvision
from pictured import noise, written
from PIL import Image
from refusals import refusal
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, VisionDataset

from onepix.config.datasets import TorchvisionDataset
from onepix.datasets import cifar10
from onepix.datasets.cifar10 import CLASS_NAMES, read_cifar10
from onepix.datasets.sources import load_dataset
from onepix.errors import OfflineError
from onepix.files import patience
from onepix.images import ImageSet

# --- torchvision


def from_torchvision(name: str, downloads: Path | None = None, **settings: Any) -> ImageSet:
    return load_dataset(TorchvisionDataset(source=f"torchvision:{name}", **settings), downloads=downloads)


def refused_torchvision(name: str, downloads: Path | None = None, **settings: Any) -> str:
    message = refusal(lambda: from_torchvision(name, downloads, **settings))
    assert message.startswith(f"torchvision:{name}")
    return message


@pytest.fixture(autouse=True)
def _neither_waiting_nor_net(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(patience, "WAIT", tenacity.wait_none())
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.delenv("ONEPIX_OFFLINE", raising=False)


def idx(values: np.ndarray) -> bytes:
    """Write unsigned bytes in MNIST's format."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def lay_mnist(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write a small MNIST as torchvision unpacks it, of pictures that are not square."""
    splits = {name: (noise(count, 6, 5), noise(count) % 10) for name, count in (("train", 4), ("t10k", 3))}
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, (images, labels) in splits.items():
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return splits


@pytest.mark.parametrize(("split", "part"), [("train", "train"), ("test", "t10k")])
def test_mnist_is_grey(split: str, part: str, tmp_path: Path) -> None:
    images, labels = lay_mnist(tmp_path)[part]
    mnist = from_torchvision("MNIST", split=split, root=str(tmp_path))
    np.testing.assert_array_equal(mnist.images, images[..., np.newaxis])
    np.testing.assert_array_equal(mnist.labels, labels)
    assert mnist.ids.tolist() == list(range(len(images)))
    assert mnist.class_names[7] == "7 - seven"
    assert mnist.names == ()
    assert mnist.provenance == f"torchvision's MNIST, split {split}"


def test_torchvisions_pictures_are_fitted(tmp_path: Path) -> None:
    images, _ = lay_mnist(tmp_path)["t10k"]
    settings = {"resize": 10, "crop": (8, 6), "interpolation": "nearest", "channels": 3}
    mnist = from_torchvision("MNIST", root=str(tmp_path), class_names=tuple("abcdefghij"), **settings)
    grown = images.repeat(2, axis=1).repeat(2, axis=2)[:, 2:10, 2:8, np.newaxis]
    np.testing.assert_array_equal(mnist.images, grown.repeat(3, axis=3))
    assert mnist.class_names == tuple("abcdefghij")
    assert mnist.provenance.endswith("; resized to a shorter side of 10 (nearest); cropped to the middle 8 × 6")


def test_class_names_that_do_not_suffice_are_refused(tmp_path: Path) -> None:
    _, labels = lay_mnist(tmp_path)["t10k"]
    message = refused_torchvision("MNIST", root=str(tmp_path), class_names=("only",))
    assert f"label {labels.max()}, expected one in 0–0" in message


def test_where_there_is_a_split_and_train_both_are_named(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = noise(2, 4, 3), np.array([1, 26], np.uint8)  # letters start at 1
    (raw / "emnist-letters-test-images-idx3-ubyte").write_bytes(idx(images))
    (raw / "emnist-letters-test-labels-idx1-ubyte").write_bytes(idx(labels))
    emnist = from_torchvision("EMNIST", split="letters-test", root=str(tmp_path))
    np.testing.assert_array_equal(emnist.images[..., 0], images)
    assert [emnist.class_names[label] for label in emnist.labels] == ["a", "z"]
    for split in ("letters", "test", "letters-val"):
        assert "with -train or -test after it" in refused_torchvision("EMNIST", split=split, root=str(tmp_path))
    assert "Unknown value 'runes'" in refused_torchvision("EMNIST", split="runes-test", root=str(tmp_path))


def lay_cifar(kind: type[CIFAR10], root: Path, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write pickles as torchvision unpacks them, and make torchvision expect their MD5s."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    md5 = {}
    for name, contents in files.items():
        (folder / name).write_bytes(pickle.dumps(contents))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    for parts in ("train_list", "test_list"):
        monkeypatch.setattr(kind, parts, [[name, md5[name]] for name, _ in getattr(kind, parts)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5[kind.meta["filename"]]})


def test_cifar100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = {"train": noise(3, 3072), "test": noise(2, 3072)}
    labels = {"train": [0, 99, 5], "test": [42, 7]}
    files: dict[str, Any] = {
        split: {"data": planes[split], "fine_labels": labels[split], "coarse_labels": [0] * 3} for split in planes
    }
    names = [f"class {index}" for index in range(100)]
    lay_cifar(CIFAR100, tmp_path, {**files, "meta": {"fine_label_names": names}}, monkeypatch)
    for split in planes:
        cifar100 = from_torchvision("CIFAR100", split=split, root=str(tmp_path))
        assert cifar100.labels.tolist() == labels[split]
        assert cifar100.class_names == tuple(names)
        for image, record in zip(cifar100.images, planes[split], strict=True):
            assert b"".join(image[..., channel].tobytes() for channel in range(3)) == record.tobytes()
    (tmp_path / "cifar-100-python" / "test").write_bytes(b"damaged")
    message = refused_torchvision("CIFAR100", root=str(tmp_path))
    assert str(tmp_path) in message
    assert "download=True" not in message


def test_cifar10_is_that_of_the_official_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, Any] = {"batches.meta": {"label_names": list(CLASS_NAMES)}}
    md5, official = {}, tmp_path / "official"
    official.mkdir()
    for name in cifar10.MD5:
        records = noise(3, 3073)
        records[:, 0] %= 10
        (official / name).write_bytes(records.tobytes())
        md5[name] = hashlib.md5(records.tobytes()).hexdigest()
        files[Path(name).stem] = {"data": records[:, 1:], "labels": records[:, 0].tolist()}
    monkeypatch.setattr(cifar10, "MD5", md5)
    lay_cifar(CIFAR10, tmp_path / "root", files, monkeypatch)
    for split, count in (("train", 15), ("test", 3)):
        ours = read_cifar10(official, split)  # type: ignore[arg-type]
        theirs = from_torchvision("CIFAR10", split=split, root=str(tmp_path / "root"))
        assert len(ours.ids) == count
        for name in ("images", "labels", "ids"):
            np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name), strict=True)
        assert theirs.class_names == ours.class_names


def test_what_torchvision_does_not_split_has_the_split_all(tmp_path: Path) -> None:
    pictures = {name: noise(3, 4, 3) for name in ("cat/a.png", "dog/b.png")}
    for name, pixels in pictures.items():
        written(tmp_path / name, pixels)
    images = from_torchvision("ImageFolder", split="all", root=str(tmp_path))
    np.testing.assert_array_equal(images.images, list(pictures.values()))
    assert images.class_names == ("cat", "dog")
    assert "expected split all, got test" in refused_torchvision("ImageFolder", root=str(tmp_path))
    assert "set root to a folder with a copy" in refused_torchvision("ImageFolder", split="all")


class Made(VisionDataset):
    """A dataset without files; tests say what its items are."""

    items: tuple[Any, ...] = ()

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def make(monkeypatch: pytest.MonkeyPatch, *items: Any, **attributes: Any) -> None:
    kind = type("Made", (Made,), {"items": items, **attributes})
    monkeypatch.setattr(torchvision.datasets, "Made", kind, raising=False)


DOT = Image.new("L", (1, 1), 3)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (None, ("0", "1", "2", "3")),
        (["a", "b", "c"], ("0", "1", "2", "3")),
        (["a", "b", "c", ("crane", "bird"), "e"], ("a", "b", "c", "crane, bird", "e")),
    ],
)
def test_torchvisions_class_names_count_where_they_suffice(
    classes: Any, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(monkeypatch, (DOT, 3), (DOT, np.int64(0)), (DOT, torch.tensor(1)), **({"classes": classes} if classes else {}))
    images = from_torchvision("Made", split="all")
    assert images.class_names == names
    assert images.labels.tolist() == [3, 0, 1]
    assert images.images.ravel().tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ((), "no images"),
        (((DOT, 0), (DOT, torch.zeros(40, dtype=torch.long))), "image 1: its label is tensor"),
        (((DOT, {"annotation": {"object": "person\n" * 99}}),), "image 0: its label is {'annotation'"),
        (((DOT, None),), "its label is None, expected an integer"),
        (((DOT, 0.0),), "its label is 0.0, expected an integer"),
        (((DOT, -1),), "label -1, expected one in"),
        (((torch.zeros(3, 2, 2), 0),), "expected an image classification dataset"),
        ((torch.zeros(3, 2, 2),), "expected an image classification dataset"),
        (((DOT, DOT, 0),), "expected an image classification dataset"),
        (((Image.new("RGBA", (1, 1)), 0),), "image 0: has an alpha channel"),
        (((DOT, 0), (Image.new("L", (2, 1)), 0)), "image 1 has 1 × 2"),
    ],
)
def test_what_is_no_classification_of_pictures_is_refused(
    items: tuple[Any, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(monkeypatch, *items)
    assert said in refusal(lambda: from_torchvision("Made", split="all"))


def test_an_image_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("image file\nis truncated")

    make(monkeypatch, DOT, __getitem__=fail)
    message = refused_torchvision("Made", split="all")
    assert "image 0: cannot be read" in message
    assert "is truncated" in message


def test_unknown_datasets_and_those_of_other_kinds_are_refused(tmp_path: Path) -> None:
    assert "did you mean 'CIFAR100'?" in refused_torchvision("cifar100")
    assert "did you mean 'Flowers102'?" in refused_torchvision("Flower102")
    assert "no dataset" in refused_torchvision("VisionDataset")
    assert "no dataset" in refused_torchvision("os")
    message = refused_torchvision("CocoDetection", split="all", root=str(tmp_path))
    assert "'annFile'" in message
    assert "not an image classification dataset" in message


def test_unknown_splits_are_refused(tmp_path: Path) -> None:
    lay_mnist(tmp_path)
    assert "split val, expected train or test" in refused_torchvision("MNIST", split="val", root=str(tmp_path))
    message = refused_torchvision("SVHN", split="val", root=str(tmp_path))
    assert "Unknown value 'val' for argument split" in message
    assert "extra" in message


def test_a_copy_that_is_none_is_refused_without_downloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "download", lambda _: pytest.fail("a download was tried"))
    message = refused_torchvision("MNIST", tmp_path / "downloads", root=str(tmp_path))
    assert f"cannot be read from {tmp_path} (RuntimeError: Dataset not found" in message
    assert "download=True" not in message
    assert "root" in refused_torchvision("MNIST", root=str(tmp_path / "absent"))
    assert "torchvision cannot download it" in refused_torchvision("ImageNet", tmp_path, split="val")
    assert "no folder for downloads" in refused_torchvision("MNIST")
    assert "expected no root" in refused_torchvision("FakeData", split="all", root=str(tmp_path))


def test_a_failed_download_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def download(self: MNIST) -> None:
        attempts.append(self.root)
        with pytest.raises(filelock.Timeout):  # another job that wants the same files waits
            filelock.FileLock(Path(self.root) / ".MNIST.lock").acquire(timeout=0)
        if len(attempts) < 3:
            raise urllib.error.URLError("reset by peer")
        lay_mnist(Path(self.root))

    monkeypatch.setattr(MNIST, "download", download)
    downloads = tmp_path / "new" / "downloads"
    assert from_torchvision("MNIST", downloads).images.shape == (3, 6, 5, 1)
    assert attempts == [downloads] * 3
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    assert from_torchvision("MNIST", downloads).images.shape == (3, 6, 5, 1)
    assert len(attempts) == 3


def test_a_download_that_keeps_failing_says_where_a_copy_may_be_put(tmp_path: Path) -> None:
    message = refused_torchvision("MNIST", tmp_path / "downloads")
    for part in ("cannot be downloaded", "no route", str(tmp_path / "downloads"), "root"):
        assert part in message


def test_offline_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []
    monkeypatch.setattr(MNIST, "download", lambda self: attempts.append(self))
    monkeypatch.setenv("ONEPIX_OFFLINE", "yes")
    with pytest.raises(OfflineError) as caught:
        from_torchvision("MNIST", tmp_path)
    for part in ("torchvision:MNIST", "ONEPIX_OFFLINE", str(tmp_path), "root"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert attempts == []
    for value in ("", "0"):
        attempts.clear()
        monkeypatch.setenv("ONEPIX_OFFLINE", value)
        assert "cannot be downloaded" in refused_torchvision("MNIST", tmp_path)
        assert attempts


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_missing_package_is_told_at_once(wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def download(self: MNIST) -> None:
        attempts.append(self)
        try:
            raise ModuleNotFoundError("No module named 'gdown'")
        except ModuleNotFoundError:
            if wrapped:
                raise RuntimeError("To download files from GDrive, 'gdown' is required.") from None
            raise

    monkeypatch.setattr(MNIST, "download", download)
    message = refused_torchvision("MNIST", tmp_path)
    assert "not installed" in message
    assert "'gdown'" in message
    assert len(attempts) == 1
