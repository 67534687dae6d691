"""Follow the pixel changes of one chunk through every layer."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

from onepix.config import UNTARGETED, Engine, Propagation, Settings
from onepix.engine import choose_device, choose_micro_batch
from onepix.jobs import name_of, provenance, read_images, read_settings
from onepix.models.weights import load_network_file
from onepix.propagation import LayerMaps, propagation_maps
from onepix.receptive_field import ReceptiveField, receptive_fields
from onepix.records import attacked_images, read_records
from onepix.store import checked_data, write_manifest, write_tree


class Propagate(Settings):
    """What the job needs to know."""

    propagation: Propagation
    engine: Engine


def run(settings: str, dataset: Path, network: Path, attack: Path, output: Path) -> None:
    """Write the propagation maps of all attacked images of a chunk as zarr, and their manifest `output`."""
    job = read_settings(Propagate, settings)
    device = choose_device(job.engine.device)
    records = read_records([checked_data(attack)])
    attacked = records[records["eligible"]]
    images = read_images(dataset)
    originals = images.images[images.places(attacked["image_id"])]
    classifier = load_network_file(checked_data(network), device)
    clean, changed = (
        torch.from_numpy(pictures).to(device) for pictures in (originals, attacked_images(originals, attacked))
    )
    micro_batch = choose_micro_batch(job.engine.micro_batch, device, *originals.shape[1:3])
    description = f"propagate {name_of(network)} {output.stem}"
    layers = propagation_maps(classifier, clean, changed, job.propagation.layers, micro_batch, description)
    _, height, width, channels = originals.shape
    fields = receptive_fields(classifier.network, (channels, height, width))
    data = output.with_suffix(".zarr")
    write_tree(_tree(layers, fields, attacked), data)
    write_manifest(
        output,
        data,
        job.model_dump(mode="json"),
        image_ids=attacked["image_id"].tolist(),
        **provenance(device, dataset=dataset, network=network, attack=attack),
    )


def _tree(layers: list[LayerMaps], fields: dict[str, ReceptiveField | None], attacked: pd.DataFrame) -> xr.DataTree:
    """Lay out the contract's tree: the attacks at the root, a numbered group a layer in network order."""
    groups = {
        f"/{depth:03d}_{layer.name}": _group(depth, layer, fields.get(layer.name), attacked)
        for depth, layer in enumerate(layers)
    }
    root = xr.Dataset(
        {
            "success": ("image", attacked["success"].to_numpy(bool)),
            "label": ("image", attacked["label"].to_numpy(np.int64)),
            "target": ("image", attacked["target"].fillna(UNTARGETED).to_numpy(np.int64)),
            "adversarial_class": ("image", attacked["adversarial_class"].to_numpy(np.int64)),
        },
        coords={"image": attacked["image_id"].to_numpy(np.int64)},
    )
    return xr.DataTree.from_dict({"/": root, **groups})


def _group(depth: int, layer: LayerMaps, field: ReceptiveField | None, attacked: pd.DataFrame) -> xr.Dataset:
    by_position = {"max": layer.maximum, "mean": layer.mean}
    by_image = {"clean_peak": layer.clean_peak, "delta_peak": layer.delta_peak, "reach": layer.reach}
    attributes = {
        "layer": layer.name,
        "operator": layer.operator,
        "depth": depth,
        "output_shape": list(layer.shape),
        "receptive_field": list(field.size) if field else "whole image",
        "stride": list(field.jump) if field else "whole image",
    }
    return xr.Dataset(
        {
            **{name: (("image", "y", "x"), values.numpy()) for name, values in by_position.items()},
            **{name: ("image", values.numpy()) for name, values in by_image.items()},
        },
        coords={"image": attacked["image_id"].to_numpy(np.int64)},
        attrs=attributes,
    )
