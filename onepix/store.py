"""Files in and out: written under a temporary name, renamed when whole, checked when read."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import onepix
from onepix.errors import OnepixError

if TYPE_CHECKING:  # imported where it is used: it costs start-up time
    import xarray as xr

LIBRARIES = ("torch", "numpy", "zarr", "xarray", "pyarrow")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block ends well.

    A kill, an error or a full disk leaves `path` as it was. Works for a file and for a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = holder / path.name
    try:
        yield temporary
        for file in _files(temporary):
            _sync(file)
        if path.is_dir():
            path.rename(holder / "replaced")
        temporary.replace(path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder."""
    if path.is_file():
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in _files(path):
        whole.update(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n".encode())
    return whole.hexdigest()


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
        "versions": {
            "onepix": onepix.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
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
    """Write a tree of maps as zarr v3: a chunk an image, all images of an array in one shard file."""
    encoding = {}
    for node in tree.subtree:
        arrays = [str(name) for name, array in node.data_vars.items() if array.ndim > 1]
        encoding[node.path] = {
            name: {"chunks": (1, *node[name].shape[1:]), "shards": node[name].shape}
            for name in arrays
            if node[name].size
        }
    with replacing(path) as temporary, warnings.catch_warnings():
        # zarr warns that consolidated metadata are young in v3; xarray reads a tree of groups far faster with them.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        tree.to_zarr(temporary, zarr_format=3, encoding=encoding, write_inherited_coords=True)


def read_tree(path: Path) -> "xr.DataTree":
    """Open a tree of maps lazily."""
    import xarray as xr

    return xr.open_datatree(path, engine="zarr", chunks={})


def across(trees: Sequence["xr.DataTree"], group: str, variable: str) -> npt.NDArray[Any]:
    """Read a variable of several chunks' trees, joined by image."""
    return np.concatenate([tree[group or "/"].to_dataset()[variable].values for tree in trees])


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def _sync(file: Path) -> None:
    """Force a file to the disk, so that a full disk shows now and not after the rename."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
