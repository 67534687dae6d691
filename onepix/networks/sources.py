"""Finds or fetches the weights of a network, verifies them, and loads them into its architecture."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from onepix.config.networks import Network, factory_of
from onepix.errors import OnepixError
from onepix.files.fetching import cached_path, fetch, verify
from onepix.files.located import located
from onepix.files.manifests import digest
from onepix.names import nearest
from onepix.networks.build import build, channels_of
from onepix.networks.checkpoints import read_tensors
from onepix.networks.classifier import Classifier
from onepix.networks.factories import origin_of
from onepix.networks.gate import refuse_uninitialised, telling
from onepix.networks.weights import bundled, fill, read_metadata, tensors_digest

if TYPE_CHECKING:  # imported where it is used: it costs start-up time
    from torchvision.models import WeightsEnum

OF_ITS_NETWORK = ("arguments", "code", "package", "tensors")  # metadata of the network that a file was written for
WHOLE = 64  # hexadecimal digits of a SHA-256
RESCALING = ("googlenet", "inception_v3")  # torchvision's networks scale their input again; 0.5 is the sum of both
IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")  # torch.hub puts a prefix of the SHA-256 into the name of a file


@dataclasses.dataclass(frozen=True)
class Source:
    """A network's weights before they are fetched.

    Attributes
    ----------
    origin : str
        As in the configuration: `bundled`, a URL, a path, …
    path : Path or None
        Path of the file, which may have to be fetched; None for weights that a factory loads.
    url : str or None
        Where to fetch it from.
    sha256 : str or None
        Its SHA-256, or the beginning of that.
    scaling : mapping
        `mean` and `std` that torchvision states for its weights; else empty.
    """

    origin: str
    path: Path | None = None
    url: str | None = None
    sha256: str | None = None
    scaling: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    @property
    def absent(self) -> bool:
        """Whether the file must be fetched first."""
        return self.url is not None and self.path is not None and not self.path.exists()

    @property
    def verified(self) -> str:
        """How the file is verified, in words."""
        if self.sha256 is None:
            return "not verified: the configuration states no sha256"
        if len(self.sha256) < WHOLE:
            return f"by the first {len(self.sha256)} digits of its SHA-256, no more are known"
        return "by its SHA-256"


def find(settings: Network, trained: Path | None = None) -> Source:
    """Find the weights of a network, without fetching or reading them.

    Parameters
    ----------
    settings : Network
        One entry of the configuration's networks.
    trained : Path, optional
        The file of trained weights, for `weights: train`.

    Raises
    ------
    OnepixError
        If no weights are bundled for the architecture, torchvision has none of that name, or a package is missing.
    """
    weights = settings.weights
    if weights == "factory":
        return Source("the factory's own")
    if weights == "train":
        return Source("trained", trained)
    if weights == "bundled":
        return Source("bundled", _bundled(settings.architecture), sha256=settings.sha256)
    if weights.partition(":")[0] == "torchvision":
        return _of_torchvision(settings)
    if weights.startswith(("http://", "https://")):
        assert settings.sha256 is not None
        return Source(weights, cached_path(weights, settings.sha256), weights, settings.sha256)
    return Source(weights, located(weights), sha256=settings.sha256)


def load_classifier(settings: Network, source: Source) -> tuple[Classifier, dict[str, Any]]:
    """Build a network; fetch its weights if necessary, verify and load them.

    Parameters
    ----------
    settings : Network
        Architecture and input scaling.
    source : Source
        From `find`.

    Returns
    -------
    classifier : Classifier
        On the CPU, in evaluation mode.
    metadata : dict
        The metadata of a file of onepix; architecture, classes and channels; under `weights`, the origin of the
        tensors, the SHA-256 of their file or of the tensors that a factory loaded, and how it was verified; under
        `tensors`, where names differ, `onepix.networks.matching.Match.facts`; of a factory, `arguments`, and `code` or
        `package`.

    Raises
    ------
    OnepixError
        If the file cannot be fetched, is missing, truncated, has another hash or architecture, or if the input
        scaling is not known.
    """
    network = build(settings.architecture, settings.classes, settings.channels, settings.arguments)
    refuse_uninitialised(network, settings.architecture)
    metadata: dict[str, Any] = {}
    if source.path is not None:
        path = source.path if source.url is None else fetch(source.url, source.sha256 or "")
        if source.url is None and source.sha256 is not None:
            verify(path, source.sha256)
        what = f"{path} into {settings.architecture}"
        taken = fill(network, read_tensors(path, network), what, settings.weights_key)
        stated = read_metadata(path) if path.suffix == ".safetensors" else {}
        metadata = {key: value for key, value in stated.items() if key not in OF_ITS_NETWORK}
        weights = {"origin": source.origin, "sha256": digest(path), "verified": source.verified}
        metadata |= {"tensors": taken.facts} if taken.facts else {}
    else:
        verified = "a digest of the tensors that the factory made"
        with telling(f"network {settings.architecture}: its tensors cannot be read"):
            weights = {"origin": source.origin, "sha256": tensors_digest(network), "verified": verified}
    mean, std = _scaling(settings, {**metadata, **source.scaling})
    mean, std = (_per_channel(name, value, settings.channels) for name, value in (("mean", mean), ("std", std)))
    metadata |= {"weights": weights, **architecture_metadata(settings, network, mean, metadata.get("classes"))}
    return Classifier(network, mean, std, settings.architecture).eval(), metadata


def architecture_metadata(settings: Network, network: nn.Module, mean: Any, classes: int | None) -> dict[str, Any]:
    """Return the metadata of a network that do not depend on its weights; `classes` if the configuration has none."""
    factory = factory_of(settings.architecture)
    return {
        "architecture": settings.architecture,
        "classes": settings.classes or classes,
        "channels": settings.channels or channels_of(network, mean),
        **({"arguments": settings.arguments} if settings.arguments is not None else {}),
        **(origin_of(factory[0]) if factory else {}),
    }


def _scaling(settings: Network, known: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return mean and std: those of the configuration, or those that the weights state."""
    mean, std = (getattr(settings, name) or known.get(name) for name in ("mean", "std"))
    if mean is None or std is None:
        raise OnepixError(
            f"network {settings.architecture}: its weights do not state an input scaling; "
            "set mean and std, one number per channel"
        )
    return mean, std


def _per_channel(name: str, value: Any, channels: int | None) -> Any:
    """Return one number per channel; or one for all channels, where it is not known how many there are."""
    if isinstance(value, float | int) or (channels is None and len(value) > 1):
        return value
    if channels is None:
        return float(value[0])
    if len(value) not in (1, channels):
        raise OnepixError(f"{name} has {len(value)} numbers, expected {channels}, one per channel, or one for all")
    return tuple(value) * (channels // len(value))


def _bundled(architecture: str) -> Path:
    files = bundled()
    if architecture not in files:
        raise OnepixError(
            f"network {architecture}: no weights are bundled for it, only for {', '.join(files)}; "
            "set weights to train, torchvision, a URL or the path of a file"
        )
    return files[architecture]


def _of_torchvision(settings: Network) -> Source:
    """Return torchvision's weights: the named entry, or its best ones (DEFAULT)."""
    from torchvision.models import get_model_weights

    name, entry = (text.partition(":")[2] for text in (settings.architecture, settings.weights))
    try:
        entries = get_model_weights(name)
    except ValueError:
        raise OnepixError(f"network architecture '{settings.architecture}' is unknown to torchvision") from None
    if entry and entry not in entries.__members__:
        raise OnepixError(f"torchvision's {name} has no weights '{entry}'; {nearest(entry, entries.__members__)}")
    if not len(entries):
        raise OnepixError(f"torchvision has no weights for {name}")
    chosen: WeightsEnum = entries[entry or "DEFAULT"]
    in_name = IN_NAME.search(chosen.url)
    sha256 = settings.sha256 or (in_name[1] if in_name else None)
    if sha256 is None:
        raise OnepixError(f"{chosen}: torchvision gives no hash; set sha256")
    preset = chosen.transforms()
    scaling = {"mean": tuple(preset.mean), "std": tuple(preset.std)}
    if name in RESCALING:
        scaling = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return Source(f"torchvision's {chosen}", cached_path(chosen.url, sha256), chosen.url, sha256, scaling)
