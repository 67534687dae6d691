"""The section `propagation`: which layers are followed."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
)

from onepix.config.base import Settings, Text, in_order

Layers = Literal["auto"] | Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(in_order)]


class Propagation(Settings):
    """Which layers are followed, and how."""

    layers: Layers = Field(
        "auto",
        description="Glob patterns of dotted layer names, functional operations included (layer1.0.add()); auto: "
        "convolutions, activations, attention, pooling, linear layers, sums, concatenations and the outputs of blocks.",
    )
    gradient_images: int = Field(
        16, ge=1, description="Effective receptive fields come from the gradients of so many images of a dataset."
    )
