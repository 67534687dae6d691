"""Tries a configuration before it runs: every network on every dataset of its runs."""

import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onepix.config.datasets import BundledDataset, Cifar10Dataset
from onepix.config.networks import NetworkSettings
from onepix.config.study import Config
from onepix.errors import OfflineError, OnepixError
from onepix.files.manifests import read_manifest

if TYPE_CHECKING:  # each pair is checked in its own process, and only that imports torch
    from onepix.images import ImageSet
    from onepix.networks.classifier import Classifier

T = TypeVar("T")
KILLED = "the process that tried it was killed; perhaps the memory was full"
TRIED = 1.0  # seconds during which passes are counted, after a first pass


@dataclasses.dataclass
class CheckedPair:
    """The findings about one network on one dataset; None where unknown.

    Attributes
    ----------
    dataset, network : str
        Their names.
    selected, images : int or None
        Images that runs attack, and images of the dataset.
    shape : tuple of int or None
        Height, width and channels.
    classes : int or None
        Of the dataset.
    accuracy : tuple of int or None
        Images of the sample classified as labelled, and images of the sample.
    scaling : dict
        `mean` and `std`, one number per channel; empty if unknown.
    memory : int or None
        Peak memory of the process (on a GPU: of PyTorch's tensors), in bytes.
    passes : float or None
        Candidates screened per second.
    unfollowed : list of str
        What propagation does not follow in the network, or not as maps: see `onepix.layers.plan.Plan`.
    weights : str
        Where the weights come from.
    verified : str
        How their file is verified; empty if it is not.
    fetches : list of str
        What would have to be fetched.
    fault : str
        The mistake that would stop the run; empty if there is none.
    """

    dataset: str
    network: str
    selected: int | None = None
    images: int | None = None
    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    accuracy: tuple[int, int] | None = None
    scaling: dict[str, Any] = dataclasses.field(default_factory=dict)
    memory: int | None = None
    passes: float | None = None
    unfollowed: list[str] = dataclasses.field(default_factory=list)
    weights: str = ""
    verified: str = ""
    fetches: list[str] = dataclasses.field(default_factory=list)
    fault: str = ""


def check(config: Config, sample: int = 100, fetch: bool = False) -> Iterator[CheckedPair]:
    """Try every network on every dataset of its runs, each pair in a new process.

    Parameters
    ----------
    config : Config
        A study.
    sample : int
        Images on which the accuracy is measured: the first of those selected.
    fetch : bool
        Fetch what is missing; otherwise it is only named, and what depends on it stays unknown.

    Yields
    ------
    CheckedPair
        For each pair, in the order of the runs.
    """
    pairs = dict.fromkeys((run.dataset, network) for run in config.runs for network in run.networks)
    for pair in pairs:
        yield check_pair(config, *pair, sample, fetch)


def check_pair(
    config: Config, dataset: str, network: str, sample: int, fetch: bool = False, threads: int | None = None
) -> CheckedPair:
    """Try one network on one dataset, in its own process.

    Parameters
    ----------
    config, sample, fetch
        As in `check`.
    dataset, network : str
        Their names.
    threads : int, optional
        Threads of PyTorch; default: all cores.

    Returns
    -------
    CheckedPair
        With the mistake, if there is one, as `fault`.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_row, config, dataset, network, sample, fetch, threads).result()
    except BrokenProcessPool:
        return CheckedPair(dataset, network, fault=KILLED)


def _row(config: Config, dataset: str, network: str, sample: int, fetch: bool, threads: int | None) -> CheckedPair:
    if not fetch:
        os.environ["ONEPIX_OFFLINE"] = "1"
    if threads:
        _keep_to(threads)
    row = CheckedPair(dataset, network)
    try:
        loaded, chosen = _load_pair(row, config)
        classifier = loaded or _with_fresh_weights(config, network)
        if chosen is not None:
            _try_out(row, config, classifier, chosen.select(chosen.ids[:sample].tolist()), loaded is not None)
        elif facts := known(config, dataset):
            row.shape, row.classes = facts
            _try_out(row, config, classifier, _noise(*facts), with_accuracy=False)
    except OnepixError as error:
        row.fault = str(error)
    row.memory = _peak_memory()
    return row


def _keep_to(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def known(config: Config, dataset: str) -> tuple[tuple[int, int, int], int] | None:
    """Return shape of the images and number of classes of a dataset, if known before it is loaded."""
    if isinstance(config.datasets[dataset], BundledDataset | Cifar10Dataset):
        return (32, 32, 3), 10
    manifest = _fetched(config, dataset)
    if manifest is None:
        return None
    facts = read_manifest(manifest)
    height, width, channels = facts["shape"]
    return (height, width, channels), len(facts["class_names"])


def _fetched(config: Config, dataset: str) -> Path | None:
    """Return the manifest of a dataset, if it was fetched with its present settings."""
    manifest = config.layout.dataset(dataset)
    if not manifest.exists():
        return None
    made_by = read_manifest(manifest)["settings"]["dataset"]
    return manifest if made_by == config.datasets[dataset].model_dump(mode="json") else None


def _noise(shape: tuple[int, int, int], classes: int) -> "ImageSet":
    """Return one random image instead of missing ones: the speed does not depend on the image."""
    import numpy as np

    from onepix.images import ImageSet

    picture = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8)
    return ImageSet(picture, np.zeros(1, np.int64), np.arange(1), tuple(map(str, range(classes))), "noise")


def _load_pair(row: CheckedPair, config: Config) -> tuple["Classifier | None", "ImageSet | None"]:
    """Load a row's network, on its device, and the images that are attacked on it; None for what is missing.

    Notes in the row what they are, and what would be fetched.

    Raises
    ------
    OnepixError
        For a mistake that would stop the run.
    """
    from onepix.engine.devices import choose_device, keep_memory

    keep_memory()
    images = _unless_absent(row, row.dataset, lambda: _images(config, row.dataset))
    device = choose_device(config.engine.device)
    loaded = _loaded(row, config, row.network)
    return loaded and loaded.to(device), None if images is None else _selected(row, config, images)


def _unless_absent(row: CheckedPair, name: str, load: Callable[[], T]) -> T | None:
    try:
        return load()
    except OfflineError as error:
        row.fetches.append(f"{name}: {error.missing}")
        return None


def _images(config: Config, name: str) -> "ImageSet":
    from onepix.datasets.arrays import read_images
    from onepix.datasets.sources import load_dataset

    settings = config.datasets[name]
    remade = isinstance(settings, BundledDataset)
    if not remade and (manifest := _fetched(config, name)):
        return read_images(manifest)
    cifar10 = _cifar10(config) if isinstance(settings, Cifar10Dataset) else None
    return load_dataset(settings, cifar10, config.layout.downloads())


def _cifar10(config: Config) -> Path:
    from onepix.datasets.cifar10 import fetch_cifar10

    folder = config.layout.cifar10().with_suffix("")
    fetch_cifar10(folder, Path(config.existing_cifar10) if config.existing_cifar10 else None)
    return folder


def _loaded(row: CheckedPair, config: Config, name: str) -> "Classifier | None":
    """Load a network, if its weights are here."""
    from onepix.networks.sources import find, load_classifier

    settings = config.networks[name]
    row.scaling = {"mean": settings.mean, "std": settings.std} if settings.mean else {}
    trained = _trained(config, name, settings)
    if settings.weights == "train" and trained is None:
        row.weights = "to be trained"
        return None
    source = find(settings, trained)
    row.weights, row.verified = source.origin, source.verified if source.sha256 else ""
    loaded = _unless_absent(row, name, lambda: load_classifier(settings, source)[0])
    if loaded is not None:
        row.scaling = loaded.scaling
    return loaded


def _with_fresh_weights(config: Config, network: str) -> "Classifier":
    """Build a network whose weights are missing, on its device: the speed does not depend on the weights."""
    from onepix.engine.devices import choose_device
    from onepix.networks.build import build
    from onepix.networks.classifier import Classifier

    settings = config.networks[network]
    classifier = Classifier(build(settings.architecture, settings.classes, settings.channels)).eval()
    return classifier.to(choose_device(config.engine.device))


def _trained(config: Config, name: str, settings: NetworkSettings) -> Path | None:
    path = config.layout.trained(name)
    return path if settings.weights == "train" and path.exists() else None


def _selected(row: CheckedPair, config: Config, images: "ImageSet") -> "ImageSet":
    """Return the images that the runs of this pair attack."""
    from onepix.datasets.selection import select

    wanted: set[int] = set()
    for index, run in enumerate(config.runs):
        if run.dataset == row.dataset and row.network in run.networks:
            wanted.update(select(run.images, images.ids, images.labels, f"runs.{index}.images"))
    row.images, row.shape = len(images.ids), images.images.shape[1:]
    row.classes = len(images.class_names)
    chosen = images.select(sorted(wanted))
    row.selected = len(chosen.ids)
    return chosen


def _try_out(row: CheckedPair, config: Config, classifier: "Classifier", few: "ImageSet", with_accuracy: bool) -> None:
    """Classify a few images, and count the candidates screened per second."""
    import torch

    from onepix.attacks.attack import clean_logits
    from onepix.attacks.search import PASSES_PER_ROUND
    from onepix.engine.evaluator import Evaluator
    from onepix.engine.speed import passes_per_second
    from onepix.layers.plan import plan

    pictures = torch.from_numpy(few.images).to(classifier.mean.device)
    evaluator = Evaluator(classifier, config.engine, few.images.shape[1:])
    logits = clean_logits(classifier, pictures, evaluator.classify)
    few.with_classes(logits.shape[1])
    if with_accuracy:
        correct = logits.argmax(1).cpu() == torch.from_numpy(few.labels)
        row.accuracy = int(correct.sum()), len(few.labels)
    row.passes = passes_per_second(evaluator, pictures[:1], PASSES_PER_ROUND * evaluator.micro_batch, TRIED)
    height, width, channels = few.images.shape[1:]
    planned = plan(classifier.network, (channels, height, width), config.propagation.layers).required()
    row.unfollowed = [*planned.unfollowed]


def _peak_memory() -> int | None:
    """Return the most memory that this process has held, in bytes; on a GPU, that of its tensors."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() or None
    try:
        import resource
    except ImportError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
