"""The section `engine`: how networks are evaluated."""

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from onepix.config.base import Settings


class Passes(Settings):
    """How images are passed through networks."""

    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$", description="auto takes a GPU if there is one."
    )
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Images per forward pass; auto depends on the device and the size of the images."
    )


class Engine(Passes):
    """How networks are evaluated."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision for screening candidates; those that count are evaluated again in float32. auto takes "
        "bfloat16 if the device has instructions for it.",
    )
    bound: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Candidates with a larger logit margin are not evaluated again in float32. auto: four times the "
        "largest error seen on 16 further candidates of the image, and at least the rounding of its logits.",
    )
    fold: bool = Field(True, description="Fold batch normalisation into convolutions for screening.")
    windows: bool | Literal["auto"] = Field(
        "auto",
        description="Screen one-pixel changes by recomputing only what they can reach. auto: on CPUs only.",
    )
