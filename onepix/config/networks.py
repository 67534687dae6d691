"""The section `networks`: architectures, weights, input scaling and training."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from onepix.config.base import PathText, Plain, Seed, Settings, Text

HASH = re.compile(r"[0-9a-f]{8,64}")
TORCHVISION = "torchvision:"
FACTORY = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
NOT_A_FILE = ("bundled", "train", "factory", "torchvision")  # weights without a name of their own


def factory_of(architecture: str) -> tuple[str, str] | None:
    """Return the module of a factory and its name in it, such as `Network.small`; None for other architectures."""
    found = None if architecture.startswith(TORCHVISION) else FACTORY.fullmatch(architecture)
    return (found[1], found[2]) if found else None


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


# Numbers per channel; a single number may stand without brackets.
Scaling = Annotated[tuple[float, ...], BeforeValidator(_listed), Field(min_length=1)]


class Recipe(Settings):
    """How a network is trained on CIFAR-10."""

    epochs: int = Field(ge=1)
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="sgd: with Nesterov momentum.")
    initialisation: Literal["he", "own"] = Field(
        "he", description="he: He et al. (2015) for convolutions and linear layers; own: as the architecture is built."
    )
    batch_size: int = Field(128, ge=1)
    peak_learning_rate: float = Field(gt=0)
    momentum: float = Field(0.9, gt=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    crop_padding: int = Field(4, ge=0)
    mirror: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"


class Network(Settings):
    """An architecture, its weights and its input scaling: the network sees (image / 255 − mean) / std."""

    architecture: Text = Field(
        description="An architecture of onepix, such as lenet or resnet20; torchvision:NAME; or a factory: "
        "package.module:function, or package.module:Class.method."
    )
    arguments: dict[Text, Plain] | None = Field(
        None,
        description="Keyword arguments of a factory: text, numbers, true, false, null, and lists or tables of them.",
    )
    weights: PathText = Field(
        "bundled",
        description="bundled, train, factory (the factory loads its own), torchvision or torchvision:ENTRY, a URL, "
        "a path, or package:NAME/PATH in an installed Python package. Files are safetensors, torch checkpoints or "
        "Keras 2 HDF5.",
    )
    sha256: str | None = Field(
        None,
        description="SHA-256 of the weights file, or its first 8 digits or more. Required for a URL.",
    )
    weights_key: Text | None = Field(
        None,
        description="Which tensors of a file with several sets are taken: a key or prefix, such as ema or "
        "state_dict.student.",
    )
    mean: Scaling | None = Field(
        None, description="One number per channel, or one for all channels; default: that of the weights."
    )
    std: Scaling | None = None
    classes: int | None = Field(None, ge=2, description="Default: 1000 for torchvision:NAME, a factory's own, else 10.")
    channels: int | None = Field(None, ge=1, description="Default: a factory's own, else 3.")

    @model_validator(mode="before")
    @classmethod
    def _channels_by_default(cls, values: Any) -> Any:
        """Write out the default, so that it means the same written or not."""
        if (
            not isinstance(values, Mapping)
            or values.get("channels") is not None
            or factory_of(str(values.get("architecture")))
        ):
            return values
        return {**values, "channels": 3}

    @field_validator("sha256", mode="before")
    @classmethod
    def _digits_are_text(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, str) and HASH.fullmatch(value.lower())):
            raise ValueError(f"expected 64 hexadecimal digits, or at least the first 8, in quotes, got {value!r}")
        return value and value.lower()

    @model_validator(mode="after")
    def _a_url_is_verified(self) -> "Network":
        if self.weights.startswith(("http://", "https://")) and self.sha256 is None:
            raise ValueError("sha256 is missing; weights from a URL are only taken if their SHA-256 is known")
        if re.match(r"https?://[^/?#]*@", self.weights):
            raise ValueError("weights: expected a URL without a password, which every manifest would show")
        if self.weights.partition(":")[0] == "torchvision" and not self.architecture.startswith("torchvision:"):
            raise ValueError(f"weights {self.weights} go with torchvision:NAME, not with {self.architecture}")
        return self

    @model_validator(mode="after")
    def _keys_go_together(self) -> "Network":
        if self.arguments is not None and factory_of(self.architecture) is None:
            raise ValueError(f"arguments go with a factory (package.module:factory), not with {self.architecture}")
        if self.weights_key is not None and self.weights.partition(":")[0] in NOT_A_FILE:
            raise ValueError(f"weights_key goes with weights from a file, not with weights: {self.weights}")
        return self

    @model_validator(mode="after")
    def _scaling_is_whole(self) -> "Network":
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together: give both or neither")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and self.channels and len(values) not in (1, self.channels):
                raise ValueError(
                    f"{name} has {len(values)} numbers, expected {self.channels}, one per channel, or one for all"
                )
        lengths = {len(values) for values in (self.mean, self.std) if values is not None} - {1}
        if len(lengths) > 1:
            raise ValueError(f"mean and std have {sorted(lengths)} numbers, expected as many of both")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {list(self.std)}")
        return self


class NetworkSettings(Network):
    """A network, and how it is trained if its weights are to be trained."""

    recipe: Recipe | None = Field(None, description="For weights: train. Default: the architecture's own recipe.")
    seed: Seed = Field(0, description="For weights: train.")
