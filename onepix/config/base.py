"""Types that all sections of the configuration use: checked texts, names, numbers and lists."""

import math
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from onepix.files.located import PACKAGE
from onepix.names import natural, nearest


def _printable(text: str) -> str:
    """Refuse characters that would break a line, control a terminal or end a path early."""
    if not text:
        raise ValueError("is empty")
    if any(unicodedata.category(letter) in UNPRINTABLE for letter in text):
        raise ValueError(f"expected text without line breaks and control characters, got {text!r}")
    return text


def _usable_path(name: str) -> str:
    """Refuse text that cannot be a path, and paths in a package that lead out of it."""
    if name.startswith(PACKAGE):
        package, _, inside = name.removeprefix(PACKAGE).partition("/")
        if not package.isidentifier() or inside.startswith("/") or ".." in inside.split("/"):
            raise ValueError(f"expected package:NAME/PATH, a path inside an installed package, got {name!r}")
    if "{" in name or "}" in name:
        raise ValueError(f"expected no braces, which Snakemake takes for wildcards, got {name!r}")
    try:
        Path(name).expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path; the user of this home folder is unknown, got {name!r}") from None
    return name


def _usable_folder(name: str) -> str:
    """Refuse what would look like a wildcard to Snakemake, like HTML to its report, or like an option to a command."""
    if name.startswith(("-", "~")) or any(letter in name for letter in "{}<"):
        raise ValueError(f"expected a folder name without {{ }} < that does not begin with - or ~, got {name!r}")
    return Path(name).as_posix()  # out/ and ./out are the same folder, but Snakemake compares text


def _plain(value: Any) -> Any:
    """Refuse what neither a command nor a page can show, in lists and tables too."""
    if isinstance(value, str) and value:
        _printable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    elif isinstance(value, list):
        for item in value:
            _plain(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _printable(key)
            _plain(item)
    return value


UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories: controls, halves of characters, ends of lines


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


Text = Annotated[str, AfterValidator(_printable)]


# Text, numbers, booleans and nothing, and lists and tables of them.
Plain = Annotated[JsonValue, AfterValidator(_plain)]


PathText = Annotated[Text, AfterValidator(_usable_path)]


Folder = Annotated[Text, AfterValidator(_usable_folder)]


Seed = Annotated[int, Field(ge=0, lt=2**63)]


MOST_IDS = 1_000_000  # ids are smaller: names of chunks have six digits, and no range fills the memory


Proportion = Annotated[float, Field(gt=0, lt=1)]


T = TypeVar("T")


def in_order(values: tuple[T, ...]) -> tuple[T, ...]:
    """Sort a list whose order has no meaning, and keep each value once."""
    return tuple(sorted(set(values), key=lambda value: natural(str(value))))


# A list whose order has no meaning: it is sorted, so that another order is no change of the configuration.
Unordered = Annotated[tuple[T, ...], AfterValidator(in_order)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key '{key}'; {nearest(str(key), cls.model_fields)}")
        return values
