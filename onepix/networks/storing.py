"""Tries whether a network that is stored and loaded again is still the same network."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onepix.config.networks import Network
from onepix.errors import OnepixError
from onepix.files.manifests import write_manifest
from onepix.networks.classifier import Classifier
from onepix.networks.gate import out_of_memory, telling
from onepix.networks.weights import load_network_file, save_classifier

SIDES = (32, 224, 28, 64, 96, 128, 160, 192, 256, 299, 384, 512)  # of images that networks are made for
ROUNDING = 1e-3  # of the largest logit: weights in another order of memory may be summed in another order


@torch.inference_mode()
def made_up_images(classifier: Classifier, channels: int | None) -> Tensor | None:
    """Return two random images of the first common size that a network takes; None if it takes none of them."""
    generator = torch.Generator().manual_seed(0)
    for side in SIDES:
        images = torch.randint(0, 256, (2, side, side, channels or 3), generator=generator, dtype=torch.uint8)
        try:
            classifier(images.to(classifier.mean.device))
        except OnepixError:
            continue
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return None
        return images.to(classifier.mean.device)
    return None


def stored_and_loaded(classifier: Classifier, settings: Network, metadata: Mapping[str, Any]) -> Classifier:
    """Store a network in a temporary folder, and load it again.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    settings : Network
        Its entry in the configuration.
    metadata : mapping
        As `save_classifier` takes them.

    Returns
    -------
    Classifier
        On the same device.

    Raises
    ------
    OnepixError
        If it cannot be stored or loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_classifier(classifier, path, metadata)
        write_manifest(path.with_name("manifest.json"), path, {"network": settings.model_dump(mode="json")}, __name__)
        with telling(f"network {classifier.name} cannot be loaded again after it is stored"):
            again = load_network_file(path, classifier.mean.device)
    again.name = classifier.name
    return again


@torch.inference_mode()
def refuse_what_is_lost(classifier: Classifier, again: Classifier, images: Tensor) -> None:
    """Refuse a network that answers differently after it is stored and loaded again.

    Parameters
    ----------
    classifier, again : Classifier
        Before and after.
    images : Tensor
        uint8, shape (N, H, W, C), on their device.
    """
    before, after = classifier(images), again(images)
    if not torch.equal(before, classifier(images)):
        return  # it is random, and refused as such before it is attacked
    if before.shape != after.shape or (before - after).abs().max() > ROUNDING * before.abs().max():
        raise OnepixError(
            f"network {classifier.name} answers differently after it is stored and loaded again: it holds what its "
            "state_dict does not, such as a tensor that is neither a parameter nor a persistent buffer, or its factory "
            "draws at random what is no weight"
        )
