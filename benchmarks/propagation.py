"""Compares the propagation job with two plain passes per image: time, memory, bytes on disk, lazy reading.

The network has random weights; the bundled images are repeated, each with one random pixel changed. The values in a
layer do not change time and memory, and hardly the bytes.
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
import xarray as xr

from onepix.analysis.depth import layer_table
from onepix.analysis.maps import measured
from onepix.config.engine import Engine
from onepix.config.statistics import Statistics
from onepix.datasets.bundled import load_bundled
from onepix.engine.devices import choose_device, choose_micro_batch
from onepix.engine.evaluator import exact_float32
from onepix.files.manifests import write_manifest
from onepix.images import ImageSet
from onepix.jobs.propagation import PropagationJob, follow
from onepix.networks.build import build
from onepix.networks.classifier import Classifier
from onepix.networks.weights import save_classifier


def main(
    architecture: Annotated[str, typer.Argument(help="resnet20, resnet56, …")] = "resnet56",
    images: Annotated[int, typer.Option(min=1)] = 1000,
) -> None:
    """Run the job once and print time, memory and bytes."""
    device = choose_device("auto")
    loaded = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network" / "manifest.json"
        classifier = stored_network(architecture, network).to(device)
        clean, changed, root = study(images)
        plain = plain_passes(classifier, clean, changed.images, device)
        begun = time.perf_counter()
        output = Path(folder) / "propagation" / "maps.json"
        follow(PropagationJob(layers="auto", engine=Engine()), clean, changed.images, root, output, network=network)
        followed = time.perf_counter() - begun
        data = output.with_suffix(".zarr")
        sizes = [file.stat().st_size for file in data.rglob("*") if file.is_file()]
        peak = peak_memory()
        begun = time.perf_counter()
        with xr.open_datatree(data, engine="zarr", chunks={}) as tree:
            opened = time.perf_counter() - begun
            layers = tree["measures"].sizes["layer"]
            raw = sum(layer["max"].nbytes + layer["mean"].nbytes for layer in tree.children.values() if "max" in layer)
            begun = time.perf_counter()
            measures = measured([tree])
            assert measures is not None
            layer_table(measures, None, Statistics())
            summed = time.perf_counter() - begun
    typer.echo(
        f"{architecture}, {layers} layers, {images} images, {device}, {torch.get_num_threads()} threads\n"
        f"two plain passes per image: {plain:.1f} s; propagation with writing: {followed:.1f} s, "
        f"{followed / plain:.2f} times as long\n"
        f"peak memory {peak:.0f} MB, of which {loaded:.0f} before the job began\n"
        f"{sum(sizes) / images / 1000:.0f} kB per image in {len(sizes)} files "
        f"({raw / images / 1000:.0f} kB uncompressed)\n"
        f"opened lazily in {opened:.2f} s, table by layer in {summed:.1f} s, peak memory then {peak_memory():.0f} MB"
    )


def stored_network(architecture: str, manifest: Path) -> Classifier:
    """Write a network with random weights, as the workflow stores it."""
    torch.manual_seed(0)
    classifier = Classifier(build(architecture), (0.5,) * 3, (0.25,) * 3).eval()
    weights = manifest.with_name("weights.safetensors")
    metadata = {"architecture": architecture, "classes": 10, "channels": 3}
    save_classifier(classifier, weights, metadata)
    write_manifest(manifest, weights, {}, "onepix.jobs.networks", metadata=metadata)
    return classifier


def study(count: int) -> tuple[ImageSet, ImageSet, xr.Dataset]:
    """Return images, the images with one random pixel changed, and where."""
    bundled = load_bundled()
    stream = np.random.default_rng(0)
    repeated = np.resize(bundled.images, (count, *bundled.images.shape[1:]))
    labels, ids = np.resize(bundled.labels, count), np.arange(count)
    rows, columns = stream.integers(0, 32, (2, count))
    changed = repeated.copy()
    changed[ids, rows, columns] = stream.integers(0, 256, (count, 3))
    root = xr.Dataset(
        {
            "success": ("image", ids % 3 == 0),
            "row": (("image", "pixel"), rows[:, None]),
            "column": (("image", "pixel"), columns[:, None]),
        },
        {"image": ids},
    )
    before, after = (
        ImageSet(pictures, labels, ids, bundled.class_names, "benchmark") for pictures in (repeated, changed)
    )
    return before, after, root


@torch.inference_mode()
def plain_passes(classifier: Classifier, clean: ImageSet, changed: np.ndarray, device: str) -> float:
    """Return the seconds that two plain passes per image take at the same batch size, the better of two tries."""
    size = choose_micro_batch("auto", device, *clean.images.shape[1:3])
    tries = []
    for _ in range(2):
        begun = time.perf_counter()
        with exact_float32():
            for pictures in (clean.images, changed):
                for start in range(0, len(pictures), size):
                    classifier(torch.from_numpy(pictures[start : start + size]).to(device)).cpu()
        tries.append(time.perf_counter() - begun)
    return min(tries)


def peak_memory() -> float:
    """Return the most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
