"""The section `statistics`: intervals and tests."""

from pydantic import (
    Field,
)

from onepix.config.base import Proportion, Seed, Settings


class Intervals(Settings):
    """Confidence intervals."""

    confidence: Proportion = 0.95
    resamples: int = Field(9999, ge=100, description="Resamples of the bootstrap over images.")
    seed: Seed = 0


class Statistics(Intervals):
    """Intervals and tests."""

    permutations: int = Field(999, ge=99, description="Permutations of each position map, for its p-values.")
