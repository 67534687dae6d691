"""Fetch CIFAR-10."""

from pathlib import Path

from onepix.config import Settings
from onepix.datasets.cifar10 import fetch_cifar10
from onepix.jobs import read_settings
from onepix.store import write_manifest


class FetchCifar10(Settings):
    """What the job needs to know."""

    existing: Path | None = None


def run(settings: str, output: Path) -> str:
    """Write the six binary files into a folder beside their manifest `output`; return where they came from."""
    job = read_settings(FetchCifar10, settings)
    folder = output.with_suffix("")
    source = fetch_cifar10(folder, job.existing)
    write_manifest(output, folder, {}, source=source)
    return source
