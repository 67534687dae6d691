"""Attacks a few picture files, for `onepix attack`; no workflow and no runs of a configuration are needed."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from onepix.attacks.attack import budget as most_candidates
from onepix.attacks.attack import clean_logits
from onepix.config.attacks import AttackSettings, DifferentialEvolution
from onepix.datasets.class_names import index_of
from onepix.engine.evaluator import Evaluator
from onepix.engine.speed import passes_per_second
from onepix.errors import OnepixError
from onepix.figures.maps import LayerMap, strip
from onepix.figures.style import save
from onepix.files.atomic import replacing
from onepix.layers.propagation import LayerMaps, propagation_maps
from onepix.names import fits
from onepix.notebook import attack, settings_of
from onepix.study.subject import Subject, class_names_for, read_for

SECONDS = 40.0  # for the attacks, of about a minute in all; loading, maps and drawing take the rest
TRIED = 0.5  # seconds during which passes are counted, after a first pass
FOLDER = Path("onepix-attack")


@dataclasses.dataclass(frozen=True)
class AttackedPicture:
    """The result of the attack on one picture.

    Attributes
    ----------
    picture : str
        Its path.
    label, clean_class : str
        The true class, and the class that the network predicts for the original.
    confidence : float
        Of the network, in `clean_class`.
    flipped : bool or None
        Whether one pixel flips the class; None if not attacked, because the network misclassifies the original.
    tried : int
        Candidates evaluated.
    row, column : int
        Position of the changed pixel, from 0, in the image that the network sees. −1 if not attacked.
    before, after : tuple of int
        Its colour before and after the change, one 8-bit number per channel.
    new_class : str
        Prediction with that pixel changed.
    new_confidence : float
        Of the network, in `new_class`.
    folder : Path or None
        The folder that was written.
    """

    picture: str
    label: str
    clean_class: str
    confidence: float
    flipped: bool | None = None
    tried: int = 0
    row: int = -1
    column: int = -1
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    new_class: str = ""
    new_confidence: float = math.nan
    folder: Path | None = None


def attack_pictures(
    subject: Subject,
    pictures: Sequence[Path],
    labels: Sequence[str],
    say: Callable[[str], None],
    *,
    method: str = "scan",
    budget: int | None = None,
    seed: int = 0,
    output: Path = FOLDER,
) -> list[AttackedPicture]:
    """Attack one pixel of each picture, and write the results.

    Parameters
    ----------
    subject : Subject
        The network.
    pictures : sequence of Path
        Files as `onepix.datasets.pictures.read_picture` takes them, fitted to the network's size.
    labels : sequence of str
        True classes, by name or number: one for all pictures, or one per picture; empty: the network's predictions.
    say : callable
        Called with lines of text before the attack: how pictures were fitted, and what was chosen automatically.
    method : str
        `scan` (up to the first flip), `differential_evolution` or `random_search`.
    budget : int, optional
        Candidates per picture; default: what the method needs, or fewer if that would take more than a minute.
    seed : int
        Seed of methods that draw at random.
    output : Path
        Gets one folder per picture, named after its file, or NAME-2 and so on if that exists. It holds `original.png`
        (as the network sees it), `maps.png`, and `attacked.png`; or `unflipped.png` with the best candidate, if none
        flips the class. Nothing is written for a picture that was not attacked.

    Returns
    -------
    list of AttackedPicture
        One per picture, in their order.

    Raises
    ------
    OnepixError
        If a file is not a picture, a label is not a class, the size is not known, or as in `onepix.attack`.
    """
    images = read_for(subject, pictures, say)
    evaluator = Evaluator(subject.classifier, subject.engine, images.shape[1:])
    tensors = torch.from_numpy(images).to(subject.classifier.mean.device)
    seen = clean_logits(subject.classifier, tensors, evaluator.classify)
    names = class_names_for(subject, seen.shape[1])
    wanted = _labels(labels, seen.argmax(1).tolist(), names)
    if not labels:
        say("labels: the network's own classes, since no --label is given")
    first = {"stop": "first"} if method == "scan" else {}
    settings: dict[str, Any] = {"seed": seed, **first, **({} if budget is None else {"budget": budget})}
    if budget is None:
        settings |= _bound(settings_of(method, settings), evaluator, tensors, say)
    output.mkdir(parents=True, exist_ok=True)  # before the attack, whose result would be lost if this failed
    records, changed = attack(subject.classifier, images, wanted, method, engine=subject.engine, **settings)
    tried = records["eligible"].to_numpy(bool, copy=True)
    maps = propagation_maps(
        subject.classifier,
        tensors[torch.from_numpy(tried)],
        torch.from_numpy(changed[tried]).to(tensors.device),
        subject.propagation.layers,
        evaluator.micro_batch,
    )
    rows = [
        _row(path, record, image, names)
        for path, image, (_, record) in zip(pictures, images, records.iterrows(), strict=True)
    ]
    for number, index in enumerate(np.flatnonzero(tried).tolist()):
        layers = _layer_maps(maps, number, subject.figures.strip_layers)
        rows[index] = _write(subject, rows[index], images[index], changed[index], layers, output)
    return rows


def _labels(given: Sequence[str], seen: Sequence[int], names: Sequence[str]) -> list[int]:
    """Return the number of each picture's class; by default the class that the network predicts."""
    if not given:
        return list(seen)
    if len(given) not in (1, len(seen)):
        raise OnepixError(f"--label: expected one for all pictures or one each, got {len(given)} for {len(seen)}")
    numbers = [_label(text, names) for text in given]
    return numbers if len(given) == len(seen) else numbers * len(seen)


def _label(text: str, names: Sequence[str]) -> int:
    if text in names or not text.isdecimal():
        return index_of(text, names, "--label")
    if int(text) >= len(names):
        raise OnepixError(f"--label: {text} is not a class; the network has classes 0–{len(names) - 1}")
    return int(text)


def _bound(
    settings: AttackSettings, evaluator: Evaluator, pictures: Tensor, say: Callable[[str], None]
) -> dict[str, int]:
    """Return a budget that ends all attacks within about a minute, if the method would take longer; say so."""
    height, width, channels = pictures.shape[1:]
    most = most_candidates(settings, (height, width, channels))
    least = settings.population if isinstance(settings, DifferentialEvolution) else 1
    affordable = max(
        int(passes_per_second(evaluator, pictures[:1], evaluator.micro_batch, TRIED) * SECONDS / len(pictures)), least
    )
    if affordable >= most:
        return {}
    say(
        f"budget: {affordable:,} of {most:,} candidates per picture, which take about a minute; "
        f"--budget {most} tries them all"
    )
    return {"budget": affordable}


def _row(path: Path, record: pd.Series, image: npt.NDArray[np.uint8], names: Sequence[str]) -> AttackedPicture:
    """Return the row of a picture, from its record."""
    label, clean = names[record["label"]], names[record["clean_class"]]
    row = AttackedPicture(str(path), label, clean, float(record["clean_confidence"]))
    if not record["eligible"]:
        return row
    y, x = int(record["rows"][0]), int(record["columns"][0])
    return dataclasses.replace(
        row,
        flipped=bool(record["success"]),
        tried=int(record["queries"]),
        row=y,
        column=x,
        before=tuple(image[y, x].tolist()),
        after=tuple(map(int, record["values"][0])),
        new_class=names[int(record["adversarial_class"])],
        new_confidence=float(record["adversarial_confidence"]),
    )


def _layer_maps(maps: Sequence[LayerMaps], index: int, patterns: Sequence[str]) -> list[LayerMap]:
    """Return a picture's map of each shown layer, in units of the clean peak; 0 where that peak is 0."""
    chosen = [layer for layer in maps if fits(layer.name, patterns)]
    peaks = [float(layer.clean_peak[index]) for layer in chosen]
    return [
        LayerMap(layer.name, (layer.maximum[index] / peak if peak > 0 else layer.maximum[index] * 0).numpy())
        for layer, peak in zip(chosen, peaks, strict=True)
    ]


def _write(
    subject: Subject,
    row: AttackedPicture,
    original: npt.NDArray[np.uint8],
    changed: npt.NDArray[np.uint8],
    layers: Sequence[LayerMap],
    output: Path,
) -> AttackedPicture:
    """Write the results of one picture into a new folder; return its row with the folder."""
    folder = _new_folder(output, Path(row.picture).stem)
    failed = "" if row.flipped else f", no flip within {row.tried:,} candidates"
    figure = strip(
        original,
        changed,
        [(row.row, row.column)],
        layers,
        f"{subject.name}: {Path(row.picture).name}{failed}",
        f"{row.clean_class} {row.confidence:.0%}",
        f"{row.new_class} {row.new_confidence:.0%}",
        subject.figures.colour_map,
    )
    images = {"original": original, "attacked" if row.flipped else "unflipped": changed}
    for name, image in images.items():
        with replacing(folder / f"{name}.png") as temporary:
            Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(temporary, format="PNG")
    save(figure, folder / "maps", subject.figures.dpi, ("png",))
    return dataclasses.replace(row, folder=folder)


def _new_folder(parent: Path, name: str) -> Path:
    """Make a folder with this name, or NAME-2 and so on: existing folders are not changed."""
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError
