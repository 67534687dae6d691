"""The section `attacks`: methods, goals, stop rules and budgets."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from onepix.config.base import Proportion, Seed, Settings


class Attack(Settings):
    """Settings that all attacks have in common."""

    target: Annotated[int, Field(ge=0)] | Literal["all"] | None = Field(
        None,
        description="The class to be reached, or all: every class but the true one, each in its own attack; "
        "default: untargeted, any class but the true one.",
    )
    objective: Literal["probability", "margin"] = Field(
        "probability",
        description="What is minimised: the true class's probability (targeted: minus the target's), or the margin of "
        "its logit over the best other one (targeted: of the best other one over the target's).",
    )
    budget: int | None = Field(
        None, ge=1, description="At most so many candidates (forward passes) per image; default: what the method needs."
    )
    seed: Seed = Field(0, description="Seed and image id together set the image's random stream.")

    @property
    def idle(self) -> set[str]:
        """The keys that have no effect, given the other keys, such as thresholds at which nothing stops."""
        return set()


class PixelSearch(Attack):
    """Settings that the searches over any number of pixels have in common."""

    pixels: int = Field(1, ge=1, description="At most so many pixels change.")
    stop: Literal["flip", "threshold", "budget"] = Field(
        "flip",
        description="When an image is done: the class flips, a probability passes its threshold, or never early.",
    )
    true_threshold: Proportion = Field(
        0.05, description="Untargeted: the true class is below. stop: budget notes the first such candidate, too."
    )
    target_threshold: Proportion = Field(
        0.9, description="Targeted: the target class is above. stop: budget notes the first such candidate, too."
    )

    @property
    def looks_for_threshold(self) -> bool:
        """Whether the first candidate past the threshold is looked for: not where the search ends at a flip."""
        return self.stop != "flip"

    @property
    def idle(self) -> set[str]:
        """The thresholds that have no effect."""
        if not self.looks_for_threshold:
            return {"true_threshold", "target_threshold"}
        return {"target_threshold" if self.target is None else "true_threshold"}


class DifferentialEvolution(PixelSearch):
    """Differential evolution, by default that of Su, Vargas and Sakurai (2017)."""

    method: Literal["differential_evolution"] = "differential_evolution"
    variant: Literal["paper", "best1bin"] = Field(
        "paper",
        description="paper: rand/1 without crossover, each child against its own parent; best1bin: best/1/bin with "
        "crossover 1 and F drawn for each generation, as attack libraries use it.",
    )
    population: int = Field(400, ge=4, description="Candidates per image and generation.")
    generations: int = Field(100, ge=0, description="Generations after the first population.")
    differential_weight: float | tuple[float, float] | None = Field(
        None,
        description="F, or the interval from which each generation draws F; default: 0.5, or [0.5, 1] for best1bin.",
    )
    colour_mean: float = Field(128.0, description="paper: mean of the normal distribution of the first colours.")
    colour_std: float = Field(127.0, gt=0)

    @property
    def idle(self) -> set[str]:
        """The thresholds that have no effect, and the distribution of colours that are not drawn."""
        return super().idle | (set() if self.variant == "paper" else {"colour_mean", "colour_std"})

    @model_validator(mode="before")
    @classmethod
    def _each_variant_has_its_weight(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("differential_weight") is None:
            return {**values, "differential_weight": (0.5, 1.0) if values.get("variant") == "best1bin" else 0.5}
        return values

    @field_validator("differential_weight")
    @classmethod
    def _is_usable(cls, value: float | tuple[float, float] | None) -> float | tuple[float, float] | None:
        low, high = value if isinstance(value, tuple) else (value, value)
        if low is not None and high is not None and not 0 < low <= high <= 2:
            raise ValueError(f"expected a number above 0 and up to 2, or two in ascending order, got {value}")
        return value

    @model_validator(mode="after")
    def _the_first_population_fits(self) -> "DifferentialEvolution":
        if self.budget is not None and self.budget < self.population:
            raise ValueError(f"budget {self.budget} is smaller than one population of {self.population}")
        return self


class RandomSearch(PixelSearch):
    """Random search, the baseline: positions and colours drawn uniformly."""

    method: Literal["random_search"]
    budget: int = Field(40_400, ge=1, description="Candidates (forward passes) per image.")


class Scan(Attack):
    """Every position × every colour of a set: the exact answer for that set."""

    method: Literal["scan"]
    colours: Literal["extremes", "grid", "palette"] = Field(
        "extremes",
        description="extremes: each channel 0 or 255; grid: each channel at evenly spaced levels; "
        "palette: the image's own colours.",
    )
    levels: int = Field(3, ge=2, le=256, description="For colours: grid. Levels per channel.")
    palette_size: int = Field(8, ge=1, le=256, description="For colours: palette. At most so many colours per image.")
    refine: int = Field(
        0,
        ge=0,
        description="If no colour of the set flips the class: search for other colours at so many positions, those of "
        "least margin.",
    )
    refine_budget: int | None = Field(
        None,
        ge=1,
        description="For refine: at most so many candidates, of those that `budget` allows; default: a fifth of the "
        "budget, or 16 rounds if there is no budget.",
    )
    gradient: bool = Field(
        True,
        description="Order the candidates also by the gradient of the logit margin; its backward passes, two per "
        "image, count as candidates. false: only by what was seen of other candidates (black-box).",
    )
    stop: Literal["first", "all"] = Field(
        "all", description="When an image is done: at its first flip, or never early."
    )

    @property
    def idle(self) -> set[str]:
        """The keys of other sets of colours, and of a refinement that is not wanted."""
        others = {key for key, colours in (("levels", "grid"), ("palette_size", "palette")) if self.colours != colours}
        return others | (set() if self.refine else {"refine_budget"})

    @model_validator(mode="after")
    def _a_budget_is_larger_than_its_parts(self) -> "Scan":
        if self.budget is not None and self.refine and (self.refine_budget or 0) >= self.budget:
            raise ValueError(f"refine_budget {self.refine_budget} leaves nothing of the budget of {self.budget}")
        return self


def _method(value: Any) -> str:
    """Return the method that an attack's entry names; differential evolution if it names none."""
    named = value.get("method") if isinstance(value, Mapping) else getattr(value, "method", None)
    return "differential_evolution" if named is None else str(named)


AttackSettings = Annotated[
    Annotated[DifferentialEvolution, Tag("differential_evolution")]
    | Annotated[RandomSearch, Tag("random_search")]
    | Annotated[Scan, Tag("scan")],
    Discriminator(_method),
]
