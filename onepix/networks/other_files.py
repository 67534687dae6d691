"""Tells by its first bytes what a file is that is given as weights and is none."""

import re
import tarfile
import zipfile
from pathlib import Path

# By the first bytes of a file: what it is, and what to do.
BEGINNINGS: dict[bytes, str] = {
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; `git lfs pull` fetches the file itself",
    b"\x1f\x8b": "compressed by gzip; unpack it first (gunzip, or tar -xzf)",
    b"BZh": "compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"7z\xbc\xaf": "an archive of 7-Zip; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"GGUF": "a GGUF file, whose tensors are quantised; export the weights from PyTorch",
    b"\x93NUMPY": "one NumPy array without names; save arrays by name with np.savez",
}
ONNX = re.compile(rb"\x08[\x01-\x20](?:\x12|\x1a|\x3a|\x42)")  # ir_version, then producer, domain, graph or operators
TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")
SHOWN = 60  # characters of a text


def cause(path: Path, start: bytes) -> str:
    """Say what a file is that cannot be read as weights, and what to do about it.

    Parameters
    ----------
    path : Path
        The file, or a folder.
    start : bytes
        Its first 512 bytes.

    Returns
    -------
    str
        Empty for a file that may be weights, and for one of an unknown kind.
    """
    if path.is_dir():
        return _of_folder(path)
    for beginning, meaning in BEGINNINGS.items():
        if start.startswith(beginning):
            return f"it is {meaning}"
    if start.startswith(b"PK"):
        return _of_zip(path)
    if start[257:262] == b"ustar":
        return _of_tar(path)
    if ONNX.match(start):
        return "it is an ONNX model; export the weights from PyTorch: torch.save(network.state_dict(), …)"
    return _of_text(start)


def _of_folder(path: Path) -> str:
    names = sorted(file.name for file in path.iterdir())
    if "saved_model.pb" in names:
        return "Is a directory: a SavedModel of TensorFlow; save it with Keras 2 as model.save('….h5') instead"
    weights = [name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt"))]
    return f"Is a directory; name a file in it, such as {path / weights[0]}" if weights else ""


def _of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return ""
    if {"config.json", "model.weights.h5"} <= set(names):
        return "it is a .keras file of Keras 3; save the model with Keras 2 as model.save('….h5')"
    inside = [name for name in names if name.endswith((".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors", ".h5"))]
    if inside and not any(name.endswith("data.pkl") for name in names):
        return f"it is a zip archive with {inside[0]} inside; unpack it first"
    return ""


def _of_tar(path: Path) -> str:
    try:
        with tarfile.open(path) as archive:
            first = next((member.name for member in archive if member.isfile()), "nothing")
    except (tarfile.TarError, OSError):
        return "it is a damaged tar archive"
    if first in ("sys_info", "pickle", "storages", "tensors"):
        return "it is a checkpoint of PyTorch before 0.2; load it there and save it again with torch.save"
    return f"it is a tar archive with {first} inside; unpack it first"


def _of_text(start: bytes) -> str:
    beginning = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if beginning[:14].lower() == b"<!doctype html" or beginning[:5].lower() == b"<html":
        return "it is an HTML page, perhaps a request to log in; download the file itself"
    if not TEXT.fullmatch(start) or b"\n" not in start + b"\n":
        return ""
    try:
        said = " ".join(beginning.decode().split())
    except UnicodeDecodeError:
        return ""
    if said.startswith("{") and '"weight_map"' in said:
        return "it is the index of weights in several files; join them into one with safetensors or torch.save"
    return f"it is a text: {said[:SHOWN]}{'…' if len(said) > SHOWN else ''}"
