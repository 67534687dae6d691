"""Attack one chunk of images."""

from pathlib import Path
from typing import Any

import torch
import xarray as xr

from onepix.analysis.positions import PART, SCAN, scan_maps
from onepix.attacks.attack import attack_images
from onepix.attacks.journal import Journal
from onepix.config.attacks import AttackSettings, Scan
from onepix.config.base import Settings
from onepix.config.engine import Engine
from onepix.datasets.arrays import read_images
from onepix.engine.devices import claimed_device, keep_memory
from onepix.files.layout import journal_of, name_of
from onepix.files.manifests import checked_data, described, source_digest, versions, write_manifest
from onepix.files.records import RECORDS, write_records
from onepix.files.trees import write_tree
from onepix.jobs.inputs import JsonText, Manifest, Output, provenance, read_settings
from onepix.networks.weights import load_network_file


class AttackJob(Settings):
    """Settings of the job."""

    attack: AttackSettings
    image_ids: tuple[int, ...]
    engine: Engine


def run(settings: JsonText, dataset: Manifest, network: Manifest, output: Output) -> None:
    """Write the attack records of a chunk as Parquet, a scan's position maps as zarr, and their manifest `output`.

    Finished attacks are kept in the run's journal until the manifest is written.
    """
    job = read_settings(AttackJob, settings)
    keep_memory()
    device = claimed_device(job.engine.device)
    images = read_images(dataset).select(job.image_ids)
    classifier = load_network_file(checked_data(network), device)
    origin = provenance(device, dataset=dataset, network=network)
    journal = _journal(job, output, dict(origin))
    description = f"attack {name_of(network)} {output.stem}"
    scans = isinstance(job.attack, Scan)
    attacked = attack_images(classifier, images, job.attack, job.engine, description, keep_maps=scans, journal=journal)
    data = output.with_suffix(".parquet")
    facts: dict[str, Any] = {}
    if attacked.maps is not None:
        maps = output.with_suffix(".zarr")
        write_tree(xr.DataTree(scan_maps(attacked.maps, attacked.records)), maps)
        facts[PART] = described(maps, SCAN)
    write_records(attacked.records, data)
    facts["evaluation"] = attacked.evaluation
    write_manifest(output, data, job.model_dump(mode="json"), __name__, RECORDS, **facts, **origin)
    journal.remove(job.image_ids)


def _journal(job: AttackJob, output: Path, origin: dict[str, object]) -> Journal:
    """Return the run's journal; its key has the kind of CPU, too, which may change how sums are rounded."""
    code = {"source": source_digest(__name__), "versions": versions(), "cpu": dict(torch.cpu.get_capabilities())}
    return Journal(journal_of(output), {"attack": job.attack, "engine": job.engine, **origin, **code})
