"""Checks the results of a study on disk, and classifies a sample of attacked images again."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr

from onepix.analysis.positions import PART, SCAN
from onepix.datasets.arrays import load_arrays
from onepix.engine.devices import choose_device
from onepix.engine.evaluator import logits
from onepix.errors import OnepixError
from onepix.files.layout import FIELDS, STAGES, Chunk, Layout, result_of
from onepix.files.manifests import checked_data, read_manifest
from onepix.files.records import attacked_images, read_records, successes
from onepix.files.targets import keys, keys_of, reached, targets_of
from onepix.files.trees import read_tree
from onepix.images import ImageSet
from onepix.networks.classifier import Classifier
from onepix.networks.weights import load_network_file
from onepix.study.versions import FORMATS

BATCH = 32  # images per forward pass


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something wrong on disk.

    Attributes
    ----------
    target : Path
        The file that Snakemake must make again.
    what : str
        The fault, in one line.
    """

    target: Path
    what: str


def lines(results: Path, data: Path, sample: int) -> Iterator[str]:
    """Yield what `verify` finds, and how to repair each fault; parameters as there.

    Raises
    ------
    OnepixError
        At the end, if there are faults.
    """
    chunks, faults = Layout(data, results).chunks(), list(verify(results, data, sample))
    for fault in faults:
        yield f"{fault.what}\n  to repair: snakemake --cores all --force {fault.target}"
    if faults:
        raise OnepixError(f"{results}: {len(faults)} faults in {len(chunks)} chunks")
    yield f"{results}: {len(chunks)} chunks, all as they were written"


def verify(results: Path, data: Path, sample: int = 8, device: str = "auto") -> Iterator[Fault]:
    """Check every dataset, network and chunk of a study, and classify some attacked images of each run again.

    Parameters
    ----------
    results, data : Path
        The study's folders.
    sample : int
        Attacked images of each run that are rebuilt from their records and classified.
    device : str
        Where they are classified; auto takes a GPU if there is one.

    Yields
    ------
    Fault
        One per fault; after a fault in one stage of a chunk, its later stages are not checked.
    """
    layout = Layout(data, results)
    chunks = layout.chunks()
    for wanted in (layout.configuration("yaml"), layout.provenance("csv")):
        if not wanted.is_file():
            yield Fault(wanted, f"{wanted}: not found")
    broken = set()
    for manifest in dict.fromkeys(chunk.manifest(part) for chunk in chunks for part in ("dataset", "network")):
        if what := _data_fault(manifest):
            broken.add(manifest)
            yield Fault(manifest, what)
    for chunk in {chunk.manifest(FIELDS): chunk for chunk in chunks}.values():
        fields = chunk.manifest(FIELDS)
        if what := _data_fault(fields) or _origin_fault(chunk, FIELDS, ("dataset", "network")):
            yield Fault(fields, what)
    # Runs are sorted by dataset, then network: so each is read once, though only the last is kept.
    network = functools.partial(_network, device=choose_device(device))
    read = functools.lru_cache(1)(_images), functools.lru_cache(1)(network)
    for _, of_run in itertools.groupby(chunks, key=lambda chunk: chunk.run):
        whole = {}
        for chunk in of_run:
            records, fault = _checked(chunk)
            if fault:
                yield fault
            elif not broken & {chunk.manifest("dataset"), chunk.manifest("network")}:
                whole[chunk] = records
        yield from _faults_between(list(whole))
        yield from _classified_again(whole, sample, *read)


def _data_fault(manifest: Path) -> str:
    """Return what is wrong with a manifest's data; empty if they are unchanged."""
    try:
        checked_data(manifest, FORMATS.get(result_of(manifest).kind))
        if PART in read_manifest(manifest):
            checked_data(manifest, SCAN, PART)
    except OnepixError as error:
        return str(error).partition("; ")[0]
    return ""


def _data(manifest: Path) -> Path:
    """Return the path of data whose digest has been compared."""
    return manifest.parent / str(read_manifest(manifest)["data"])


def _images(manifest: Path) -> ImageSet:
    return load_arrays(_data(manifest))


def _network(manifest: Path, device: str) -> Classifier:
    return load_network_file(_data(manifest), device)


def _checked(chunk: Chunk) -> tuple[pd.DataFrame, Fault | None]:
    """Check a chunk's stages in order; return its records, and the first fault."""
    records = pd.DataFrame()
    for stage, parts in STAGES.items():
        manifest = chunk.manifest(stage)
        if stage in ("locality", "controls") and not manifest.exists() and _several(records):
            continue  # position maps are made of one-pixel attacks
        if what := _data_fault(manifest) or _origin_fault(chunk, stage, parts):
            return records, Fault(manifest, what)
        try:
            if stage == "attack":
                records = read_records([_data(manifest)])
                faults = _record_faults(chunk, records)
            else:
                faults = _map_faults(chunk, stage, records)
            if what := next(faults, ""):
                return records, Fault(manifest, f"{manifest}: {what}")
        except (KeyError, ValueError, OSError) as error:  # a file with another layout
            said = " ".join(str(error).split())
            return records, Fault(manifest, f"{manifest}: its data cannot be read: {said}")
    return records, None


def _several(records: pd.DataFrame) -> bool:
    return bool((records["rows"].str.len() > 1).any())


def _origin_fault(chunk: Chunk, stage: str, parts: Sequence[str]) -> str:
    """Return which input of a stage has changed since the stage was made; empty if none."""
    made_from = read_manifest(chunk.manifest(stage)).get("inputs", {})
    for part in parts:
        now = chunk.manifest(part)
        if not now.exists():
            return f"{now}: not found, and {chunk.manifest(stage)} was made from it"
        if made_from.get(part) != read_manifest(now)["sha256"]:
            return f"{chunk.manifest(stage)}: made from another {part} than the one in {now}"
    return ""


def _record_faults(chunk: Chunk, records: pd.DataFrame) -> Iterator[str]:
    wanted = read_manifest(chunk.manifest("attack"))["settings"]["image_ids"]
    found = sorted(set(records["image_id"]))
    if found != sorted(wanted):
        yield f"holds {_ids(found)}, its manifest says {_ids(wanted)}"
    if outside := [image_id for image_id in found if image_id not in chunk.ids]:
        yield f"holds image {outside[0]}, which is not of this chunk"
    if records.duplicated(["image_id", "target"]).any():
        twice = records.loc[records.duplicated(["image_id", "target"]), "image_id"].iloc[0]
        yield f"holds image {twice} twice"
    attacked = records[records["eligible"]]
    if attacked[["success", "rows", "columns", "values", "adversarial_class", "queries"]].isna().any().any():
        yield "lacks values of attacked images"
    seen, labels = (attacked[name].to_numpy(np.int64) for name in ("adversarial_class", "label"))
    if (reached(seen, labels, targets_of(attacked)) != attacked["success"].to_numpy(bool)).any():
        yield "states successes that its classes contradict"


def _map_faults(chunk: Chunk, stage: str, records: pd.DataFrame) -> Iterator[str]:
    tree = read_tree(_data(chunk.manifest(stage)))
    root = tree.to_dataset()
    attacked = records[records["eligible"]]
    wanted = keys_of(attacked if stage == "propagation" else successes(attacked))
    found = keys(root["image"].values, root["target"].values)
    # A success whose colour flips the class at every position has no control.
    fits = [key for key in wanted if key in found] == found if stage == "controls" else wanted == found
    if not fits:
        yield f"holds {_ids([key[0] for key in found])}, its attacks need {_ids([key[0] for key in wanted])}"
        return
    if stage == "locality":
        shape = (len(found), *read_manifest(chunk.manifest("dataset"))["shape"][:2])
        yield from _array_faults("", root, {"flips": (shape, "bool"), "margin": (shape, "float32")})
        if ((root["margin"].values < 0) & ~root["flips"].values).any():
            yield "flips and margin contradict each other"
        return
    for name, group in tree.children.items():
        if name != "measures":
            maps = group.to_dataset()
            shape = (len(found), *maps["max"].shape[1:])
            yield from _array_faults(f"{name}/", maps, {"max": (shape, "float32"), "mean": (shape, "float32")})


def _array_faults(where: str, group: xr.Dataset, expected: Mapping[str, tuple[tuple[int, ...], str]]) -> Iterator[str]:
    for name, (shape, dtype) in expected.items():
        array = group[name]
        if array.shape != shape or array.dtype != dtype:
            yield f"{where}{name} is {array.dtype} of shape {array.shape}, expected {dtype} of {shape}"
        elif dtype.startswith("float") and not np.isfinite(array.values).all():
            yield f"{where}{name} holds values that are not finite"


def _faults_between(chunks: Sequence[Chunk]) -> Iterator[Fault]:
    """Check that all chunks of a run were made with the same settings."""
    for stage in STAGES:
        manifests = [chunk.manifest(stage) for chunk in chunks if chunk.manifest(stage).exists()]
        settings = [{**read_manifest(path)["settings"], "image_ids": None} for path in manifests]
        texts = [json.dumps(part, sort_keys=True) for part in settings]
        usual = max(texts, key=texts.count, default="")
        for path, part, text in zip(manifests, settings, texts, strict=True):
            if text != usual:
                key = next(key for key, value in part.items() if value != json.loads(usual).get(key))
                yield Fault(path, f"{path}: made with another '{key}' than the run's other chunks")


def _classified_again(
    whole: Mapping[Chunk, pd.DataFrame],
    sample: int,
    images_of: Callable[[Path], ImageSet],
    network_of: Callable[[Path], Classifier],
) -> Iterator[Fault]:
    """Rebuild some attacked images from their records, classify them, and compare the classes."""
    if not whole:
        return
    chunks = list(whole)
    records = pd.concat([whole[chunk].assign(chunk=n) for n, chunk in enumerate(chunks)], ignore_index=True)
    attacked = records[records["eligible"]]
    few = attacked.sample(min(sample, len(attacked)), random_state=0)
    if few.empty:
        return
    images, classifier = images_of(chunks[0].manifest("dataset")), network_of(chunks[0].manifest("network"))
    changed = attacked_images(images.images[images.indices(few["image_id"])], few)
    given = torch.from_numpy(changed).to(classifier.mean.device)
    seen = logits(classifier, given, BATCH).argmax(1).cpu().numpy()
    for (_, row), label in zip(few.iterrows(), seen, strict=True):
        if label != row["adversarial_class"]:
            manifest = chunks[row["chunk"]].manifest("attack")
            said = f"image {row['image_id']} is classified as {label}, its record says {row['adversarial_class']}"
            yield Fault(manifest, f"{manifest}: {said}")


def _ids(ids: Sequence[int] | npt.NDArray[np.int64]) -> str:
    """Return ids as a short text."""
    listed = [int(image_id) for image_id in ids]
    shown = ", ".join(map(str, listed[:5])) + (", …" if len(listed) > 5 else "")
    return f"{len(listed)} images ({shown})" if listed else "no images"
