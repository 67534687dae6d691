"""The key `images` of a run: which images are attacked."""

import re
from collections.abc import Iterable, Sequence

from pydantic import (
    Field,
    model_validator,
)

from onepix.config.base import MOST_IDS, PathText, Seed, Settings

RANGE = re.compile(r"\s*(\d+)\s*(?:[-–]\s*(\d+)\s*)?")  # an editor may make – of -


class Selection(Settings):
    """Images chosen by a rule: one of `first`, `per_class` and `file`."""

    first: int | None = Field(None, ge=1, le=MOST_IDS, description="The first so many images of the dataset.")
    per_class: int | None = Field(None, ge=1, le=MOST_IDS, description="So many images of each class, drawn at random.")
    seed: Seed = Field(0, description="For per_class; with the same seed, a larger number adds images.")
    file: PathText | None = Field(None, description="A text file with ids or ranges; # begins a comment.")

    @model_validator(mode="after")
    def _is_one_rule(self) -> "Selection":
        given = [name for name in ("first", "per_class", "file") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of first, per_class and file, got {' and '.join(given) or 'none'}")
        return self

    @property
    def name(self) -> str:
        """A name for files that hold the chosen images."""
        return f"first-{self.first}" if self.first else f"per-class-{self.per_class}-seed-{self.seed}"

    @property
    def rule(self) -> dict[str, int | None]:
        """The keys that this rule uses."""
        return {"first": self.first} if self.first else {"per_class": self.per_class, "seed": self.seed}


def parse_ids(selection: int | str | Iterable[int]) -> tuple[int, ...]:
    """Read image ids, ascending, each once: 7, '0-24', '0-9, 20, 30-39' or a list of ids.

    Raises
    ------
    ValueError
        If a part is neither a number nor an ascending range.
    """
    if not isinstance(selection, str):
        ids = (selection,) if isinstance(selection, int) else tuple(selection)
        if any(image_id < 0 for image_id in ids):
            raise ValueError(f"image ids are not negative, got {min(ids)}")
        _refuse_large(max(ids, default=0))
        return tuple(sorted(set(ids)))
    ids = ()
    for part in selection.split(","):
        match = RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        _refuse_large(last)
        if first > last:
            raise ValueError(f"cannot read '{part.strip()}'; expected ids such as 7, 0-49 or 0-9, 20-29")
        ids += tuple(range(first, last + 1))
    return tuple(sorted(set(ids)))


def _refuse_large(image_id: int) -> None:
    if image_id >= MOST_IDS:
        raise ValueError(f"image ids are below {MOST_IDS}, got {image_id}")


def as_ranges(ids: Sequence[int]) -> str:
    """Write ascending ids as a short text that `parse_ids` reads: '0-9, 20'."""
    starts = [index for index, image_id in enumerate(ids) if index == 0 or image_id != ids[index - 1] + 1]
    blocks = [(ids[start], ids[end - 1]) for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in blocks)
