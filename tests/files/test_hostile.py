"""Files of others: what they say must neither run nor write anything."""

import base64
import json
import marshal
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from hostile import tree
from PIL import Image
from torchvision.datasets.utils import extract_archive

from onepix.config.datasets import FolderDataset, TorchvisionDataset
from onepix.datasets.arrays import load_arrays
from onepix.datasets.folder import load_folder
from onepix.datasets.from_torchvision import load_torchvision
from onepix.errors import OnepixError
from onepix.networks.build import build
from onepix.networks.checkpoints import read_tensors
from onepix.networks.weights import load_network_file, read_metadata

# Files of others: what they say must neither run nor write anything.


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Work in an empty folder; afterwards, nothing has left a mark."""
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    yield tmp_path / "in"
    assert not [path for path in tree(tmp_path) if "harm" in Path(path).name]


class Harmful:
    """Unpickled, it leaves a mark."""

    def __reduce__(self):
        return os.system, ("touch harm",)


def told_of(function, *arguments):
    with pytest.raises(OnepixError) as caught:
        function(*arguments)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_mark_would_be_left(workplace):
    """The other tests could fail: an ordinary reader runs the same file."""
    torch.save(Harmful(), "mine.pth")
    torch.load("mine.pth", weights_only=False)
    (workplace / "harm").unlink()


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_with_code(old):
    state = {"state_dict": build("lenet").state_dict(), "epoch": Harmful()}
    torch.save(state, "mine.pth", _use_new_zipfile_serialization=not old)
    assert "refused: it is a pickle that calls posix.system" in told_of(read_tensors, Path("mine.pth"), build("lenet"))


@pytest.mark.usefixtures("workplace")
def test_arrays_with_code():
    images = np.zeros((1, 4, 4, 3), np.uint8)
    for name, value in (("images", images), ("labels", np.array([0])), ("class_names", np.array(["a"]))):
        arrays = {"images": images, "labels": np.array([0]), "class_names": np.array(["a"])}
        np.savez("mine.npz", **(arrays | {name: np.array([Harmful()], object)}))
        assert "allow_pickle=False" in told_of(load_arrays, Path("mine.npz")), value


@pytest.mark.usefixtures("workplace")
def test_a_keras_model_with_code():
    code = base64.b64encode(marshal.dumps(compile("__import__('os').system('touch harm')", "x", "exec"))).decode()
    layer = {"class_name": "Lambda", "config": {"name": "l", "function": [code, None, None], "function_type": "lambda"}}
    model = {"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}
    with h5py.File("mine.h5", "w") as file:
        file.attrs.update(keras_version="2.4.0", backend="tensorflow", model_config=json.dumps(model))
        file.create_group("model_weights").attrs["layer_names"] = [b"l"]
        file["model_weights"].create_group("l").attrs["weight_names"] = []
    assert "Lambda" in told_of(read_tensors, Path("mine.h5"), build("lenet"))


@pytest.mark.parametrize("architecture", ["harmful:make", "os:getcwd", "package.harmful:make"])
def test_weights_that_name_a_factory(workplace, architecture, monkeypatch):
    """`onepix evaluate` builds the architecture that a file names; a file must not choose what is imported."""
    monkeypatch.syspath_prepend(workplace)
    Path("package").mkdir()
    for module in ("harmful.py", "package/harmful.py"):
        text = "import pathlib\npathlib.Path('harm').touch()\ndef make(): pass\n"
        Path(module).write_text(text)
    said = {"architecture": architecture, "classes": 10, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    safetensors.torch.save_file(build("lenet").state_dict(), "mine.safetensors", {"onepix": json.dumps(said)})
    try:
        told = told_of(load_network_file, Path("mine.safetensors"))
    finally:
        for module in ("harmful.py", "package/harmful.py"):
            Path(module).unlink()
    assert f"mine.safetensors: refused: it asks to run {architecture}" in told


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("said", ["{", "[1]", '"x"', "[" * 100_000, '{"mean": "abc"}', '{"std": [{}]}'])
def test_metadata_of_another_form(said):
    safetensors.torch.save_file({"a": torch.zeros(1)}, "mine.safetensors", {"onepix": said})
    assert "was not written by onepix, or is damaged" in told_of(read_metadata, Path("mine.safetensors"))


def test_labels_of_files_elsewhere_are_read_and_nothing_is_written(workplace):
    """A table of labels may name any picture of the user's; its rows name what is read, never what is written."""
    Path("pictures").mkdir()
    for path in (Path("pictures/a.png"), Path("b.png")):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    Path("labels.csv").write_text(f"file,label\n../b.png,0\n{Path('pictures/a.png').resolve()},1\n")
    before = tree(workplace.parent)
    images = load_folder(FolderDataset(source="folder", path="pictures", labels="labels.csv"))
    assert images.names == ("../b.png", "a.png")
    assert tree(workplace.parent) == before
    Path("labels.csv").write_text("file,label\n../../../etc/passwd,0\n")
    told_of(load_folder, FolderDataset(source="folder", path="pictures", labels="labels.csv"))


@pytest.mark.parametrize("kind", ["tar", "link", "zip"])
def test_an_archive_that_would_write_elsewhere(workplace, monkeypatch, kind):
    """torchvision unpacks archives; one whose members point outside is not followed there."""

    class Hostile(torchvision.datasets.VisionDataset):
        def __init__(self, root):
            super().__init__(root)
            extract_archive(str(archive), str(root))

        def __len__(self):
            return 0

    archive = workplace / ("mine.zip" if kind == "zip" else "mine.tar")
    (workplace / "content").write_text("harm")
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.write("content", "../../harm")
    else:
        with tarfile.open(archive, "w") as file:
            if kind == "link":
                link = tarfile.TarInfo("out")
                link.type, link.linkname = tarfile.SYMTYPE, "../.."
                file.addfile(link)
            file.add("content", "out/harm" if kind == "link" else "../../harm")
    monkeypatch.setattr(torchvision.datasets, "Hostile", Hostile, raising=False)
    (workplace / "copy").mkdir()
    told_of(load_torchvision, TorchvisionDataset(source="torchvision:Hostile", split="all", root="copy"), None)
    for path in (workplace / "copy").rglob("harm"):
        path.unlink()  # inside is where it may write


@pytest.mark.usefixtures("workplace")
def test_a_name_that_a_command_would_take_for_an_option():
    """Paths that begin with a dash come after `--output` or after another path."""
    Path("-x").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "onepix.jobs", "provenance", "--output", "t.csv", "--", "-x/manifest.json"],
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "onepix: -x/manifest.json: expected the manifest of a dataset, a network, receptive fields or a chunk\n"
    )
