"""Reads pickles without executing them: tensors and plain values as they are, everything else as inert remnants.

A pickle names classes and functions, and says with which arguments they are called. Here each name becomes a
`Remnant`, which only remembers these arguments. So nothing that a file names is imported or called, whatever it is.
The few names that make tensors and arrays are interpreted by functions of this module.
"""

import io
import math
import pickle
import struct
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

# The first object of a file that torch.save wrote before PyTorch 1.6, or with _use_new_zipfile_serialization=False.
MAGIC = 0x1950A86A20F9469CFC6C
OLD_STYLE = 5  # pickles in such a file: this number, a version, facts on the machine, the object, keys of storages
# Modules that no checkpoint needs to call. They are not called in any case; such a file is refused altogether.
HOSTILE = ("os", "posix", "nt", "sys", "subprocess", "pty", "runpy", "shutil", "socket", "webbrowser", "ctypes")
HOSTILE_BUILTINS = ("eval", "exec", "execfile", "compile", "open", "__import__", "breakpoint")
NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")  # NumPy's data types that tensors can hold


class Remnant:
    """What is left of an object whose class is unknown here: its class by name, its arguments, its state and items."""

    path: ClassVar[str] = ""  # the dotted name of the class or function
    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any, **_: Any) -> Any:
        """Interpret a call of what the file names; the result is a remnant, unless it makes a tensor."""
        if interpreted := CALLS.get(cls.path):
            return interpreted(*args)
        remnant = super().__new__(cls)
        remnant.args, remnant.items = args, {}
        return remnant

    def __init__(self, *_: Any, **__: Any) -> None:
        self.items: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __call__(self, *_: Any, **__: Any) -> "Remnant":
        """Be called in place of an object that can be called, and do nothing."""
        return self

    def append(self, item: Any) -> None:
        """Leave out an item of a list of an unknown class; pickle calls this."""

    add = append

    @property
    def contents(self) -> Mapping[Any, Any]:
        """Its attributes and items by name, and its arguments by number."""
        states = self.state if isinstance(self.state, tuple) else (self.state,)  # the second: of __slots__
        found: dict[Any, Any] = dict(enumerate(self.args))
        for state in states:
            found |= state if isinstance(state, dict) else {}
        return {**found, **self.items}


class Items(dict[Any, Any]):
    """An OrderedDict or defaultdict, without its further attributes."""

    def __init__(self, *items: Any) -> None:
        super().__init__(*[part for part in items if not isinstance(part, type)])  # a type: of missing values

    def __setstate__(self, state: Any) -> None:
        """Leave the attributes: torch keeps versions of modules there."""


class UnreadableError(Exception):
    """A file is not a pickle that can be read; the message says why."""


class HostileError(UnreadableError):
    """A pickle calls something that no checkpoint needs."""


class _Reader(pickle.Unpickler):
    """Unpickles; every class or function that a file names becomes a kind of `Remnant`."""

    def __init__(self, file: IO[bytes], storages: Callable[[Any], Tensor]) -> None:
        # Old pickles hold bytes as text; latin1 keeps them.
        super().__init__(file, encoding="latin1")
        self.persistent_load = storages  # type: ignore[method-assign]
        self.kinds: dict[str, type] = {"collections.OrderedDict": Items, "collections.defaultdict": Items}

    def find_class(self, module: str, name: str, /) -> type:
        """Return a remnant's class for a name; nothing is imported."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # of Python 2
        path = f"{module}.{name}"
        if module.partition(".")[0] in HOSTILE or path.removeprefix("builtins.") in HOSTILE_BUILTINS:
            raise HostileError(path)
        return self.kinds.setdefault(path, _kind(path))


def _kind(path: str) -> type:
    return type("Remnant", (Remnant,), {"path": path})


def read_pickle(path: Path) -> Any:
    """Read a file that torch.save, torch.jit.save or pickle.dump wrote.

    Parameters
    ----------
    path : Path
        A zip archive of torch (also TorchScript), its format before PyTorch 1.6, or a bare pickle.

    Returns
    -------
    object
        Mappings, lists, numbers, texts; tensors on the CPU; other objects as `Remnant`.

    Raises
    ------
    HostileError
        If it calls the operating system or the like.
    UnreadableError
        If it is truncated or not such a file.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _from_archive(archive)
        with path.open("rb") as file:
            return _from_stream(file, path.stat().st_size)
    except UnreadableError:
        raise
    except Exception as error:  # a damaged or malicious pickle can raise anything
        raise UnreadableError(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


def _from_archive(archive: zipfile.ZipFile) -> Any:
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "data.pkl" not in names:
        raise UnreadableError("a zip archive without data.pkl")
    if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
        raise UnreadableError("written on a machine with another order of bytes")

    def storage(reference: Any) -> Tensor:
        _, kind, key, _, _ = reference
        return _flat(archive.read(names[f"data/{key}"]), _dtype(kind))

    with archive.open(names["data.pkl"]) as file:
        return _Reader(file, _remembering(storage)).load()


def _from_stream(file: IO[bytes], size: int) -> Any:
    """Read a bare pickle, or torch's older format: five pickles, and after them the contents of all storages."""
    storages: dict[str, Tensor] = {}

    def storage(reference: Any) -> Tensor:
        if reference[0] == "module":  # a class, its file and its source
            return reference[1]  # type: ignore[no-any-return]
        _, kind, key, _, count, view = reference
        dtype = _dtype(kind)
        if not 0 <= count * dtype.itemsize <= size:
            raise UnreadableError("truncated")
        whole = storages.setdefault(key, torch.zeros(count, dtype=dtype))
        return whole if view is None else whole[view[1] : view[1] + view[2]]

    def one() -> Any:
        return _Reader(file, storage).load()

    first = one()
    if first != MAGIC:
        return first
    *_, contents, keys = [one() for _ in range(OLD_STYLE - 1)]
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        if count != len(storages[key]):
            raise UnreadableError("truncated")
        storages[key].copy_(_flat(file.read(count * storages[key].itemsize), storages[key].dtype))
    return contents


def _remembering(storage: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """Read each storage once: tensors may share it."""
    found: dict[str, Tensor] = {}

    def read(reference: Any) -> Tensor:
        key = str(reference[2])
        if key not in found:
            found[key] = storage(reference)
        return found[key]

    return read


def _flat(contents: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(contents), dtype=dtype) if contents else torch.empty(0, dtype=dtype)


def _dtype(kind: Any) -> torch.dtype:
    """Return the type of a storage, which a file names as torch.FloatStorage and the like, or of `torch.float32`."""
    name = kind.path.removeprefix("torch.storage.").removeprefix("torch.")
    if name == "UntypedStorage":
        return torch.uint8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # typed storages are deprecated, and yet files name them
        storage = getattr(torch, name, None) if name.endswith("Storage") else None
        dtype = storage.dtype if storage is not None else getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UnreadableError(f"a tensor of the unknown type {kind.path}")
    return dtype


# What makes tensors and arrays, by the names that files use


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)  # refuses what lies outside of the storage


def _tensor_of_type(storage: Tensor, offset: int, size: Any, stride: Any, *further: Any) -> Tensor:
    dtype = _dtype(further[2])
    return _tensor(storage.view(dtype) if storage.dtype != dtype else storage, offset, size, stride)


def _of_subclass(rebuild: Any, _kind: Any, args: Any, _state: Any) -> Any:
    """Rebuild a tensor that has attributes, or is of a class of its own."""
    return rebuild(*args)


def _nested(contents: bytes) -> Any:
    """Read a storage from a bare pickle: a file of torch inside it."""
    return _from_stream(io.BytesIO(contents), len(contents))


def _encoded(text: str, *_: Any) -> bytes:
    """Return bytes, which pickles of protocol 2 hold as text in latin1."""
    return text.encode("latin1")


class _Array(Remnant):
    """A NumPy array in the making: its state holds version, shape, type, order and contents."""


def array_tensor(value: Any) -> Tensor | None:
    """Return the tensor of a NumPy array that was read; None for all else, and for arrays of other things."""
    if not isinstance(value, _Array) or not isinstance(value.state, tuple):
        return None
    _, shape, kind, by_column, contents = value.state
    return _array(contents, kind, shape, "F" if by_column else "C")


def _array(contents: Any, kind: Any, shape: Any, order: str = "C") -> Tensor | None:
    """Return an array as a tensor, given the remnant of its data type."""
    letters = kind.args[0] if isinstance(kind, Remnant) and kind.args else None
    if letters not in NUMBERS or not isinstance(contents, bytes | bytearray):
        return None
    big = isinstance(kind.state, tuple) and kind.state[1] == ">"
    array = np.frombuffer(contents, np.dtype(letters).newbyteorder(">" if big else "<"), math.prod(shape))
    return torch.from_numpy(array.astype(letters).reshape(shape, order=order))  # type: ignore[call-overload]


def _attribute(owner: Any, name: Any, *_: Any) -> type:
    """Return the remnant's class of a class inside another one, or of a method."""
    return _kind(f"{getattr(owner, 'path', '')}.{name}")


CALLS: dict[str, Callable[..., Any]] = {
    "builtins.getattr": _attribute,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch.storage._load_from_bytes": _nested,
    "torch.Size": lambda size=(): tuple(size),
    "_codecs.encode": _encoded,
    "builtins.set": lambda items=(): set(items),
    "builtins.bytearray": lambda contents=b"", *_: contents,
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.numeric._frombuffer": _array,
    "numpy._core.numeric._frombuffer": _array,
}
