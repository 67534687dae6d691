"""Attacks images: checks, eligibility, targets and records are here; each search method has its own module."""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from onepix.attacks.differential_evolution import Evolution
from onepix.attacks.goal import Goal
from onepix.attacks.journal import Journal
from onepix.attacks.order import FirstOrder, backward_passes, first_order
from onepix.attacks.probabilities import probability_columns
from onepix.attacks.random_search import RandomDraws
from onepix.attacks.scan import ScanMaps, Scanning, most_candidates, without_gradient
from onepix.attacks.search import Method, Outcome, Task, begin, run_search
from onepix.config.attacks import AttackSettings, DifferentialEvolution, RandomSearch
from onepix.config.engine import Engine
from onepix.datasets.class_names import for_network
from onepix.engine.evaluator import Evaluator
from onepix.engine.trial import tried
from onepix.errors import OnepixError
from onepix.files.targets import UNTARGETED, Key, keys
from onepix.images import ImageSet
from onepix.networks.classifier import Classifier
from onepix.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Attacked:
    """The result of an attack on a set of images.

    Attributes
    ----------
    records : DataFrame
        One row per image and target; columns as in `onepix.files.records.SCHEMA`.
    maps : ScanMaps or None
        Of a scan: one entry per eligible record, in the same order.
    evaluation : dict
        How candidates were evaluated: precision, micro-batch and the like.
    """

    records: pd.DataFrame
    maps: ScanMaps | None
    evaluation: dict[str, Any]


@torch.inference_mode()
def attack_images(
    classifier: Classifier,
    images: ImageSet,
    settings: AttackSettings,
    engine: Engine | None = None,
    description: str = "attack",
    keep_maps: bool = False,
    journal: Journal | None = None,
    is_tried: bool = False,
) -> Attacked:
    """Attack the correctly classified images of a set.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode; its device is used.
    images : ImageSet
        Images and true classes. Those classified wrongly before any change are recorded as not eligible.
    settings : AttackSettings
        Method, goal and budget.
    engine : Engine, optional
        How candidates are evaluated.
    description : str
        Names the progress bar.
    keep_maps : bool
        Return a scan's position maps.
    journal : Journal, optional
        Finished attacks are read from it and not done again; new ones are written into it. Its origin must hold all
        that defines a result, except image, target and `Attacked.evaluation`.
    is_tried : bool
        `onepix.engine.trial.tried` was called already; otherwise it is called here, and warns of what it says.

    Returns
    -------
    Attacked
        The records are in the order of the images. Only the seed, the image's id and the target set the random stream
        of a record, so a row does not depend on the other rows.

    Raises
    ------
    OnepixError
        If the classifier cannot take images of this shape, does not give one logit for each class of the set, or
        gives one that is not finite; if its answers are random or depend on other images; if the target is not one of
        the classes.
    """
    engine = engine or Engine()
    pictures = torch.from_numpy(images.images).to(classifier.mean.device)
    height, width, channels = images.images.shape[1:]
    evaluator = Evaluator(classifier, engine, (height, width, channels))
    clean = clean_logits(classifier, pictures, evaluator.classify)
    images = for_network(images, clean.shape[1])
    _check(images, settings)
    if not is_tried:
        for said in tried(classifier, pictures, evaluator.micro_batch):
            warnings.warn(said, stacklevel=3)  # behind PyTorch's decorator
    rows = _rows(images, clean, settings.target)
    task = _task(evaluator, images, clean, rows, settings)
    ids = images.ids[rows.image[rows.eligible]].tolist()
    method, most, facts = _method(task, ids, keep_maps)
    maps = method.maps if isinstance(method, Scanning) and keep_maps else None
    outcome = begin(task)
    fields = outcome.fields() | (maps.fields() if maps else {})
    todo, finish = _resumed(journal, evaluator, facts, keys(ids, task.goal.targets.tolist()), fields)
    with _progress(outcome, len(todo), most, description) as report:
        run_search(task, method, most, report, (outcome, todo), finish)
    after = evaluator.classify(outcome.best.apply(task.pictures)) if len(task.pictures) else clean[:0]
    records = _records(images, rows, clean, task, outcome, after)
    records.loc[rows.eligible, "backward_passes"] = method.passes
    seen = {"screening_error": float(outcome.screening_error.max()) if len(task.pictures) else None}
    return Attacked(records.assign(budget=most), maps, evaluator.facts | facts | seen)


def clean_logits(classifier: Classifier, pictures: Tensor, classify: Callable[[Tensor], Tensor]) -> Tensor:
    """Classify unchanged images by `classify`; OnepixError in training mode, or if a logit is not finite."""
    if classifier.network.training:
        raise OnepixError(
            f"network {classifier.name} is in training mode, where its results are random; call its eval() first, "
            "which must reach the network"
        )
    outputs = classify(pictures)
    if not outputs.isfinite().all():
        raise OnepixError(f"network {classifier.name} gives logits that are not finite on unchanged images")
    return outputs


def _check(images: ImageSet, settings: AttackSettings) -> None:
    classes = len(images.class_names)
    if isinstance(settings.target, int) and settings.target >= classes:
        raise OnepixError(f"target: {settings.target} is not a class; the images have classes 0–{classes - 1}")


@dataclasses.dataclass(frozen=True)
class _Rows:
    """R pairs of image and target, each of which becomes one record."""

    image: npt.NDArray[np.int64]  # index in the set
    target: npt.NDArray[np.int64]  # UNTARGETED or a class
    eligible: npt.NDArray[np.bool_]


def _rows(images: ImageSet, clean: Tensor, target: int | str | None) -> _Rows:
    """Pair images with targets; an image whose true class is the target is not eligible."""
    count, classes = len(images.labels), len(images.class_names)
    wanted = [UNTARGETED] if target is None else list(range(classes)) if target == "all" else [int(target)]
    image, targets = np.repeat(np.arange(count), len(wanted)), np.tile(np.array(wanted), count)
    if target == "all":
        other = targets != images.labels[image]
        image, targets = image[other], targets[other]
    correct = clean.argmax(1).cpu().numpy() == images.labels
    return _Rows(image, targets, correct[image] & (targets != images.labels[image]))


def _task(evaluator: Evaluator, images: ImageSet, clean: Tensor, rows: _Rows, settings: AttackSettings) -> Task:
    """Return the search task: the eligible rows."""
    image = rows.image[rows.eligible]
    pictures, labels, targets, index = (
        torch.tensor(array, device=clean.device)
        for array in (images.images[image], images.labels[image], rows.target[rows.eligible], image)
    )
    return Task(evaluator, pictures, Goal(labels, targets), clean[index], settings)


def _method(task: Task, ids: list[int], keep_maps: bool) -> tuple[Method, int, dict[str, Any]]:
    """Return the search for the settings, its budget in passes per attack, and what the manifest shall say of it."""
    settings = task.settings
    height, width, channels = task.pictures.shape[1:]
    shape, device = (height, width, channels), task.pictures.device
    streams = [_stream(settings.seed, *key) for key in keys(ids, task.goal.targets.tolist())]
    most = budget(settings, shape)
    if isinstance(settings, DifferentialEvolution):
        return Evolution(settings, streams, shape, device), most, {}
    if isinstance(settings, RandomSearch):
        return RandomDraws(settings, streams, shape, device), most, {}
    passes = backward_passes(task.clean.shape[1])
    lacking = without_gradient(settings, passes) or _lacking_gradient(task)
    passes = 0 if lacking else passes

    def prior(attacks: Tensor, colours: Tensor) -> FirstOrder:
        if not lacking:
            return first_order(task.evaluator.classifier, task.pictures[attacks], task.goal[attacks], colours)
        margins = task.goal[attacks].margin(task.clean[attacks])
        return FirstOrder(margins, margins.new_zeros(len(attacks), colours.shape[1], height, width))

    scanning = Scanning(settings, task.pictures, prior, passes, keep_maps)
    return scanning, scanning.most, {"gradient": lacking or "used"}


def _lacking_gradient(task: Task) -> str:
    """Say why a network has no gradient, if it has none; tried on the first image."""
    if not len(task.pictures):
        return ""
    some = torch.zeros(1, dtype=torch.int64, device=task.pictures.device)
    colours = torch.zeros(1, 1, task.pictures.shape[3], dtype=torch.uint8, device=task.pictures.device)
    try:
        first_order(task.evaluator.classifier, task.pictures[some], task.goal[some], colours)
    except OnepixError as error:
        warnings.warn(f"{error}; the scan orders its candidates without it", stacklevel=5)
        return str(error)
    return ""


def budget(settings: AttackSettings, shape: tuple[int, int, int]) -> int:
    """Return how many candidates an attack on an image of this height, width and channels evaluates at most."""
    if isinstance(settings, DifferentialEvolution):
        most = settings.population * (settings.generations + 1)
    elif isinstance(settings, RandomSearch):
        most = settings.budget
    else:
        most = most_candidates(settings, shape)
    return min(most, settings.budget or most)


def _stream(seed: int, image_id: int, target: int) -> np.random.Generator:
    key = (image_id,) if target == UNTARGETED else (image_id, target)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _resumed(
    journal: Journal | None,
    evaluator: Evaluator,
    facts: Mapping[str, Any],
    attacks: Sequence[Key],
    fields: dict[str, Tensor],
) -> tuple[Sequence[int], Callable[[list[int]], None] | None]:
    """Restore finished attacks from a journal; return those left to do, and a function that stores finished ones."""
    if journal is None:
        return range(len(attacks)), None
    evaluation = evaluator.facts
    entries = journal.with_facts(evaluation={**evaluation, **facts})

    def finish(done: list[int]) -> None:
        if evaluator.facts == evaluation:  # else the micro-batch was halved, and these results have another origin
            entries.write(attacks, fields, done)

    return entries.restore(attacks, fields), finish


@contextmanager
def _progress(outcome: Outcome, todo: int, budget: int, description: str) -> Iterator[Callable[[int, int, int], None]]:
    """Show how many candidates are evaluated, of those still possible: attacks that end early lower the total."""
    restored, attacks = int(outcome.queries.sum()), len(outcome.queries)
    total = restored + todo * budget
    if todo < attacks:
        sys.stderr.write(f"{description}: {attacks - todo} of {attacks} attacks are in the journal\n")
    with progress_bar(total, description, "pass", initial=restored) as bar:

        def report(evaluated: int, left: int, reached: int) -> None:
            still_possible = min(total, bar.n + evaluated + left * budget)
            bar.update(evaluated, still_possible, left=left, successes=reached)

        yield report


def _records(images: ImageSet, rows: _Rows, clean: Tensor, task: Task, outcome: Outcome, after: Tensor) -> pd.DataFrame:
    """Make the records: values from before the attack, joined with what the attack found."""
    image, mask, settings = rows.image, rows.eligible, task.settings
    before = clean.softmax(1).cpu().numpy()
    records = pd.DataFrame(
        {
            "image_id": images.ids[image],
            "label": images.labels[image],
            "classes": clean.shape[1],
            "clean_class": clean.argmax(1).cpu().numpy()[image],
            "clean_confidence": before.max(1)[image],
            "eligible": mask,
            "method": settings.method,
            "stop": settings.stop,
            "target": pd.array([None if t == UNTARGETED else t for t in rows.target.tolist()], dtype="Int64"),
            "true_probability_before": before[image, images.labels[image]],
            "queries": 0,
            "rechecked": 0,
            "backward_passes": 0,
            "generations": pd.array([None] * len(image), dtype="Int64"),
            "seed": settings.seed,
        }
    )
    records.loc[mask, "queries"] = outcome.queries.cpu().numpy()
    records.loc[mask, "rechecked"] = outcome.rechecked.cpu().numpy()
    if isinstance(settings, DifferentialEvolution):
        records["generations"] = 0
        records.loc[mask, "generations"] = outcome.rounds.cpu().numpy() - 1
    found = _findings(task.goal, outcome, after)
    concerned = np.column_stack([images.labels[image], rows.target])
    probabilities = probability_columns(before[image], after.softmax(1).cpu().numpy(), mask, concerned)
    return records.join(found.set_index(records.index[mask])).join(probabilities)


def _findings(goal: Goal, outcome: Outcome, attacked: Tensor) -> pd.DataFrame:
    """Return the columns that only attacked images have; success is decided on the rebuilt 8-bit images."""
    after = attacked.softmax(1).cpu().numpy()
    index, labels, targets = np.arange(len(after)), goal.labels.cpu().numpy(), goal.targets.cpu().numpy()
    success = goal.reached(attacked).cpu().numpy()
    target_probability = np.where(targets == UNTARGETED, np.nan, after[index, np.maximum(targets, 0)])
    flips = success & (outcome.queries_to_success > 0).cpu().numpy()
    past = (outcome.queries_to_threshold > 0).cpu().numpy()
    return pd.DataFrame(
        {
            "success": success,
            "rows": outcome.best.rows.tolist(),
            "columns": outcome.best.columns.tolist(),
            "values": outcome.best.values.tolist(),
            "adversarial_class": attacked.argmax(1).cpu().numpy(),
            "adversarial_confidence": after.max(1),
            "true_probability_after": after[index, labels],
            "target_probability_after": pd.array(target_probability, dtype="Float32"),
            "queries_to_success": pd.array(_where(flips, outcome.queries_to_success), dtype="Int64"),
            "queries_to_threshold": pd.array(_where(past, outcome.queries_to_threshold), dtype="Int64"),
            **{f"flip_{part}": _where(flips, tensor) for part, tensor in vars(outcome.flip).items()},
            **{f"threshold_{part}": _where(past, tensor) for part, tensor in vars(outcome.past).items()},
        }
    )


def _where(known: npt.NDArray[np.bool_], values: Tensor) -> list[Any]:
    """Return the values as a list, None where they are not known."""
    return [value if is_known else None for value, is_known in zip(values.tolist(), known, strict=True)]
