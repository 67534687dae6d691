"""Does in one call of at most nine minutes what only a GPU can show, and prints a table.

Each step runs in its own process, within its share of the time. What fails, or takes too long, says so in a row, and
the other steps go on. Where the CPU is compared with, it does the same in the same call.
"""

import functools
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import typer
from attacks import HERE, run
from contender import arithmetic, best_rate, predicted, ready_batch, run_dense, run_engine, run_library, run_onepix
from torch.fx.experimental.optimization import fuse

from onepix.analysis.maps import measures
from onepix.attacks.attack import attack_images
from onepix.config.attacks import AttackSettings, Scan
from onepix.config.engine import Engine
from onepix.config.study import load
from onepix.datasets.bundled import load_bundled
from onepix.datasets.cifar10 import read_cifar10
from onepix.datasets.selection import select
from onepix.engine.devices import choose_micro_batch
from onepix.engine.evaluator import Evaluator, logit_margin
from onepix.engine.speed import passes_per_second
from onepix.errors import OnepixError
from onepix.files.records import attacked_images
from onepix.images import ImageSet
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import receptive_fields
from onepix.networks.classifier import Classifier
from onepix.networks.weights import bundled, load_network_file
from onepix.pixels import Perturbation

ROOT = HERE.parent
MINUTES = 9.0
SHAPE = (32, 32, 3)
MEMORY = 1.5 * 2**30  # bytes that a card is said to have, so that memory runs out
HEADER = "| step | what | result |\n| --- | --- | --- |"
Row = tuple[str, str]  # what, result


class Call(NamedTuple):
    """What a step gets: how much it is to do, and when (of time.monotonic)."""

    dry: bool
    device: str
    begun: float
    end: float
    cifar10: Path
    libraries: Path

    def classifier(self, name: str, device: str | None = None) -> Classifier:
        """Load a bundled network."""
        return load_network_file(bundled()[name], device or self.device)

    def images(self, classifier: Classifier, most: int = 2) -> ImageSet:
        """Return the bundled images that a network classifies correctly; of a dry run, the first ones only."""
        images = load_bundled()
        right = images.ids[predicted(classifier, images.images) == images.labels].tolist()
        return images.select(right[:most] if self.dry else right)

    def is_over(self, share: float = 0.8) -> bool:
        """Tell whether this share of the step's time is used up."""
        return time.monotonic() > self.begun + share * (self.end - self.begun)


def machine(call: Call) -> Iterator[Row]:
    """Say what runs here."""
    yield "versions", f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    if call.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        yield "card", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability {card.major}.{card.minor}"
    yield "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if call.dry:
        yield "dry run", "small, on the CPU, which stands for the card, too: the numbers mean nothing"


def cifar10(call: Call) -> Iterator[Row]:
    """Scan the first 1,000 test images of CIFAR-10 on ResNet-20."""
    classifier = call.classifier("resnet20")
    try:
        images = read_cifar10(call.cifar10, "test").select(range(1000))
    except OnepixError as error:
        yield "CIFAR-10", f"{error}; the bundled images, its first 100, stand in"
        images = load_bundled()
    size, settings = (2 if call.dry else 100), Scan(method="scan", budget=600 if call.dry else None)
    done, begun = [], time.perf_counter()
    for start in range(0, size if call.dry else len(images.ids), size):
        part = images.select(images.ids[start : start + size].tolist())
        done.append(attack_images(classifier, part, settings, is_tried=start > 0).records)
        if call.is_over():
            break
    seconds, records = time.perf_counter() - begun, pd.concat(done)
    passes, attacked = int(records["queries"].sum()), int(records["eligible"].sum())
    yield "images", f"{len(records)} scanned whole, of {len(images.ids)}; {attacked} classified correctly"
    yield "flipped", f"{int(records['success'].fillna(False).sum())} of {attacked}"
    yield "speed", f"{seconds:.1f} s, {passes / seconds:,.0f} passes per second"
    if call.device == "cuda":
        yield "memory", f"{torch.cuda.max_memory_allocated() / 1e6:,.0f} MB of the card at most"


def records(call: Call) -> Iterator[Row]:
    """Attack as the bundled study does, on the CPU and on the card, and compare."""
    config, images = load(ROOT / "config" / "config.yaml"), load_bundled()
    runs = [
        (network, attack, list(select(run.images, images.ids, images.labels, "the bundled study")))
        for run in config.runs
        for network in run.networks
        for attack in run.attacks
    ]
    for index, (network, attack, ids) in enumerate(runs):
        pair = [call.classifier(network, device) for device in ("cpu", call.device)]
        until = 0.9 * (index + 1) / len(runs)
        yield from compared(call, f"{network}, {attack}", pair, config.attacks[attack], ids, until)


def compared(
    call: Call, name: str, pair: list[Classifier], settings: AttackSettings, ids: list[int], until: float
) -> Iterator[Row]:
    """Compare one attack's records, image by image, and what its successes change outside the pixel's forward cone."""
    if call.dry:
        ids, settings = ids[:2], Scan(method="scan", stop="first", budget=600)
    images, size = load_bundled(), 10
    found: list[list[pd.DataFrame]] = [[], []]
    for start in range(0, len(ids), size):
        part = images.select(ids[start : start + size])
        for classifier, results in zip(pair, found, strict=True):
            results.append(attack_images(classifier, part, settings, is_tried=start > 0).records)
        if call.is_over(until):
            break
    tables = [pd.concat(results, ignore_index=True) for results in found]
    attacked = tables[0]["eligible"] & tables[1]["eligible"]
    ours, theirs = (table[attacked]["success"].astype(bool) for table in tables)
    same = [
        tables[0][name][attacked].map(repr) == tables[1][name][attacked].map(repr)
        for name in ("rows", "columns", "values")
    ]
    yield (
        name,
        f"{attacked.sum()} of {len(ids)} images attacked: {ours.sum()} successes on the CPU, {theirs.sum()} on the "
        f"card, the same for {(ours == theirs).sum()}; the same pixel and colour for {np.all(same, axis=0).sum()}",
    )
    chosen = tables[0][attacked][ours]
    if len(chosen):
        counts = [outside(classifier, images, chosen) for classifier in pair]
        yield f"{name}, outside_cone", "at most {} positions on the CPU, {} on the card".format(*counts)


def outside(classifier: Classifier, images: ImageSet, chosen: pd.DataFrame) -> int:
    """Return the most positions, of any layer and image, that change outside the theoretical forward cone."""
    clean = images.images[images.indices(chosen["image_id"])]
    device, shape = classifier.mean.device, (SHAPE[2], *SHAPE[:2])
    before, after = (torch.from_numpy(array).to(device) for array in (clean, attacked_images(clean, chosen)))
    pixels = [np.array([list(index) for index in chosen[name]], np.int64) for name in ("rows", "columns")]
    fields = receptive_fields(classifier.network, shape)
    size = choose_micro_batch("auto", device, *SHAPE[:2])
    layers = propagation_maps(classifier, before, after, micro_batch=size)
    found = [measures(layer, fields.get(layer.name), SHAPE[:2], *pixels)["outside_cone"] for layer in layers]
    return int(np.max(found))


def screening(call: Call) -> Iterator[Row]:
    """Scan whole, then evaluate every candidate again in float32."""
    for network in ("resnet20", "lenet"):
        classifier, settings = call.classifier(network), Scan(method="scan", budget=600 if call.dry else None)
        images, count, missed, false, errors, bounds = call.images(classifier), 0, 0, 0, [0.0], []
        evaluator = Evaluator(classifier, Engine(), SHAPE)
        for start in range(0, len(images.ids), 8):
            part = images.select(images.ids[start : start + 8].tolist())
            done = attack_images(classifier, part, settings, keep_maps=True, is_tried=start > 0)
            assert done.maps is not None
            index = np.argwhere(done.maps.evaluated)
            margins = exact_margins(evaluator, part, done.maps.colours, index)
            screened = done.maps.margins[tuple(index.T)]
            count += len(index)
            missed += int(((margins < 0) & (screened >= 0)).sum())
            false += int(((margins >= 0) & (screened < 0)).sum())
            errors.append(float(np.abs(margins - screened).max()))
            if done.evaluation.get("screening_error") is not None:
                bounds.append(done.evaluation["screening_error"])
            if call.is_over(0.45 if network == "resnet20" else 0.9):
                break
        yield (
            network,
            f"{count:,} candidates again in float32: {missed} flips missed, {false} wrongly called; margins differ by "
            f"{max(errors):.3g} at most" + (f"; largest error over the bound {max(bounds):.2f}" if bounds else ""),
        )


def exact_margins(evaluator: Evaluator, images: ImageSet, colours: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the float32 margins of candidates: `index` holds image, colour, row and column of each."""
    pictures, labels, chosen, where = (
        torch.from_numpy(array).to(evaluator.device) for array in (images.images, images.labels, colours, index)
    )
    candidates = Perturbation(where[:, 2:3], where[:, 3:4], chosen[where[:, 0], where[:, 1]][:, None])
    logits = evaluator.exact(pictures, where[:, 0], candidates)
    margins: np.ndarray = logit_margin(logits, labels[where[:, 0]]).cpu().numpy()
    return margins


def batches(call: Call) -> Iterator[Row]:
    """Find the best micro-batch, on windows and on whole images."""
    sizes, seconds = ([8, 32], 0.05) if call.dry else ([1 << power for power in range(7, 15)], 0.6)
    default = choose_micro_batch("auto", call.device, *SHAPE[:2])
    for network in ("resnet20", "lenet"):
        classifier = call.classifier(network)
        picture = torch.from_numpy(load_bundled().images[:1]).to(call.device)
        for windows in (True, False):
            rates = {}
            for size in sizes:
                evaluator = Evaluator(classifier, Engine(micro_batch=size, windows=windows), SHAPE)
                rates[size] = passes_per_second(evaluator, picture, 4 * size, seconds)
            best = max(rates, key=rates.__getitem__)
            yield (
                f"{network}, {'windows' if windows else 'whole images'}",
                f"best micro-batch {best:,} (auto: {default:,}); passes per second "
                + ", ".join(f"{size:,}: {rate:,.0f}" for size, rate in rates.items()),
            )


def graphs(call: Call) -> Iterator[Row]:
    """Measure what CUDA graphs would gain: the folded network, launched as usual and replayed."""
    if call.device != "cuda":
        yield "CUDA graphs", "a GPU is needed"
        return
    task = {"repetitions": 3, "seconds": 0.4}
    for name in ("resnet20", "lenet"):
        classifier = call.classifier(name)
        network = fuse(classifier.network).to(memory_format=torch.channels_last)
        for size in (128, 1024, 4096):
            ready = ready_batch(classifier, size).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode(), arithmetic(classifier, "bfloat16"):
                torch.set_autocast_cache_enabled(False)  # what is cached while a graph is recorded would be lost
                usual = best_rate(functools.partial(several, functools.partial(network, ready)), 8 * size, task)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    network(ready)
                replayed = best_rate(functools.partial(several, graph.replay), 8 * size, task)
            yield f"{name}, batch {size:,}", f"{usual:,.0f} passes per second, {replayed:,.0f} with a graph"


def several(step: Callable[[], object]) -> None:
    """Do a step eight times, without waiting for the card."""
    for _ in range(8):
        step()


def speed(call: Call) -> Iterator[Row]:
    """Compare passes per second with the dense ceiling and with torchattacks."""
    classifier = call.classifier("resnet20")
    images = call.images(classifier)
    task: dict[str, Any] = {"repetitions": 1 if call.dry else 3, "seconds": 0.01 if call.dry else 0.3, "folded": True}
    ceiling = max((run_dense(classifier, images, {**task, "precision": p}) for p in ("float32", "bfloat16")), key=rate)
    yield "dense ceiling", f"{rate(ceiling):,.0f} passes per second, at batch {ceiling['batch']}"
    found = {
        "`Evaluator.screen`": run_engine(classifier, images, {**task, "engine": {}, "exact": False}),
        "`Evaluator.exact`": run_engine(classifier, images, {**task, "engine": {}, "exact": True}),
    }
    scan = {"method": "scan", "settings": {"budget": 600} if call.dry else {}, "jobs": 1, "again": False}
    found["whole scan"] = run_onepix(classifier, images, scan)
    for name, result in found.items():
        yield name, f"{rate(result):,.0f} passes per second, {rate(result) / rate(ceiling):.0%} of the dense ceiling"
    sys.path.append(str(call.libraries))
    size = {"population": 20, "generations": 1} if call.dry else {"population": 400, "generations": 10}
    few = images.select(images.ids[:2].tolist())
    try:
        other = run_library(classifier, few, {"kind": "torchattacks", **size})
    except ModuleNotFoundError:
        yield "torchattacks", f"not installed in {call.libraries}"
    else:
        times = rate(found["whole scan"]) / rate(other)
        yield (
            "torchattacks OnePixel",
            f"{rate(other):,.0f} passes per second; the whole scan has {times:.1f} times as many",
        )


def rate(result: dict[str, Any]) -> float:
    """Return passes per second."""
    return float(result["rate"])


def out_of_memory(call: Call) -> Iterator[Row]:
    """Attack with a micro-batch that does not fit, and compare with one that does."""
    classifier = call.classifier("resnet20")
    images = load_bundled().select(range(2 if call.dry else 20))
    settings = Scan(method="scan", stop="first", budget=600)
    expected = attack_images(classifier, images, settings, Engine(micro_batch=64)).records
    large = limit_memory(call.device)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = attack_images(classifier, images, settings, Engine(micro_batch=large, windows=False))
    halved = sum("out of memory" in str(warning.message) for warning in said)
    same = int((done.records["success"].fillna(False) == expected["success"].fillna(False)).sum())
    yield (
        "micro-batch",
        f"{large:,}, halved {halved} times to {done.evaluation['micro_batch']:,}; the same success for {same} of "
        f"{len(images.ids)} images",
    )


def limit_memory(device: str) -> int:
    """Leave this process little more memory than it has; return a micro-batch for which it does not suffice."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(MEMORY / torch.cuda.get_device_properties(0).total_memory)
        return 1 << 15
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
    return 1 << 13


def jobs(call: Call) -> Iterator[Row]:
    """Run one job, then two at once, on one card, without the claim by which a study's jobs take turns."""
    task: dict[str, Any] = {"kind": "onepix", "network": "resnet20", "images": 1 if call.dry else 20, "again": False}
    task |= {"method": "scan", "settings": {"budget": 600} if call.dry else {}}
    one, two = (run({**task, "jobs": count}, call.libraries) for count in (1, 2))
    for name, result in (("one job", one), ("two jobs at once", two)):
        yield name, result.get("missing") or f"{rate(result):,.0f} passes per second together"
    if "rate" in one and "rate" in two:
        yield "two jobs", f"{rate(two) / rate(one):.2f} times as many as one"


# Each step and its share of the time, in seconds of nine minutes.
STEPS: dict[str, tuple[Callable[[Call], Iterator[Row]], float]] = {
    "machine": (machine, 30),
    "CIFAR-10": (cifar10, 90),
    "records": (records, 110),
    "screening": (screening, 75),
    "micro-batches": (batches, 60),
    "CUDA graphs": (graphs, 35),
    "speed": (speed, 60),
    "out of memory": (out_of_memory, 30),
    "two jobs": (jobs, 50),
}


def main(
    dry: Annotated[
        bool, typer.Option(help="Small, on the CPU: it shows that everything works, and nothing else.")
    ] = False,
    minutes: Annotated[float, typer.Option(min=0.1, help="For all steps together.")] = MINUTES,
    only: Annotated[list[str] | None, typer.Option(help="Only these steps; may be given several times.")] = None,
    cifar10: Annotated[Path, typer.Option(help="A folder that `onepix fetch-cifar10` made.")] = ROOT
    / "data"
    / "cifar10",
    libraries: Annotated[Path | None, typer.Option(help="Where torchattacks is installed.")] = None,
    output: Annotated[Path | None, typer.Option(help="A file for the table, too.")] = None,
    step: Annotated[str | None, typer.Option(hidden=True)] = None,
    rows: Annotated[Path | None, typer.Option(hidden=True)] = None,
    limit: Annotated[float, typer.Option(hidden=True)] = 60.0,
) -> None:
    """Run all steps one after the other and print the table."""
    libraries = libraries or Path(sys.prefix) / "bench"
    if step is not None and rows is not None:
        now, device = time.monotonic(), "cpu" if dry else "cuda"
        perform(STEPS[step][0], Call(dry, device, now, now + limit, cifar10, libraries), rows)
        return
    if not dry and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU here; --dry runs everything small on the CPU")
    if unknown := set(only or []) - STEPS.keys():
        raise SystemExit(f"there is no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    given = ["--cifar10", str(cifar10), "--libraries", str(libraries), *["--dry"] * dry]
    end, lines = time.monotonic() + 60 * minutes, [HEADER]
    typer.echo(HEADER)
    for name in only or STEPS:
        share = min(STEPS[name][1] * minutes / MINUTES, end - time.monotonic())
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows"
            command = [sys.executable, __file__, *given, "--step", name, "--rows", str(file), "--limit", str(share)]
            for what, result in watched(command, file, share):
                lines.append(f"| {name} | {what} | {result} |")
                typer.echo(lines[-1])
    if output is not None:
        output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def perform(step: Callable[[Call], Iterator[Row]], call: Call, file: Path) -> None:
    """Do a step and write each of its rows at once; if it fails, the last row says why."""
    with file.open("a", encoding="utf-8", buffering=1) as lines:
        try:
            for row in step(call):
                lines.write(json.dumps(row) + "\n")
        except Exception as error:
            said = str(error).strip().partition("\n")[0]
            lines.write(json.dumps(["failed", f"{type(error).__name__}: {said}"]) + "\n")


def watched(command: list[str], file: Path, limit: float) -> list[Row]:
    """Run a step's process for at most so many seconds; return the rows that it wrote, and how it ended if not well."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if "--dry" in command else {})
    job = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    try:
        code = job.wait(max(limit, 0.0))
        ending = [] if code == 0 else [("failed", f"exit status {code}")]
    except subprocess.TimeoutExpired:
        ending = [("stopped", f"after {limit:.0f} s, its share of the time")]
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    written = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [(what, result) for what, result in map(json.loads, written)] + ending


if __name__ == "__main__":
    typer.run(main)
