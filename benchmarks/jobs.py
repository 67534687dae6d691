"""Compares two attack jobs of one thread with one job of two threads, on two cores: attacks only, without their start.

The one job may be run by the code of another checkout, so that two versions can be compared. Jobs are started once,
wait until all are ready, and attack by turns: A, B, A, B, … The smallest time of each side counts.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[1]
CORES = 2
NETWORKS = ("resnet20", "lenet")


def main(
    images: Annotated[int, typer.Option(min=2, help="Scanned in all; an even number.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Of each side.")] = 3,
    other: Annotated[Path, typer.Option(help="A checkout whose code runs the one job of two threads.")] = ROOT,
    quick: Annotated[bool, typer.Option(help="Only show that everything works; the numbers mean nothing.")] = False,
) -> None:
    """Print the seconds that whole scans of the first bundled images take, and how many times as fast two jobs are."""
    networks, images, repeats = (NETWORKS[-1:], 2, 1) if quick else (NETWORKS, images, repeats)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    half = images // 2
    typer.echo(
        f"{images} whole scans of bundled images\n\n"
        "| network | one job of two threads, s | two jobs of one thread, s | times as fast |\n"
        "| --- | ---: | ---: | ---: |"
    )
    for network in networks:
        one = [Job(other, network, range(images), 2)]
        two = [Job(ROOT, network, ids, 1) for ids in (range(half), range(half, images))]
        times: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(repeats):
            for jobs in (one, two):
                times[len(jobs)].append(seconds(jobs))
        for job in (*one, *two):
            job.end()
        ratio = min(times[1]) / min(times[2])
        typer.echo(f"| {network} | {written(times[1])} | {written(times[2])} | {ratio:.2f} |")


class Job:
    """A process that is ready to attack some of the bundled images, again and again."""

    def __init__(self, root: Path, network: str, ids: range, threads: int) -> None:
        task = json.dumps({"network": network, "ids": list(ids), "threads": threads})
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--attack", task],
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.wait()

    def go(self) -> None:
        """Begin to attack."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Wait until the process is ready again."""
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            sys.exit(f"a job failed: {self.process.args!r}")

    def end(self) -> None:
        """End the process."""
        self.process.communicate()


def seconds(jobs: list[Job]) -> float:
    """Return the seconds until all jobs have attacked all of their images."""
    begun = time.perf_counter()
    for job in jobs:
        job.go()
    for job in jobs:
        job.wait()
    return time.perf_counter() - begun


def written(times: list[float]) -> str:
    """Return the smallest time, and the median of all."""
    return f"{min(times):.2f} (median {statistics.median(times):.2f})"


def attack(network: str, ids: list[int], threads: int) -> None:
    """Say that everything is loaded, and attack whenever there is a line to read."""
    import torch

    import onepix.notebook
    from onepix.attacks.attack import attack_images
    from onepix.config.attacks import Scan
    from onepix.engine.devices import keep_memory

    torch.set_num_threads(threads)
    keep_memory()
    classifier, images = onepix.notebook.bundled_network(network), onepix.notebook.bundled_images().select(ids)
    attack_images(classifier, images.select(ids[:1]), Scan(method="scan", stop="all"))  # the first one is slower
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        attack_images(classifier, images, Scan(method="scan", stop="all"))
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--attack"]:
        attack(**json.loads(sys.argv[2]))
    else:
        typer.run(main)
