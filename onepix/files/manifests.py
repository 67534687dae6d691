"""Manifests: what data are, how they were made, and their digest, which is checked when they are read."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import platform
import runpy
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onepix
from onepix.errors import OnepixError
from onepix.files.atomic import files_in, replacing
from onepix.files.closure import closure

FIRST = 1  # version of data from before manifests stated one
LIBRARIES = ("torch", "numpy", "zarr", "xarray", "pyarrow")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder."""
    if path.is_file():
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    return names_and_contents(path, files_in(path))


def source_digest(module: str) -> str:
    """Return the SHA-256 of names and contents of all that a module depends on: which code ran, exactly."""
    return names_and_contents(Path(onepix.__file__).parent, closure(module))


@dataclasses.dataclass(frozen=True)
class Format:
    """The format of stored data; the module that writes and reads them defines it.

    Attributes
    ----------
    name : str
        What the data are, in the plural, for messages.
    version : int
        Raised when older data can no longer be read in the same way.
    """

    name: str
    version: int


def described(data: Path, form: Format | None = None) -> dict[str, Any]:
    """Return what a manifest says about data: name, digest, and format."""
    stated = {"format": form.name, "version": form.version} if form else {}
    return {"data": data.name, "sha256": digest(data), **stated}


def write_manifest(
    path: Path, data: Path, settings: Mapping[str, Any], module: str, form: Format | None = None, **facts: Any
) -> None:
    """Write a manifest, which says that data are complete; the data must lie next to it already.

    Parameters
    ----------
    path : Path
        The manifest.
    data : Path
        A file or folder in the same folder.
    settings : mapping
        The settings of the job.
    module : str
        The job's module: the digest of its code, and of all code that it imports, shows which code made the data.
    form : Format, optional
        Format of the data.
    **facts
        Anything else worth knowing: image ids, device, digests of inputs.
    """
    manifest = {
        **described(data, form),
        "settings": settings,
        **facts,
        "source": source_digest(module),
        "versions": dict(versions()),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises
    ------
    OnepixError
        If it is missing or not a manifest.
    """
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        manifest["data"], manifest["sha256"]
    except FileNotFoundError:
        raise OnepixError(f"{path}: not found; run the workflow to make it") from None
    except (ValueError, KeyError, TypeError):
        raise OnepixError(f"{path}: not a manifest; delete it and run the workflow again") from None
    return manifest


def is_current(manifest: Mapping[str, Any], form: Format) -> bool:
    """Tell, by a manifest, whether data have the version of a format that is read now."""
    return bool(manifest.get("version", FIRST) == form.version)


def checked_data(manifest_path: Path, form: Format | None = None, part: str | None = None) -> Path:
    """Return the path of a manifest's data, or of a part of them, after comparing version and digest.

    Parameters
    ----------
    manifest_path : Path
        The manifest.
    form : Format, optional
        Expected format; default: the version is not compared.
    part : str, optional
        A key of the manifest that describes further data.

    Raises
    ------
    OnepixError
        If the data are missing, truncated, altered or of another version.
    """
    manifest = read_manifest(manifest_path)
    if part is not None:
        manifest = manifest[part]
    if form and not is_current(manifest, form):
        found = manifest.get("version", FIRST)
        raise OnepixError(
            f"{manifest_path}: {form.name} of version {found}, expected version {form.version}; "
            f"snakemake --cores all --force {manifest_path} makes them again"
        )
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


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of libraries, and of the CUDA that torch was built with, if any."""
    found = {name: version(name) for name in LIBRARIES}
    torch = importlib.util.find_spec("torch")  # not imported: that takes seconds
    assert torch is not None
    assert torch.origin is not None
    cuda = runpy.run_path(str(Path(torch.origin).with_name("version.py")))["cuda"]
    return {"onepix": onepix.__version__, "python": platform.python_version(), **found} | (
        {"cuda": cuda} if cuda else {}
    )


def names_and_contents(folder: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 of names (relative to a folder) and contents of files."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(folder).as_posix()}\0{digest(file)}\n".encode())
    return whole.hexdigest()
