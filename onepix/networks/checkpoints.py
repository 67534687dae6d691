"""Reads weights files of several formats as state dicts; no code in a file is ever executed."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from onepix.errors import OnepixError
from onepix.networks.keras import is_hdf5, read_keras

NESTS = ("state_dict", "model_state_dict", "model", "net")  # keys under which training scripts put the tensors
WRAPPERS = ("module.", "_orig_mod.")  # prefixes of every name, by nn.DataParallel and torch.compile
FORMATS = "safetensors, a torch checkpoint or Keras 2 HDF5"


def read_tensors(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """Read the weights of a network.

    Parameters
    ----------
    path : Path
        safetensors; a torch checkpoint (tensors may be under `state_dict`, `model` and the like, and their names may
        start with `module.`); or Keras 2 HDF5. The contents decide, not the name of the file.
    network : nn.Module
        The architecture; Keras files are matched with it layer by layer, since their names differ.

    Returns
    -------
    dict of str to Tensor
        Tensors by name, on the CPU.

    Raises
    ------
    OnepixError
        If the file is missing, truncated, of another format, or can be read only by executing code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise OnepixError(f"{path}: {_reason(error)}; expected {FORMATS}") from error
    if is_hdf5(path):
        return read_keras(path, network)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return _from_torch(path)
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return _from_safetensors(path)
    raise OnepixError(f"{path}: expected {FORMATS}, found a file that begins with {start!r}")


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise OnepixError(f"{path}: not a whole safetensors file ({error})") from None
    return tensors


def _from_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a file that cannot be read raises an error
            loaded = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise OnepixError(f"{path}: {_refusal(str(error))}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise OnepixError(f"{path}: not a whole torch checkpoint ({_reason(error)})") from None
    return _unwrapped(_unnested(loaded, path))


def _refusal(said: str) -> str:
    """Say why torch refused a pickle; its own message fills a page and advises to trust the file."""
    called = re.search(r"GLOBAL (\S+)", said)
    if called is None:
        return "not a checkpoint that holds only tensors (torch cannot unpickle it safely)"
    return (
        f"refused: it is a pickle that calls {called[1]}, and loading it could run any code; "
        "expected only tensors, as torch.save(network.state_dict(), …) writes them"
    )


def _unnested(loaded: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
            return dict(loaded)
        nest = next((key for key in NESTS if isinstance(loaded.get(key), Mapping)), None)
        if nest is None:
            keys = ", ".join(str(key) for key in list(loaded)[:5]) or "nothing"
            raise OnepixError(
                f"{path}: no state dict; expected tensors by name, or under {', '.join(NESTS)}, got {keys}"
            )
        loaded = loaded[nest]
    raise OnepixError(f"{path}: no state dict; expected tensors by name, got {type(loaded).__name__}")


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in WRAPPERS * 2:  # each may be inside the other
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _reason(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:200]
