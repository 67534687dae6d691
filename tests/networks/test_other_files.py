"""What is given as weights and is none is told by its cause, in one line, with the cure."""

import bz2
import gzip
import lzma
import tarfile
import zipfile

import pytest
import torch
from refusals import refusal
from torch import nn

from onepix.networks.checkpoints import read_tensors

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4cac19622fc3ada9c0fdeadb33f88f367b541f38b89102\nsize 3\n"
)


@pytest.mark.parametrize("name", ["mine.pth", "mine.safetensors", "mine.h5", "mine"])
@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (POINTER, "a pointer of Git LFS in place of the file; `git lfs pull` fetches the file itself"),
        (b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "an HTML page, perhaps a request to log in"),
        (b"\xef\xbb\xbf\n <HTML lang=en>", "an HTML page"),
        (b"404: Not Found", "a text: 404: Not Found"),
        (b'{"message": "Bad credentials"}\n', 'a text: {"message": "Bad credentials"}'),
        (b'{"metadata": {}, "weight_map": {"a": "b"}}', "the index of weights in several files"),
        (gzip.compress(b"weights"), "compressed by gzip; unpack it first"),
        (bz2.compress(b"weights"), "compressed by bzip2; unpack it first"),
        (lzma.compress(b"weights"), "compressed by xz; unpack it first"),
        (b"\x28\xb5\x2f\xfd\x04", "compressed by zstd"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.0.1:\x00", "an ONNX model; export the weights from PyTorch"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file, whose tensors are quantised"),
        (b"\x93NUMPY\x01\x00", "one NumPy array without names; save arrays by name with np.savez"),
    ],
)
def test_by_the_first_bytes_whatever_the_name(tmp_path, name, contents, told):
    (tmp_path / name).write_bytes(contents)
    message = refusal(read_tensors, tmp_path / name, nn.Linear(1, 1))
    assert message.startswith(f"{tmp_path / name}: it is {told}")
    assert message.endswith("; expected safetensors, a torch checkpoint or Keras 2 HDF5")


def test_archives(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "mine.pth")
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.write(tmp_path / "mine.pth", "weights/mine.pth")
    told = refusal(read_tensors, tmp_path / "mine.zip", nn.Linear(1, 1))
    assert "it is a zip archive with weights/mine.pth inside; unpack it first" in told
    with tarfile.open(tmp_path / "mine.tar", "w") as archive:
        archive.add(tmp_path / "mine.pth", "mine.pth")
    told = refusal(read_tensors, tmp_path / "mine.tar", nn.Linear(1, 1))
    assert "it is a tar archive with mine.pth inside; unpack it first" in told
    (tmp_path / "cut.tar").write_bytes((tmp_path / "mine.tar").read_bytes()[:300])
    assert refusal(read_tensors, tmp_path / "cut.tar", nn.Linear(1, 1))


def test_a_keras_3_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "mine.keras", "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")
    told = refusal(read_tensors, tmp_path / "mine.keras", nn.Linear(1, 1))
    assert "it is a .keras file of Keras 3; save the model with Keras 2 as model.save('….h5')" in told


def test_folders(tmp_path):
    assert "Is a directory; expected safetensors" in refusal(read_tensors, tmp_path, nn.Linear(1, 1))
    (tmp_path / "model.safetensors").touch()
    told = refusal(read_tensors, tmp_path, nn.Linear(1, 1))
    assert f"Is a directory; name a file in it, such as {tmp_path / 'model.safetensors'}" in told
    (tmp_path / "saved_model.pb").touch()
    assert "a SavedModel of TensorFlow" in refusal(read_tensors, tmp_path, nn.Linear(1, 1))
