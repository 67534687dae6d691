"""Follow the pixel changes of one chunk through every layer."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from onepix.config import UNTARGETED, Layers, Passes, Settings
from onepix.engine import choose_micro_batch, claimed_device
from onepix.images import ImageSet
from onepix.jobs import name_of, provenance, read_images, read_settings
from onepix.models.weights import load_network_file
from onepix.propagation import LayerMaps, measures, propagation_maps
from onepix.receptive_field import ReceptiveField, receptive_fields
from onepix.records import attacked_images, read_records
from onepix.store import checked_data, write_manifest, write_tree


class Propagate(Settings):
    """What the job needs to know."""

    layers: Layers
    engine: Passes


def run(settings: str, dataset: Path, network: Path, attack: Path, output: Path) -> None:
    """Write the propagation maps of all attacked images of a chunk as zarr, and their manifest `output`."""
    job = read_settings(Propagate, settings)
    records = read_records([checked_data(attack)])
    attacked = records[records["eligible"]]
    images = read_images(dataset)
    root = xr.Dataset(
        {
            "success": ("image", attacked["success"].to_numpy(bool)),
            "label": ("image", attacked["label"].to_numpy(np.int64)),
            "target": ("image", attacked["target"].fillna(UNTARGETED).to_numpy(np.int64)),
            "adversarial_class": ("image", attacked["adversarial_class"].to_numpy(np.int64)),
            **{axis: (("image", "pixel"), _pixels(attacked[f"{axis}s"].tolist())) for axis in ("row", "column")},
        },
        coords={"image": attacked["image_id"].to_numpy(np.int64)},
    )
    changed = attacked_images(images.images[images.places(attacked["image_id"])], attacked)
    follow(job, images, changed, root, output, dataset=dataset, network=network, attack=attack)


def _pixels(lists: list[npt.NDArray[np.int32]]) -> npt.NDArray[np.int64]:
    """Return the pixels of each record, (image, pixel)."""
    return np.array([list(pixels) for pixels in lists], dtype=np.int64).reshape(len(lists), -1 if lists else 1)


def follow(
    job: Propagate, images: ImageSet, changed: npt.NDArray[np.uint8], root: xr.Dataset, output: Path, **inputs: Path
) -> None:
    """Follow changes through every layer, and write their propagation maps and a manifest.

    Parameters
    ----------
    job : Propagate
        Layers and engine.
    images : ImageSet
        The dataset.
    changed : ndarray
        uint8, shape (N, H, W, C): images with pixels changed.
    root : Dataset
        What is to be said of each of them: at least `row` and `column`, dims (image, pixel), and the id, `image`.
    output : Path
        The manifest to write.
    **inputs : Path
        Manifests, at least the network's.
    """
    device = claimed_device(job.engine.device)
    classifier = load_network_file(checked_data(inputs["network"]), device)
    _, height, width, channels = images.images.shape
    clean = images.images[images.places(root["image"].values)]
    layers = propagation_maps(
        classifier,
        torch.from_numpy(clean).to(device),
        torch.from_numpy(changed).to(device),
        job.layers,
        choose_micro_batch(job.engine.micro_batch, device, height, width),
        f"{output.parent.name} {name_of(inputs['network'])} {output.stem}",
    )
    fields = receptive_fields(classifier.network, (channels, height, width))
    data = output.with_suffix(".zarr")
    write_tree(maps_tree(layers, fields, root.assign_attrs(image_shape=[height, width])), data)
    ids = root["image"].values.tolist()
    write_manifest(output, data, job.model_dump(mode="json"), image_ids=ids, **provenance(device, **inputs))


def maps_tree(layers: list[LayerMaps], fields: Mapping[str, ReceptiveField | None], root: xr.Dataset) -> xr.DataTree:
    """Put propagation maps together, with what is measured on them; `root` is as of `follow`, with `image_shape`."""
    groups = {
        f"/{depth:03d}_{layer.name}": _group(depth, layer, fields.get(layer.name)) for depth, layer in enumerate(layers)
    }
    height, width = root.attrs["image_shape"]
    places = root["row"].values, root["column"].values
    measured = [measures(layer, fields.get(layer.name), (height, width), *places) for layer in layers]
    by_layer = xr.Dataset(
        {name: (("layer", "image"), np.stack([values[name] for values in measured])) for name in measured[0]},
        coords={"layer": np.array([layer.name for layer in layers], dtype=object)},
    )
    return xr.DataTree.from_dict({"/": root, "/measures": by_layer, **groups})


def _group(depth: int, layer: LayerMaps, field: ReceptiveField | None) -> xr.Dataset:
    attributes = {
        "layer": layer.name,
        "operator": layer.operator,
        "depth": depth,
        "output_shape": list(layer.shape),
        "spatial": layer.spatial,
        "receptive_field": list(field.size) if field else "whole image",
        "stride": list(field.jump) if field else "whole image",
        "receptive_field_start": list(field.start) if field else "whole image",
    }
    maps = {"max": layer.maximum, "mean": layer.mean}
    return xr.Dataset({name: (("image", "y", "x"), values.numpy()) for name, values in maps.items()}, attrs=attributes)
