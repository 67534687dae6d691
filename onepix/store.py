"""Files in and out: written under a temporary name, renamed when whole, checked when read."""

import contextlib
import errno
import functools
import glob
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import onepix
from onepix.errors import OnepixError

if TYPE_CHECKING:  # imported where it is used: it costs start-up time
    import xarray as xr

CHUNK = 1 << 22  # bytes of a zarr chunk; zarr takes about half a millisecond for each, however small
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what a disk answers without naming the file
UNLOCKABLE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems without locks
TAKEN = (errno.ENOENT, errno.ESTALE, errno.EAGAIN)  # what is gone, or locked
ATTEMPTS = 1000  # at a temporary folder that nobody takes
LIBRARIES = ("torch", "numpy", "zarr", "xarray", "pyarrow")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block ends well.

    A kill, an error or a full disk leaves `path` as it was. Works for a file and for a folder.

    Raises
    ------
    OSError
        Of the disk, by the name of `path`.
    """
    holder: Path | None = None
    lock: int | None = None
    try:
        remove_leftovers(path)
        try:
            with _signals_put_off():
                holder, lock = _locked_holder(path)
            temporary = holder / path.name
            yield temporary
            for file in _files(temporary):
                _sync(file)
            with _signals_put_off():
                if path.is_dir():
                    path.rename(holder / "replaced")
                temporary.replace(path)
        finally:
            if holder:
                with _signals_put_off():
                    _discard(holder, lock)
    except OSError as error:
        ours = error.errno in DISK if error.filename is None else f"/.{path.name}." in f"/{error.filename}"
        if ours and error.errno:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextlib.contextmanager
def _signals_put_off() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off to the end of the block: half way, their exceptions would leave a folder behind."""
    if threading.current_thread() is not threading.main_thread():  # no other is interrupted by them
        yield
        return
    arrived: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not None  # not Python's, so that it could not be put back
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def remove_leftovers(path: Path) -> None:
    """Remove temporary folders of `path` whose writers were killed; where that cannot be told, they stay.

    A writer holds a lock in its folder as long as it lives. Locks of other machines are not trusted: not every shared
    file system passes them on.
    """
    for holder in path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}/"):
        with contextlib.suppress(OSError):
            holder.rmdir()  # its writer, if it lives, makes another
        with contextlib.suppress(OSError):  # there is no lock, or it is held
            _discard(holder, _lock(holder, create=False))


def _locked_holder(path: Path) -> tuple[Path, int | None]:
    """Make a temporary folder beside `path`, and lock it, where that can be done."""
    for attempt in itertools.count():
        holder = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            return holder, _lock(holder, create=True)
        except OSError as error:
            if holder and error.errno in UNLOCKABLE:
                return holder, None
            if holder:
                _discard(holder, None)
            # Another process took the folder, not locked yet, for a leftover; or removed its parent, which was empty.
            if error.errno not in TAKEN or attempt == ATTEMPTS:
                raise
    raise AssertionError


def _lock(holder: Path, create: bool) -> int:
    """Lock a temporary folder; return what is to be closed. An OSError tells that it is gone, or held."""
    if sys.platform == "win32":
        raise OSError(errno.ENOLCK, "no such locks")
    import fcntl

    file = holder / f".{platform.node()}.lock"
    descriptor = os.open(file, os.O_RDWR | (os.O_CREAT if create else 0))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.stat()  # it may have been removed since it was opened
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _discard(holder: Path, lock: int | None) -> None:
    """Remove a temporary folder; its lock last, since nobody could tell what the rest is without."""
    for part in holder.glob("[!.]*"):
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(holder, ignore_errors=True)
    if lock is not None:
        os.close(lock)
    with contextlib.suppress(OSError):
        holder.rmdir()  # on NFS, the open lock was left in it under another name


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder."""
    if path.is_file():
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    return _names_and_contents(path, _files(path))


@functools.cache
def source_digest() -> str:
    """Return the SHA-256 of the library's modules, names and contents: a version does not tell which code ran."""
    folder = Path(onepix.__file__).parent
    return _names_and_contents(folder, sorted(folder.rglob("*.py")))


def write_manifest(path: Path, data: Path, settings: Mapping[str, Any], **facts: Any) -> None:
    """Write the JSON that says a chunk's data are whole; the data must lie beside it already.

    Parameters
    ----------
    path : Path
        Of the manifest.
    data : Path
        A file or folder in the same folder.
    settings : mapping
        What made the data.
    **facts
        Anything else worth knowing: image ids, device, digests of inputs.
    """
    manifest = {
        "data": data.name,
        "sha256": digest(data),
        "settings": settings,
        **facts,
        "source": source_digest(),
        "versions": dict(versions()),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises
    ------
    OnepixError
        If it is missing or no manifest.
    """
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        manifest["data"], manifest["sha256"]
    except FileNotFoundError:
        raise OnepixError(f"{path}: not found; run the workflow to make it") from None
    except (ValueError, KeyError, TypeError):
        raise OnepixError(f"{path}: not a manifest; delete it and run the workflow again") from None
    return manifest


def checked_data(manifest_path: Path, part: str | None = None) -> Path:
    """Return the path of a manifest's data, or of a further part of them, after comparing their digest.

    Raises
    ------
    OnepixError
        If the data are missing, truncated or altered.
    """
    manifest = read_manifest(manifest_path)
    if part is not None:
        manifest = manifest[part]
    data: Path = manifest_path.parent / manifest["data"]
    mend = f"delete {manifest_path} and run the workflow again to remake them"
    if not data.exists():
        raise OnepixError(f"{data}: the data are missing; {mend}")
    found = digest(data)
    if found != manifest["sha256"]:
        raise OnepixError(
            f"{data}: truncated or altered (SHA-256 {found[:12]}…, expected {manifest['sha256'][:12]}…); {mend}"
        )
    return data


def write_tree(tree: "xr.DataTree", path: Path) -> None:
    """Write a tree of maps as zarr v3, chunked along the images: as many to a chunk as make 4 MB, uncompressed."""
    encoding = {}
    for node in tree.subtree:
        arrays = {str(name): array for name, array in node.data_vars.items() if array.ndim > 1 and array.size}
        encoding[node.path] = {
            name: {"chunks": (min(len(array), max(1, CHUNK // array[:1].nbytes)), *array.shape[1:])}
            for name, array in arrays.items()
        }
    import zarr

    with replacing(path) as temporary, warnings.catch_warnings():
        # zarr warns that consolidated metadata are young in v3; xarray reads a tree of groups far faster with them.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        # xarray would consolidate after each group, and read all that is there each time.
        tree.to_zarr(temporary, zarr_format=3, encoding=encoding, consolidated=False)
        zarr.consolidate_metadata(str(temporary), zarr_format=3)


def read_tree(path: Path) -> "xr.DataTree":
    """Open a tree of maps lazily."""
    import xarray as xr

    return xr.open_datatree(path, engine="zarr", chunks={})


def across(trees: Sequence["xr.DataTree"], group: str, variable: str) -> npt.NDArray[Any]:
    """Read a variable of several chunks' trees, joined by image."""
    arrays = [tree[group or "/"].to_dataset()[variable] for tree in trees]
    return np.concatenate([array.values for array in arrays], axis=arrays[0].dims.index("image"))


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of what computes; of CUDA, what torch was built with, if it was."""
    found = {name: version(name) for name in LIBRARIES}
    torch = importlib.util.find_spec("torch")  # not imported: that takes seconds
    assert torch is not None
    assert torch.origin is not None
    cuda = runpy.run_path(str(Path(torch.origin).with_name("version.py")))["cuda"]
    return {"onepix": onepix.__version__, "python": platform.python_version(), **found} | (
        {"cuda": cuda} if cuda else {}
    )


def _names_and_contents(folder: Path, files: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(folder).as_posix()}\0{digest(file)}\n".encode())
    return whole.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def _sync(file: Path) -> None:
    """Force a file to the disk, so that a full disk shows now and not after the rename."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
