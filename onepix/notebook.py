"""For notebooks: images and networks that come with onepix, and attacks in one call."""

import dataclasses
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr

from onepix.analysis.positions import scan_maps
from onepix.attacks.attack import attack_images, clean_logits
from onepix.config.attacks import AttackSettings, DifferentialEvolution, RandomSearch, Scan
from onepix.config.engine import Engine
from onepix.config.reading import validated
from onepix.datasets.bundled import load_bundled
from onepix.engine import machine
from onepix.errors import OnepixError
from onepix.files.records import attacked_images
from onepix.images import ImageSet
from onepix.names import nearest
from onepix.networks.classifier import Classifier
from onepix.networks.weights import bundled, load_network_file

# What users set so that OpenMP's threads sleep while they wait; the last two are GNU's, and LLVM's and Intel's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
BUSY = (
    "other programs use {busy:.1f} of the {cores} cores, and beside them PyTorch's waiting threads make attacks "
    'several times as slow. Set os.environ["OMP_WAIT_POLICY"] = "passive" before PyTorch is first imported, or call '
    "torch.set_num_threads(1) now; the results are the same."
)
_looked = False  # once per process

METHODS: dict[str, type[DifferentialEvolution] | type[RandomSearch] | type[Scan]] = {
    "differential_evolution": DifferentialEvolution,
    "random_search": RandomSearch,
    "scan": Scan,
}


def bundled_images() -> ImageSet:
    """Return the first 100 CIFAR-10 test images, which come with onepix.

    Returns
    -------
    ImageSet
        `images` uint8, shape (100, 32, 32, 3); `labels` int64, shape (100,); `class_names` by label.
    """
    return load_bundled()


def bundled_network(name: str, device: str | torch.device = "cpu") -> Classifier:
    """Load a network that comes with onepix.

    Parameters
    ----------
    name : str
        `lenet` or `resnet20`.
    device : str or torch.device
        Where it is evaluated.

    Returns
    -------
    Classifier
        In evaluation mode.

    Raises
    ------
    OnepixError
        If onepix comes with no network of this name.
    """
    files = bundled()
    if name not in files:
        raise OnepixError(f"network '{name}' does not come with onepix; {nearest(name, files)}")
    return load_network_file(files[name], device)


def load_network(file: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """Load a network that onepix has written.

    Parameters
    ----------
    file : str or Path
        A safetensors file, as `onepix train` writes it; its metadata hold architecture and input scaling.
    device : str or torch.device
        Where it is evaluated.

    Returns
    -------
    Classifier
        In evaluation mode.

    Raises
    ------
    OnepixError
        If the file is missing, truncated, or was not written by onepix.
    """
    return load_network_file(Path(file), device)


def attack(
    classifier: Classifier,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    method: str = "differential_evolution",
    *,
    ids: npt.ArrayLike | None = None,
    engine: Engine | Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[pd.DataFrame, npt.NDArray[np.uint8]]:
    """Attack images.

    Parameters
    ----------
    classifier : Classifier
        A network in evaluation mode with its input scaling; its device is used.
    images : array_like
        uint8, shape (N, H, W, C) or (N, H, W).
    labels : array_like
        int, shape (N,): true classes.
    method : str
        `differential_evolution`, `scan` or `random_search`.
    ids : array_like, optional
        int, shape (N,), each once. Seed and id together set an image's random stream. Default: 0, 1, 2, …
    engine : Engine or mapping, optional
        Precision, micro-batch and the like: `onepix.config.engine.Engine`.
    **settings
        Settings of the method: see `onepix.config.attacks.DifferentialEvolution`, `Scan`, `RandomSearch`.

    Returns
    -------
    table : DataFrame
        One row per image, or per image and target; columns as in `onepix.files.records.SCHEMA`. `attrs["evaluation"]`
        holds the precision, the micro-batch and the like.
    attacked : ndarray
        uint8, shape (rows, H, W, C): the image of each row with its pixels changed. Where `eligible` is False (the
        network misclassifies the original image), it is the original image.

    Raises
    ------
    OnepixError
        With one line: what was wrong, and what was expected.
    """
    chosen = settings_of(method, settings)
    pictures = _image_set(classifier, images, labels, ids)
    _tell_of_busy_cores(classifier)
    done = attack_images(classifier, pictures, chosen, _engine(engine))
    records = done.records
    records.attrs["evaluation"] = done.evaluation
    changed = pictures.images[pictures.indices(records["image_id"])]
    mask = records["eligible"].to_numpy()
    changed[mask] = attacked_images(changed[mask], records[mask])
    return records, changed


def scan(
    classifier: Classifier,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    ids: npt.ArrayLike | None = None,
    engine: Engine | Mapping[str, Any] | None = None,
    **settings: Any,
) -> xr.Dataset:
    """Scan images and return their position maps; parameters and errors as in `attack`.

    Returns
    -------
    Dataset
        As in `onepix.analysis.positions.scan_maps`, for the images that the network classifies correctly. With
        `stop="first"`, margins are NaN where the scan ended before.

    Notes
    -----
    Flips are decided in float32, and so are margins within the bound (`Engine.bound`) of a flip. Margins further away
    carry the error of screening; with `engine={"precision": "float32"}` that is the rounding of float32.
    """
    chosen = settings_of("scan", settings)
    pictures = _image_set(classifier, images, labels, ids)
    _tell_of_busy_cores(classifier)
    done = attack_images(classifier, pictures, chosen, _engine(engine), keep_maps=True)
    assert done.maps is not None
    return scan_maps(done.maps, done.records)


def settings_of(method: str, settings: Mapping[str, Any]) -> AttackSettings:
    """Check the settings of a method; OnepixError if the method or a key is unknown, or a value is wrong."""
    if method not in METHODS:
        raise OnepixError(f"attack method '{method}' is unknown; {nearest(method, METHODS)}")
    return validated(METHODS[method], {"method": method, **settings}, method)


def _engine(engine: Engine | Mapping[str, Any] | None) -> Engine:
    return engine if isinstance(engine, Engine) else validated(Engine, engine or {}, "engine")


def _tell_of_busy_cores(classifier: Classifier) -> None:
    """Warn, once per process, where other programs are busy and OpenMP's threads do not sleep while they wait."""
    global _looked
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    if _looked or any(map(os.environ.get, WAITING)) or threads == 1 or classifier.mean.device.type != "cpu":
        return
    _looked = True
    busy = machine.busy_cores()
    if busy is not None and busy > 0.5 and busy + threads > cores + 0.5:
        warnings.warn(BUSY.format(busy=busy, cores=cores), stacklevel=3)


def _image_set(
    classifier: Classifier, images: npt.ArrayLike, labels: npt.ArrayLike, ids: npt.ArrayLike | None
) -> ImageSet:
    """Check images and labels; the number of classes is the number of the network's outputs."""
    if not isinstance(classifier, Classifier):
        raise OnepixError(
            f"expected an onepix.Classifier, got {type(classifier).__name__}; "
            "onepix.Classifier(network, mean, std) makes one of a torch.nn.Module"
        )
    pictures = np.asarray(images)
    pictures = pictures[..., None] if pictures.ndim == 3 else pictures
    given = np.asarray(labels)
    if len(pictures) == 0 or given.dtype.kind not in "iu":
        raise OnepixError(f"expected images and whole-number labels, got {len(pictures)} and {given.dtype}")
    numbers = np.arange(len(pictures)) if ids is None else np.asarray(ids, dtype=np.int64)
    given = given.astype(np.int64)
    checked = ImageSet(pictures, given, numbers, _names(max(int(given.max()) + 1, 1)), "given in a call")
    first = torch.from_numpy(pictures[:1]).to(classifier.mean.device)
    return dataclasses.replace(checked, class_names=_names(clean_logits(classifier, first, classifier).shape[1]))


def _names(classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(classes)))
