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

CHUNK = 1 << 22  # bytes of a zarr chunk; zarr takes about half a millisecond for each, however small
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


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def _sync(file: Path) -> None:
    """Force a file to the disk, so that a full disk shows now and not after the rename."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
