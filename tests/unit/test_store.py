"""Writing whole or not at all, and noticing what is not whole."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from conftest import ROOT

from onepix.errors import OnepixError
from onepix.files.atomic import replacing
from onepix.files.manifests import checked_data, digest, read_manifest, write_manifest
from onepix.files.trees import read_tree, write_tree


def test_a_file_and_a_folder_are_replaced(tmp_path):
    for content in ("old", "new"):
        with replacing(tmp_path / "deep" / "file") as temporary:
            temporary.write_text(content)
        with replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert (tmp_path / "deep" / "file").read_text() == "new"
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["new"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["deep", "folder"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ValueError, match="half-way"), replacing(tmp_path / "file") as temporary:
        temporary.write_text("ne")
        raise ValueError("half-way")
    assert (tmp_path / "file").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_kill_during_a_write_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_text("old")
    script = (
        "import sys, time, pathlib\n"
        "from onepix.files.manifests import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "file")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("step", "expected"),
    [("tempfile.mkdtemp", []), ("os.open", []), ("shutil.rmtree", ["file"]), ("os.close", ["file"])],
)
def test_a_signal_while_a_temporary_folder_is_made_or_removed(tmp_path, monkeypatch, number, step, expected):
    """All steps are gone through; then the signal does what it would have done."""
    module, name = step.split(".")
    real = getattr(sys.modules[module], name)

    def interrupted(*arguments, **options):
        monkeypatch.undo()
        signal.raise_signal(number)
        return real(*arguments, **options)

    def stop(*_):
        sys.exit("stopped")

    before = signal.signal(number, stop)
    if not expected:
        monkeypatch.setattr(step, interrupted)
    try:
        with pytest.raises(SystemExit, match="stopped"), replacing(tmp_path / "file") as temporary:
            temporary.write_text("new")
            if expected:
                monkeypatch.setattr(step, interrupted)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert [file.name for file in tmp_path.iterdir()] == expected


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """On a real file system of 64 kB."""
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    try:
        (tmp_path / "file").write_text("old")
        with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "file") as temporary:
            temporary.write_bytes(b"x" * 200_000)
        assert caught.value.errno == errno.ENOSPC
        assert (tmp_path / "file").read_text() == "old"
        assert [file.name for file in tmp_path.iterdir()] == ["file"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_digest_of_a_folder_depends_on_names_and_contents(tmp_path):
    digests = set()
    for name, content in (("a", "1"), ("b", "1"), ("a", "2")):
        folder = tmp_path / (name + content)
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / name).write_text(content)
        digests.add(digest(folder))
    assert len(digests) == 3


@pytest.fixture
def chunk(tmp_path):
    data = tmp_path / "000000-000024.parquet"
    data.write_bytes(b"records")
    manifest = tmp_path / "000000-000024.json"
    write_manifest(manifest, data, {"attack": 1}, "onepix.jobs.attack", image_ids=[1, 2])
    return manifest, data


def test_a_manifest_says_what_its_data_are(chunk):
    manifest, data = chunk
    contents = read_manifest(manifest)
    assert contents["settings"] == {"attack": 1}
    assert contents["image_ids"] == [1, 2]
    assert set(contents["versions"]) >= {"onepix", "torch", "zarr"}
    assert checked_data(manifest) == data


def test_data_that_are_truncated_altered_or_missing(chunk):
    manifest, data = chunk
    for content in (b"record", b"recorts"):
        data.write_bytes(content)
        with pytest.raises(OnepixError, match=r"parquet: truncated or altered .* delete .*json and run the workflow"):
            checked_data(manifest)
    data.unlink()
    with pytest.raises(OnepixError, match="parquet: the data are missing; delete"):
        checked_data(manifest)


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"data": "x"})])
def test_what_is_no_manifest(tmp_path, content):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(OnepixError, match=r"m\.json: not a manifest"):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(OnepixError, match=r"none\.json: not found"):
        read_manifest(tmp_path / "none.json")


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
