"""Attack one chunk of images."""

from pathlib import Path

from onepix.attacks import attack
from onepix.config import DifferentialEvolution, Engine, Settings
from onepix.engine import choose_device, keep_memory
from onepix.jobs import name_of, provenance, read_images, read_settings
from onepix.models.weights import load_network_file
from onepix.records import write_records
from onepix.store import checked_data, write_manifest


class Attack(Settings):
    """What the job needs to know."""

    attack: DifferentialEvolution
    image_ids: tuple[int, ...]
    engine: Engine


def run(settings: str, dataset: Path, network: Path, output: Path) -> None:
    """Write the attack records of a chunk as Parquet, and their manifest `output`."""
    job = read_settings(Attack, settings)
    keep_memory()
    device = choose_device(job.engine.device)
    images = read_images(dataset).select(job.image_ids)
    classifier = load_network_file(checked_data(network), device)
    description = f"attack {name_of(network)} {output.stem}"
    records = attack(classifier, images, job.attack, job.engine.micro_batch, description)
    data = output.with_suffix(".parquet")
    write_records(records, data)
    write_manifest(output, data, job.model_dump(mode="json"), **provenance(device, dataset=dataset, network=network))
