"""How long the jobs of a plan would take, and how much they would write: counts by hand, rates by measurement."""

import dataclasses
import io
import math
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from onepix.config.attacks import Scan
from onepix.config.datasets import BundledDataset, Cifar10Dataset
from onepix.config.study import Config
from onepix.errors import OnepixError
from onepix.files.manifests import read_manifest
from onepix.files.records import read_records
from onepix.study.check import KILLED, Row, in_new_process, load_pair, passes_a_second, with_fresh_weights
from onepix.study.plan import Job, Workflow

if TYPE_CHECKING:  # a trial has a process of its own, which alone imports torch
    from onepix.networks.classifier import Classifier

ATTACK, FOLLOW, LOCALITY, CONTROLS = "attack", "propagation", "locality", "controls"  # rules
FOLDERS = {ATTACK: "attack", FOLLOW: "propagation", LOCALITY: "locality", CONTROLS: "controls"}
MAPS = (FOLLOW, LOCALITY, CONTROLS)
LONG = 5  # times the start-up: what a job must take for its rate to be believed
IMPORTS = 0.5  # seconds that no job starts up in: less is recorded of outputs that were only touched
SHORT_JOB, LONG_ENOUGH = 60.0, 120.0  # seconds of an attack job
TRIED = "tried now"
POSITION_BYTES = 5  # of a position in a map: flips, bool, and margin, float32
SCAN_BYTES = 7  # of a position and colour: those, and seen_class, int16

Run = tuple[str, str, str]  # dataset, network, attack


@dataclasses.dataclass(frozen=True)
class Rate:
    """How long a rule takes for a unit of its work: a candidate, or an image followed through all layers.

    Attributes
    ----------
    seconds : float
        A unit.
    source : str
        Where that was measured.
    """

    seconds: float
    source: str


@dataclasses.dataclass(frozen=True)
class Size:
    """What is written for a chunk whatever its size, and for each image in it, in bytes."""

    chunk: float
    image: float


@dataclasses.dataclass
class Measured:
    """What is known of one dataset on one network; what is not is absent or None.

    Attributes
    ----------
    shape : tuple of int or None
        Height, width and channels of the images.
    classes : int or None
        Of the dataset.
    start_up : float
        Seconds that a job takes besides its work.
    rates, sizes : dict
        By rule.
    unknown : str
        Why something is not known.
    """

    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    start_up: float = 0.0
    rates: dict[str, Rate] = dataclasses.field(default_factory=dict)
    sizes: dict[str, Size] = dataclasses.field(default_factory=dict)
    unknown: str = ""


@dataclasses.dataclass(frozen=True)
class Shares:
    """What earlier results of a run tell: how many of the images were attacked, and of those, how many fell."""

    attacked: float = 1.0
    success: float = 1.0
    records: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """What one rule would do for one run; None where it is not known."""

    jobs: int
    units: float | None
    seconds: float | None
    bytes: float | None


NOTHING = Part(0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What would be done for one run.

    Attributes
    ----------
    run : tuple of str
        Dataset, network and attack.
    images, of : int or None
        Images to be attacked, and those that the run names. None: the images are not known yet.
    parts : dict
        By rule. The attack's units are candidates at most.
    shares : Shares
        On which the maps' numbers rest.
    source : str
        Where the rates come from.
    unknown : str
        Why something is not known.
    advice : str
        On the size of jobs.
    """

    run: Run
    images: int | None
    of: int | None
    parts: dict[str, Part]
    shares: Shares
    source: str = ""
    unknown: str = ""
    advice: str = ""


def estimate(config: Config, workflow: Workflow, trial: bool = True) -> Iterator[Estimate]:
    """Estimate what each run of a study would take.

    Parameters
    ----------
    config : Config
        The study.
    workflow : Workflow
        What would run.
    trial : bool
        Try out, each in a process of its own, the networks of which no job has lasted long enough to tell its speed.

    Yields
    ------
    Estimate
        For each dataset, network and attack, in the order of the runs.
    """
    measured: dict[tuple[str, str], Measured] = {}
    for run in runs_of(config):
        pair = run[:2]
        if pair not in measured:
            measured[pair] = measure(config, workflow, pair, trial)
        yield estimate_run(config, workflow, run, measured[pair], earlier(config, run))


def runs_of(config: Config) -> list[Run]:
    """Return all combinations that a study runs."""
    return [(run.dataset, n, a) for run in config.runs for n in run.networks for a in run.attacks]


def estimate_run(config: Config, workflow: Workflow, run: Run, measured: Measured, shares: Shares) -> Estimate:
    """Estimate what one run would take, from what was measured and what earlier results tell."""
    attacks = {job.wildcards["chunk"]: job for job in workflow.jobs if job.rule == ATTACK and job.run == run}
    if not attacks:
        why = f"{' × '.join(run)}: a rule chooses the images, which is done once the dataset is fetched"
        return Estimate(run, None, None, {}, shares, unknown=why)
    to_run = [job for job in attacks.values() if job.why]
    parts = {ATTACK: _attack_part(config, run, to_run, measured)}
    per_image = attacks_an_image(config, run, measured)
    for rule in MAPS:
        jobs = [job for job in workflow.to_run(rule) if job.run == run]
        counts = [_followed(config, job, attacks[job.wildcards["chunk"]], per_image, shares, rule) for job in jobs]
        parts[rule] = _map_part(rule, counts, measured)
    used = [measured.rates[rule].source for rule, part in parts.items() if part.jobs and rule in measured.rates]
    images, of = (sum(len(job.settings["image_ids"]) for job in jobs) for jobs in (to_run, attacks.values()))
    advice = _advice(config, workflow, run, parts[ATTACK], measured)
    unknown = measured.unknown if any(part.jobs and part.seconds is None for part in parts.values()) else ""
    return Estimate(run, images, of, parts, shares, ", ".join(dict.fromkeys(used)), unknown, advice)


def attacks_an_image(config: Config, run: Run, measured: Measured) -> int | None:
    """Return how many attacks an image takes: one, or one a target."""
    if config.attacks[run[2]].target != "all":
        return 1
    return measured.classes - 1 if measured.classes else None


def passes_an_image(config: Config, run: Run, measured: Measured) -> int | None:
    """Return how many candidates all attacks on an image evaluate at most."""
    from onepix.attacks.attack import budget

    settings, each = config.attacks[run[2]], attacks_an_image(config, run, measured)
    if each is None or (isinstance(settings, Scan) and measured.shape is None):
        return None
    return each * budget(settings, measured.shape or (0, 0, 0))


def _attack_part(config: Config, run: Run, jobs: list[Job], measured: Measured) -> Part:
    if not jobs:
        return NOTHING
    from onepix.attacks.scan import colour_count

    images, each = sum(len(job.settings["image_ids"]) for job in jobs), passes_an_image(config, run, measured)
    units = each * images if each is not None else None
    settings, size = config.attacks[run[2]], 0.0 if each is not None else None
    if isinstance(settings, Scan) and measured.shape and size is not None:
        height, width, channels = measured.shape
        attacks = images * (attacks_an_image(config, run, measured) or 0)
        size = float(attacks * SCAN_BYTES * colour_count(settings, channels) * height * width)
    return Part(len(jobs), units, _seconds(len(jobs), units, measured, ATTACK), size)


def _map_part(rule: str, counts: list[float | None], measured: Measured) -> Part:
    """Return what a rule of maps takes for jobs of so many images each."""
    if not counts:
        return NOTHING
    images = math.fsum(count or 0 for count in counts) if None not in counts else None
    units = images
    if rule == LOCALITY and images is not None:
        units = images * math.prod(measured.shape[:2]) if measured.shape else None
    size = measured.sizes.get(rule)
    written = None if size is None or images is None else len(counts) * size.chunk + images * size.image
    return Part(len(counts), units, _seconds(len(counts), units, measured, rule), written)


def _seconds(jobs: int, units: float | None, measured: Measured, rule: str) -> float | None:
    rate = measured.rates.get(rule)
    return None if rate is None or units is None else jobs * measured.start_up + units * rate.seconds


def _followed(config: Config, job: Job, attack: Job, per_image: int | None, shares: Shares, rule: str) -> float | None:
    """Return how many images a job makes maps of: as the chunk's records say, or as expected of an attack to come."""
    records = _records([_chunk(config, job, ATTACK)]) if not attack.why else None
    if records is not None:
        attacked = records[records["eligible"]]
        return float(len(attacked) if rule == FOLLOW else attacked["success"].sum())
    if per_image is None:
        return None
    images = len(attack.settings["image_ids"]) * per_image * shares.attacked
    return images if rule == FOLLOW else images * shares.success


def _chunk(config: Config, job: Job, rule: str) -> Path:
    """Return the manifest of a job's chunk at a stage."""
    return Path(config.results, *job.run, FOLDERS[rule], f"{job.wildcards['chunk']}.json")


def _advice(config: Config, workflow: Workflow, run: Run, attack: Part, measured: Measured) -> str:
    """Advise larger chunks where jobs would spend much of their time on starting up."""
    attacks = [job for job in workflow.jobs if job.rule == ATTACK and job.run == run]
    images = sum(len(job.settings["image_ids"]) for job in attacks if job.why)
    if len(attacks) < 2 or not images or not attack.seconds:
        return ""
    image = (attack.seconds - attack.jobs * measured.start_up) / images
    # A chunk is a block of ids, of which a run may name only some.
    fullest = max(len(job.settings["image_ids"]) for job in attacks) * image
    if fullest >= SHORT_JOB:
        return ""
    last = max(max(job.settings["image_ids"]) for job in attacks)
    wanted = min(config.images_per_job * math.ceil(LONG_ENOUGH / max(fullest, 1e-3)), last + 1)
    finished = any(job.rule == ATTACK and not job.why for job in workflow.jobs)
    again = "; finished chunks would run again, since theirs is another size" if finished else ""
    return (
        f"{' × '.join(run)}: attack jobs of less than a minute, of which each takes seconds to start; "
        f"images_per_job: {wanted} instead of {config.images_per_job} makes fewer of them{again}"
    )


def earlier(config: Config, run: Run) -> Shares:
    """Return what a run's records on disk tell, of whatever configuration."""
    records = _records(sorted(Path(config.results, *run, "attack").glob("??????-??????.json")))
    if records is None or records.empty:
        return Shares()
    attacked = records[records["eligible"]]
    success = float(attacked["success"].mean()) if len(attacked) else 0.0
    return Shares(len(attacked) / len(records), success, len(records))


def _records(manifests: Iterable[Path]) -> pd.DataFrame | None:
    """Read the records of chunks; None if there are none, or they cannot be read."""
    paths = [path for path in (manifest.with_suffix(".parquet") for manifest in manifests) if path.exists()]
    try:
        return read_records(paths) if paths else None
    except (OSError, ValueError):  # pyarrow's errors among them: what is torn is no result
        return None


def measure(config: Config, workflow: Workflow, pair: tuple[str, str], trial: bool) -> Measured:
    """Find out how fast one dataset is on one network: from finished jobs, or else by a trial now.

    Finished jobs are believed where they took `LONG` times as long as a job that hardly does more than start. Those
    that were shorter serve where there is no trial: their rates are too slow, since they hold their start-up.
    """
    measured = _described(config, pair[0])
    measured.start_up = min((s for s in workflow.seconds.values() if s > IMPORTS), default=0.0)
    wanted = {job.rule for job in workflow.to_run(ATTACK, *MAPS) if job.run[:2] == pair}
    shorter: dict[str, Rate] = {}
    for rule in FOLDERS:
        _from_finished(config, workflow, pair, rule, measured, shorter)
    _of_one_kind(measured)
    known = {rule for rule in wanted & measured.rates.keys() if rule == ATTACK or rule in measured.sizes}
    if trial and wanted - known:
        threads = max(job.threads for job in workflow.jobs if job.run[:2] == pair)
        try:
            found = in_new_process(_try, config, pair, measured.shape, threads, time.time())
        except BrokenProcessPool:
            found = Measured(unknown=KILLED)
        measured = _joined(measured, found)
        _of_one_kind(measured)
    elif wanted - measured.rates.keys() - shorter.keys():
        measured.unknown = f"{' × '.join(pair)}: no finished job to tell the speed by, and no trial"
    for rule, rate in shorter.items():
        measured.rates.setdefault(rule, rate)
    _of_one_kind(measured)
    return measured


def _described(config: Config, dataset: str) -> Measured:
    """Return shape and classes of a dataset: those that are always the same, or was fetched as it is configured now."""
    if isinstance(config.datasets[dataset], BundledDataset | Cifar10Dataset):
        return Measured((32, 32, 3), 10)
    manifest = Path(config.data, "datasets", dataset, "manifest.json")
    if manifest.exists():
        facts = read_manifest(manifest)
        if facts["settings"]["dataset"] == config.datasets[dataset].model_dump(mode="json"):
            height, width, channels = facts["shape"]
            return Measured((height, width, channels), len(facts["class_names"]))
    return Measured()


def _from_finished(
    config: Config,
    workflow: Workflow,
    pair: tuple[str, str],
    rule: str,
    measured: Measured,
    shorter: dict[str, Rate],
) -> None:
    """Enter what finished jobs of a rule tell of its speed, and of the size of what it writes."""
    rates, short, sizes = [], [], []
    for manifest in sorted(Path(config.results, *pair).glob(f"*/{FOLDERS[rule]}/??????-??????.json")):
        facts = _comparable(config, manifest)
        if facts is None:
            continue
        units, images = _work(manifest, facts, rule, measured)
        data = manifest.parent / facts["data"]
        if images and data.is_dir():
            sizes.append(size_of(data, images))
        seconds = workflow.seconds.get(manifest, 0.0)
        if units and seconds > LONG * measured.start_up:
            rates.append((seconds - measured.start_up) / units)
        elif units and seconds > IMPORTS:
            short.append(seconds / units)
    # Medians: a job that was resumed, or waited in a cluster's queue, says nothing of its speed.
    if rates:
        measured.rates[rule] = Rate(statistics.median(rates), "finished jobs")
    elif short:
        shorter[rule] = Rate(statistics.median(short), "short finished jobs")
    if sizes:
        middle = [statistics.median(getattr(size, name) for size in sizes) for name in ("chunk", "image")]
        measured.sizes[rule] = Size(*middle)


def _comparable(config: Config, manifest: Path) -> dict[str, Any] | None:
    """Return a chunk's manifest, if it was made with the engine and the layers of now."""
    try:
        facts = read_manifest(manifest)
    except OnepixError:
        return None
    settings, engine = facts["settings"], config.engine.model_dump(mode="json")
    layers = config.propagation.model_dump(mode="json")["layers"]
    same = all(engine.get(key) == value for key, value in settings.get("engine", {}).items())
    return facts if same and settings.get("layers", layers) == layers else None


def _work(manifest: Path, facts: Mapping[str, Any], rule: str, measured: Measured) -> tuple[float, int]:
    """Return how much work a chunk was, and of how many images it holds maps."""
    if rule == ATTACK:
        records = _records([manifest])
        return (0.0, 0) if records is None else (float(records["queries"].sum()), 0)
    images = len(facts["image_ids"])
    if rule == LOCALITY:
        return float(images * math.prod(measured.shape[:2])) if measured.shape else 0.0, images
    return float(images), images


def _of_one_kind(measured: Measured) -> None:
    """Let rules of the same kind of work stand in for each other: following images, and screening candidates."""
    for one, other in ((FOLLOW, CONTROLS), (CONTROLS, FOLLOW), (ATTACK, LOCALITY), (LOCALITY, ATTACK)):
        if other in measured.rates:
            measured.rates.setdefault(one, measured.rates[other])
        if other in measured.sizes and one != ATTACK:
            measured.sizes.setdefault(one, measured.sizes[other])
    if measured.shape:
        measured.sizes.setdefault(LOCALITY, Size(0.0, POSITION_BYTES * math.prod(measured.shape[:2])))


def size_of(store: Path, images: int) -> Size:
    """Return what a zarr store of so many images takes: its metadata a chunk, its data an image."""
    sizes: dict[bool, int] = defaultdict(int)
    for file in store.rglob("*"):
        if file.is_file():
            sizes[file.name == "zarr.json"] += file.stat().st_size
    return Size(sizes[True], sizes[False] / images)


def _joined(measured: Measured, tried: Measured) -> Measured:
    """Return what finished jobs tell, and where they do not, what was tried."""
    return Measured(
        measured.shape or tried.shape,
        measured.classes or tried.classes,
        measured.start_up or tried.start_up,
        tried.rates | measured.rates,
        tried.sizes | measured.sizes,
        tried.unknown,
    )


def _try(
    config: Config, pair: tuple[str, str], shape: tuple[int, int, int] | None, threads: int, started: float
) -> Measured:
    """Try a pair out with the threads that its jobs have: screen candidates, and follow one micro-batch of images."""
    os.environ["ONEPIX_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(threads)
    row, found = Row(*pair), Measured()
    try:
        loaded, chosen = load_pair(row, config)
        classifier = loaded or with_fresh_weights(config, pair[1])
        found.start_up = time.time() - started
        if chosen is not None:
            found.shape, found.classes = chosen.images.shape[1:], len(chosen.class_names)
            _try_on(config, classifier, chosen.images, found)
        elif shape is not None:  # speed is the same on any images
            noise = np.random.default_rng(0).integers(0, 256, (config.images_per_job, *shape)).astype(np.uint8)
            _try_on(config, classifier, noise, found)
        else:
            found.unknown = f"{' × '.join(pair)}: to be fetched: {'; '.join(row.fetches)}"
    except OnepixError as error:
        found.unknown = f"{' × '.join(pair)}: {error}"
    return found


def _try_on(config: Config, classifier: "Classifier", images: npt.NDArray[np.uint8], found: Measured) -> None:
    """Enter how fast a network screens changes of an image, and how fast it follows changes of several."""
    import torch

    from onepix.engine.evaluator import Evaluator

    device = classifier.mean.device
    source = f"{TRIED} on {device.type}"
    picture = torch.from_numpy(images[:1]).to(device)
    evaluator = Evaluator(classifier, config.engine, images.shape[1:])
    found.rates[ATTACK] = Rate(1 / passes_a_second(evaluator, picture), source)
    with redirect_stderr(io.StringIO()):  # no progress bar
        seconds, found.sizes[FOLLOW] = _follow_some(config, classifier, images)
    found.rates[FOLLOW] = Rate(seconds, source)


def _follow_some(config: Config, classifier: "Classifier", images: npt.NDArray[np.uint8]) -> tuple[float, Size]:
    """Follow a micro-batch of images through all layers, and write their maps; return seconds and bytes an image."""
    import torch
    import xarray as xr

    from onepix.analysis.maps import maps_tree
    from onepix.engine.devices import choose_micro_batch
    from onepix.files.trees import write_tree
    from onepix.layers.propagation import propagation_maps
    from onepix.layers.receptive_field import receptive_fields

    _, height, width, channels = images.shape
    device = str(classifier.mean.device)
    batch = choose_micro_batch(config.engine.micro_batch, device, height, width)
    clean = torch.from_numpy(images[: min(max(batch // 2, 1), config.images_per_job)]).to(device)
    changed = clean.clone()
    changed[:, height // 2, width // 2] = 255 - changed[:, height // 2, width // 2]
    fields = receptive_fields(classifier.network, (channels, height, width))
    middle = {
        axis: (("image", "pixel"), np.full((len(clean), 1), extent // 2))
        for axis, extent in (("row", height), ("column", width))
    }
    root = xr.Dataset(middle, attrs={"image_shape": [height, width]})
    with tempfile.TemporaryDirectory() as folder:
        start, store = time.perf_counter(), Path(folder, "maps.zarr")
        layers = propagation_maps(classifier, clean, changed, config.propagation.layers, batch, "trial")
        write_tree(maps_tree(layers, fields, root), store)
        return (time.perf_counter() - start) / len(clean), size_of(store, len(clean))
