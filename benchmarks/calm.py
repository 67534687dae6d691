"""Compares attack jobs on an idle machine with the same jobs beside one busy program, on two cores.

The jobs are those of the workflow, `python -m onepix.jobs attack`, from start to manifest: whole scans of the first
bundled images on ResNet-20. All processes share two cores, whatever the machine has.
"""

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

CORES = 2
PATIENCE = 90  # seconds for the jobs of one measurement
AS_BEFORE = {"GOMP_SPINCOUNT": "300000"}  # what GNU's OpenMP does by default: threads spin for about 3 ms
# By name: jobs at once, threads of each, and what they find in their environment.
WAYS: dict[str, tuple[int, int, dict[str, str]]] = {
    "two jobs of one thread, as the workflow runs them": (2, 1, {}),
    "one job of two threads that spin while they wait": (1, 2, AS_BEFORE),
}
MOST = 1.7  # times as long, beside one busy program: the first way; equal shares would give 1.5


def main(
    images: Annotated[int, typer.Option(min=2, help="Scanned in all; an even number.")] = 6,
    repeats: Annotated[int, typer.Option(min=1)] = 2,
    quick: Annotated[bool, typer.Option(help="Only show that everything works; the numbers mean nothing.")] = False,
) -> None:
    """Print the seconds that the jobs take, idle and busy by turns, and the ratio of the medians."""
    images, repeats = (2, 1) if quick else (images, repeats)
    keep_to_two_cores()
    typer.echo(
        f"{time.strftime('%Y-%m-%d')}; {platform.machine()}, {CORES} of {os.cpu_count()} cores; Python "
        f"{platform.python_version()}; {images} scans of ResNet-20; idle and busy by turns, {repeats} times\n\n"
        "| | idle, s | beside a busy program, s | times as long |\n| --- | ---: | ---: | ---: |"
    )
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = fetch(Path(folder))
        for name, (jobs, threads, settings) in WAYS.items():
            idle, busy = [], []
            for _ in range(repeats):
                idle.append(seconds(Path(folder), inputs, images, jobs, threads, settings))
                with busy_program():
                    busy.append(seconds(Path(folder), inputs, images, jobs, threads, settings))
            ratios.append(statistics.median(busy) / statistics.median(idle))
            typer.echo(f"| {name} | {written(idle)} | {written(busy)} | {ratios[-1]:.2f} |")
    typer.echo(f"\nThe first is to be at most {MOST}: {'it is' if ratios[0] <= MOST else 'it is not'}.")


def keep_to_two_cores() -> None:
    """Keep this process, and all that it starts, to two cores, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def fetch(folder: Path) -> list[str]:
    """Write images and network as the workflow stores them; return the options that name them."""
    dataset, network = folder / "dataset" / "manifest.json", folder / "network" / "manifest.json"
    finish([start("datasets", {"dataset": {"source": "bundled"}}, dataset, [], 1, {})])
    finish([start("networks", {"network": {"architecture": "resnet20"}}, network, [], 1, {})])
    return ["--dataset", str(dataset), "--network", str(network)]


def start(
    rule: str, settings: object, output: Path, inputs: list[str], threads: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a job as Snakemake does, which states its threads."""
    command = [sys.executable, "-m", "onepix.jobs", rule, "--settings", json.dumps(settings), *inputs]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    return subprocess.Popen(
        [*command, "--output", str(output)],
        env={**kept, "OMP_NUM_THREADS": str(threads), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(jobs: list[subprocess.Popen[bytes]]) -> None:
    """Wait until all jobs have ended; stop them all if one fails or takes too long."""
    try:
        for job in jobs:
            if job.wait(PATIENCE):
                sys.exit(f"a job failed: {job.args!r}")
    finally:
        for job in jobs:
            job.kill()


def seconds(
    folder: Path, inputs: list[str], images: int, jobs: int, threads: int, environment: dict[str, str]
) -> float:
    """Return the seconds from the start of the jobs, which share the images, until all have ended."""
    each, begun = images // jobs, time.perf_counter()
    started = []
    for job in range(jobs):
        ids = list(range(job * each, (job + 1) * each))
        settings = {"attack": {"method": "scan"}, "image_ids": ids, "engine": {"device": "cpu"}}
        output = folder / "results" / "attack" / f"{job}.json"
        started.append(start("attack", settings, output, inputs, threads, environment))
    with contextlib.suppress(subprocess.TimeoutExpired):
        finish(started)
    shutil.rmtree(folder / "results", ignore_errors=True)
    return time.perf_counter() - begun


@contextlib.contextmanager
def busy_program() -> Iterator[None]:
    """Run a program that keeps one core busy."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def written(times: list[float]) -> str:
    """Return times as text; one at the end of patience was stopped."""
    return ", ".join(f"> {PATIENCE}" if each >= PATIENCE else f"{each:.1f}" for each in times)


if __name__ == "__main__":
    typer.run(main)
