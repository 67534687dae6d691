"""Reads weights files of several formats as tensors by name; no code in a file is ever executed."""

import collections
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from onepix.errors import OnepixError
from onepix.networks.keras import is_hdf5, read_keras
from onepix.networks.other_files import cause
from onepix.networks.unpickling import HostileError, Remnant, UnreadableError, array_tensor, read_pickle

FORMATS = "safetensors, a torch checkpoint or Keras 2 HDF5"
ONLY_TENSORS = "expected only tensors, as torch.save(network.state_dict(), …) writes them"
MOST = 50  # names of one object: in a web of objects, the ways to each are without number
MODULE = ("_parameters", "_buffers", "_modules")  # where an nn.Module keeps its tensors


def read_tensors(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """Read the tensors of a weights file.

    Parameters
    ----------
    path : Path
        safetensors; a torch checkpoint, whatever lies beside its tensors, also a whole module or TorchScript; arrays of
        NumPy (npz, or in a pickle); or Keras 2 HDF5. The contents decide, not the name of the file.
    network : nn.Module
        The architecture; Keras files are matched with it layer by layer, since their names differ.

    Returns
    -------
    dict of str to Tensor
        On the CPU, by name; the keys under which tensors lie are parts of it: `state_dict.conv1.weight`.

    Raises
    ------
    OnepixError
        If the file is missing, truncated, of another format, or calls what no checkpoint needs.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        said = cause(path, b"") or f"{_reason(error)}; expected {FORMATS}"
        raise OnepixError(f"{path}: {said}") from error
    if is_hdf5(path):
        return read_keras(path, network)
    if said := cause(path, start):
        raise OnepixError(f"{path}: {said}; expected {FORMATS}")
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return _from_torch(path)
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return _from_safetensors(path)
    raise OnepixError(f"{path}: expected {FORMATS}, found {_beginning(start)}")


def _beginning(start: bytes) -> str:
    return f"a file that begins with {start[:16]!r}" if start else "an empty file"


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise OnepixError(f"{path}: not a whole safetensors file ({error})") from None
    return tensors


def _from_torch(path: Path) -> dict[str, Tensor]:
    try:
        loaded = _loaded(path)
        tensors = dict(_named(loaded))
    except HostileError as error:
        raise OnepixError(
            f"{path}: refused: it is a pickle that calls {error}, and loading it could run any code; {ONLY_TENSORS}"
        ) from None
    except (UnreadableError, RecursionError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise OnepixError(f"{path}: not a whole torch checkpoint ({_reason(error)})") from None
    if not tensors:
        raise OnepixError(f"{path}: no state dict; expected tensors by name, {_contents(loaded)}")
    return tensors


def _loaded(path: Path) -> Any:
    """Read a file by torch's own reader of tensors; where it refuses other objects, by one that leaves them alone."""
    if arrays := _arrays(path):
        return arrays
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a file that cannot be read raises an error
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # of many kinds: for refused objects, for damaged files, and for formats that it does not know
        return read_pickle(path)


def _arrays(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a file of np.savez by name; nothing for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not all(name.endswith(".npy") for name in archive.namelist()):
                return {}
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files if arrays[name].dtype.kind in "biuf"}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile):
        return {}


def _named(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of a file with their names: the keys and attributes that lead to them, joined by dots."""
    around: list[int] = []  # objects may contain each other
    visits: collections.Counter[int] = collections.Counter()

    def walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
        tensor = value if isinstance(value, Tensor) else array_tensor(value)
        if tensor is not None:
            yield name, tensor.detach()
        elif id(value) not in around and visits[id(value)] < MOST:
            around.append(id(value))
            visits[id(value)] += 1
            for key, inner in _inside(value):
                # Tensors in a plain list have no names: they cannot be a network's.
                if not (isinstance(value, list | tuple) and isinstance(inner, Tensor)):
                    yield from walk(inner, f"{name}.{key}" if name and key else name or key)
            around.pop()

    return walk(loaded, "")


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what lies directly in a value, by key; parts of an nn.Module by the names of its state dict."""
    if isinstance(value, list | tuple):
        yield from ((str(index), inner) for index, inner in enumerate(value))
        return
    contents = value.contents if isinstance(value, Remnant) else value
    if not isinstance(contents, Mapping):
        return
    if all(isinstance(contents.get(part), Mapping) for part in MODULE):
        unsaved = contents.get("_non_persistent_buffers_set")
        hidden = unsaved if isinstance(unsaved, set) else ()
        parts = {key: inner for part in MODULE for key, inner in contents[part].items()}
        yield from ((key, inner) for key, inner in parts.items() if isinstance(key, str) and key not in hidden)
        return
    for key, inner in contents.items():
        if isinstance(key, str | int | bytes):
            yield (key.decode(errors="replace") if isinstance(key, bytes) else str(key)), inner


def _contents(loaded: Any) -> str:
    """Say in a few words what a file holds instead of tensors."""
    if isinstance(loaded, Mapping):
        keys = ", ".join(str(key) for key in list(loaded)[:5]) or "nothing"
        return f"or under state_dict, model or any other key, got {keys}"
    return f"got an object of {loaded.path}" if isinstance(loaded, Remnant) else f"got {type(loaded).__name__}"


def _reason(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:200]
