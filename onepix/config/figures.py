"""The section `figures`: what is drawn, and how."""

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from onepix.config.base import MOST_IDS, Settings, Text, Unordered


class Figures(Settings):
    """What is drawn, and how."""

    strips: Unordered[Literal["success", "failure"] | Annotated[int, Field(ge=0, lt=MOST_IDS)]] = Field(
        ("failure", "success"), description="Images shown layer by layer: first success, first failure, or image ids."
    )
    strip_layers: Unordered[Text] = Field(("*",), min_length=1, description="Glob patterns of the layers shown.")
    position_maps: int = Field(4, ge=1, le=8, description="Successes whose position maps are shown.")
    colour_map: Text = Field("magma", description="A Matplotlib colour map.")
    dpi: int = Field(200, ge=50, le=1200)
