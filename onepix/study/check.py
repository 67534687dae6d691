"""Tries a configuration before it runs: every network on every dataset of its runs."""

import contextlib
import dataclasses
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onepix.config.attacks import AttackSettings, DifferentialEvolution, Scan
from onepix.config.datasets import BundledDataset, Cifar10Dataset
from onepix.config.networks import NetworkSettings
from onepix.config.study import Config
from onepix.errors import OfflineError, OnepixError
from onepix.files.manifests import read_manifest

if TYPE_CHECKING:  # each pair is checked in its own process, and only that imports torch
    from onepix.images import ImageSet
    from onepix.networks.classifier import Classifier

    Loaded = tuple[Classifier, dict[str, Any]]  # a network and the metadata of its weights

T = TypeVar("T")
KILLED = "the process that tried it was killed; perhaps the memory was full"
TRIED = 1.0  # seconds during which passes are counted, after a first pass
CANDIDATES = 16  # of each attack that is tried


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
    counted : list of (int, str, int)
        Classes that occur: index among the network's outputs (if it fits, else among the dataset's names), name, and
        images of the dataset.
    outputs : int or None
        Classes of the network.
    notes : tuple of str
        What was noticed when the images were read.
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
    logits : str
        Which part of the network's output is taken as its logits; empty if unknown.
    taken : str
        Which tensors of the file are the network's, and what was left over; empty where all names are equal.
    fetches : list of str
        What would have to be fetched.
    warnings : list of str
        What does not stop the run, but should be known before.
    fault : str
        The mistake that would stop the run; empty if there is none.
    """

    dataset: str
    network: str
    selected: int | None = None
    images: int | None = None
    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    counted: list[tuple[int, str, int]] = dataclasses.field(default_factory=list)
    outputs: int | None = None
    notes: tuple[str, ...] = ()
    accuracy: tuple[int, int] | None = None
    scaling: dict[str, Any] = dataclasses.field(default_factory=dict)
    memory: int | None = None
    passes: float | None = None
    unfollowed: list[str] = dataclasses.field(default_factory=list)
    weights: str = ""
    verified: str = ""
    logits: str = ""
    taken: str = ""
    fetches: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
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
    config: Config, dataset: str, network: str, sample: int, fetch: bool = False, threads: int = 1
) -> CheckedPair:
    """Try one network on one dataset, in its own process.

    Parameters
    ----------
    config, sample, fetch
        As in `check`.
    dataset, network : str
        Their names.
    threads : int
        Threads of PyTorch; a job has one.

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
    except Exception as error:  # what cannot be sent between processes, for instance
        return CheckedPair(dataset, network, fault=" ".join(f"{type(error).__name__}: {error}".split()))


def _row(config: Config, dataset: str, network: str, sample: int, fetch: bool, threads: int) -> CheckedPair:
    if not fetch:
        os.environ["ONEPIX_OFFLINE"] = "1"
    _keep_to(threads)
    row = CheckedPair(dataset, network)
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            _find_out(row, config, sample)  # without what networks print, and progress bars
    except OfflineError as error:  # a factory that downloads cannot build even a network with fresh weights
        if not row.fetches:
            row.fetches.append(f"{network}: {error.missing}")
    except OnepixError as error:
        row.fault = str(error)
    row.memory = _peak_memory()
    return row


def _find_out(row: CheckedPair, config: Config, sample: int) -> None:
    """Fill in a row; OnepixError for a mistake that would stop the run, whatever was raised."""
    from onepix.networks.gate import telling, words

    try:
        with telling("unexpected"):
            loaded, chosen = _load_pair(row, config)
            classifier, metadata = loaded or _with_fresh_weights(config, row.network)
            if chosen is not None:
                few = chosen.select(chosen.ids[:sample].tolist())
                _try_out(row, config, classifier, metadata, few, loaded is not None)
            elif facts := known(config, row.dataset):
                row.shape, row.classes = facts
                _try_out(row, config, classifier, metadata, _noise(*facts), with_accuracy=False)
    except (RuntimeError, MemoryError) as error:  # `telling` lets pass only this
        raise OnepixError(f"out of memory: {words(error)}") from error


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


def _load_pair(row: CheckedPair, config: Config) -> tuple["Loaded | None", "ImageSet | None"]:
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
    if loaded is not None:
        loaded[0].to(device)
    return loaded, None if images is None else _selected(row, config, images)


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


def _loaded(row: CheckedPair, config: Config, name: str) -> "Loaded | None":
    """Load a network and its metadata, if its weights are here."""
    from onepix.networks.matching import told
    from onepix.networks.sources import find, load_classifier

    settings = config.networks[name]
    row.scaling = {"mean": settings.mean, "std": settings.std} if settings.mean else {}
    trained = _trained(config, name, settings)
    if settings.weights == "train" and trained is None:
        row.weights = "to be trained"
        return None
    source = find(settings, trained)
    row.weights, row.verified = source.origin, source.verified if source.sha256 else ""
    loaded = _unless_absent(row, name, lambda: load_classifier(settings, source))
    if loaded is None:
        return None
    classifier, metadata = loaded
    classifier.name = name
    row.scaling, row.taken = classifier.scaling, told(metadata.get("tensors", {}))
    return loaded


def _with_fresh_weights(config: Config, network: str) -> "Loaded":
    """Build a network whose weights are missing, on its device: the speed does not depend on the weights."""
    from onepix.engine.devices import choose_device
    from onepix.networks.build import build
    from onepix.networks.classifier import Classifier
    from onepix.networks.sources import architecture_metadata

    settings = config.networks[network]
    mean, std = settings.mean or 0.0, settings.std or 1.0
    fresh = build(settings.architecture, settings.classes, settings.channels, settings.arguments)
    classifier = Classifier(fresh, mean, std, network).eval().to(choose_device(config.engine.device))
    return classifier, architecture_metadata(settings, fresh, mean, None)


def _trained(config: Config, name: str, settings: NetworkSettings) -> Path | None:
    path = config.layout.trained(name)
    return path if settings.weights == "train" and path.exists() else None


def _selected(row: CheckedPair, config: Config, images: "ImageSet") -> "ImageSet":
    """Return the images that the runs of this pair attack."""
    from onepix.datasets.selection import select

    row.images, row.shape = len(images.ids), images.images.shape[1:]
    row.classes, row.notes = len(images.class_names), images.notes
    row.counted = [(n, images.class_names[n], count) for n, count in sorted(Counter(images.labels.tolist()).items())]
    wanted: set[int] = set()
    for index, run in enumerate(config.runs):
        if run.dataset == row.dataset and row.network in run.networks:
            wanted.update(select(run.images, images.ids, images.labels, config.spelled("runs", index, "images")))
    chosen = images.select(sorted(wanted))
    row.selected = len(chosen.ids)
    return chosen


def _try_out(
    row: CheckedPair,
    config: Config,
    classifier: "Classifier",
    metadata: Mapping[str, Any],
    few: "ImageSet",
    with_accuracy: bool,
) -> None:
    """Do on a few images all that a run does, and count the candidates screened per second."""
    import torch

    from onepix.attacks.attack import clean_logits
    from onepix.attacks.search import PASSES_PER_ROUND
    from onepix.datasets.class_names import for_network
    from onepix.engine.evaluator import Evaluator
    from onepix.engine.speed import passes_per_second
    from onepix.engine.trial import tried
    from onepix.networks.storing import refuse_what_is_lost, stored_and_loaded

    pictures = torch.from_numpy(few.images).to(classifier.mean.device)
    evaluator = Evaluator(classifier, config.engine, few.images.shape[1:])
    logits = clean_logits(classifier, pictures, evaluator.classify)
    row.logits = classifier.part
    row.counted, row.outputs = _by_output(row.counted, few, logits.shape[1]), logits.shape[1]
    few = for_network(few, logits.shape[1])
    seen = logits.argmax(1).cpu().numpy()
    if with_accuracy:
        row.accuracy = int((seen == few.labels).sum()), len(few.labels)
    settings = config.networks[row.network]
    again = stored_and_loaded(classifier, settings, metadata)
    row.warnings += tried(classifier, pictures, evaluator.micro_batch)
    refuse_what_is_lost(classifier, again, pictures[:2])
    _follow_one(row, config, classifier, dataclasses.replace(few.select(few.ids[:1].tolist()), labels=seen[:1]))
    row.passes = passes_per_second(evaluator, pictures[:1], PASSES_PER_ROUND * evaluator.micro_batch, TRIED)


def _follow_one(row: CheckedPair, config: Config, classifier: "Classifier", image: "ImageSet") -> None:
    """Attack an image, labelled as the network sees it, for a moment; follow the changes, and find what layers see."""
    import torch

    from onepix.analysis.maps import maps_tree, said_of_attacks
    from onepix.attacks.attack import attack_images, budget
    from onepix.engine.devices import choose_micro_batch
    from onepix.files.records import attacked_images
    from onepix.layers.effective_field import effective_fields
    from onepix.layers.plan import plan
    from onepix.layers.propagation import propagation_maps
    from onepix.layers.receptive_field import receptive_fields

    height, width, channels = image.images.shape[1:]
    device = classifier.mean.device
    clean = torch.from_numpy(image.images).to(device)
    planned = plan(classifier.network, (channels, height, width), config.propagation.layers).required()
    row.unfollowed = [*planned.unfollowed]
    effective_fields(classifier, clean, config.propagation.layers)
    fields = receptive_fields(classifier.network, (channels, height, width))
    chosen = choose_micro_batch(config.engine.micro_batch, device, height, width)
    engine = config.engine.model_copy(update={"micro_batch": min(chosen, CANDIDATES)})
    runs = [run for run in config.runs if run.dataset == row.dataset and row.network in run.networks]
    for name in dict.fromkeys(name for run in runs for name in run.attacks):
        budget(config.attacks[name], (height, width, channels))  # tells of a budget that is too small
        settings = _brief(config.attacks[name])
        scans = isinstance(settings, Scan)
        records = attack_images(classifier, image, settings, engine, keep_maps=scans, is_tried=True).records
        attacked = records[records["eligible"]]
        changed = torch.from_numpy(attacked_images(image.images[: len(attacked)], attacked)).to(device)
        before = clean[: len(changed)]
        layers = propagation_maps(classifier, before, changed, config.propagation.layers, 2, planned=planned)
        maps_tree(layers, fields, said_of_attacks(attacked).assign_attrs(image_shape=[height, width]))


def _brief(settings: AttackSettings) -> AttackSettings:
    """Return an attack of a few candidates; one target stands for all."""
    changes: dict[str, Any] = {"budget": CANDIDATES}
    if settings.target == "all":
        changes["target"] = None
    if isinstance(settings, Scan):
        changes |= {"refine": 0}
    if isinstance(settings, DifferentialEvolution):
        changes |= {"population": min(settings.population, CANDIDATES // 2), "generations": 1}
    return settings.model_copy(update=changes)


def _by_output(counted: list[tuple[int, str, int]], images: "ImageSet", outputs: int) -> list[tuple[int, str, int]]:
    """Return counts of classes by their index among a network's outputs, of which there are so many."""
    from onepix.datasets.class_names import outputs_for

    indices, names = outputs_for(images.class_names, outputs, images.labels.tolist())
    return [(indices[label], names[indices[label]], count) for label, _, count in counted]


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
