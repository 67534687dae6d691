"""Fetch CIFAR-10."""

from pathlib import Path

import typer

from onepix.config.base import Settings
from onepix.datasets.cifar10 import fetch_cifar10
from onepix.files.manifests import write_manifest
from onepix.jobs.inputs import JsonText, Output, read_settings


class Cifar10Job(Settings):
    """Settings of the job."""

    existing: Path | None = None


def run(settings: JsonText, output: Output) -> None:
    """Write the six binary files into a folder next to their manifest `output`, and print where they come from."""
    job = read_settings(Cifar10Job, settings)
    folder = output.with_suffix("")
    source = fetch_cifar10(folder, job.existing)
    write_manifest(output, folder, {}, __name__, source=source)
    typer.echo(f"CIFAR-10 from {source}: six files in {folder}, all as published")
