"""The configuration, whole: every setting, its type, its range and its default."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from onepix.config.attacks import AttackSettings
from onepix.config.base import Folder, Name, PathText, Settings, Unordered
from onepix.config.datasets import DatasetSettings
from onepix.config.engine import Engine
from onepix.config.figures import Figures
from onepix.config.networks import NetworkSettings
from onepix.config.propagation import Propagation
from onepix.config.reading import validated
from onepix.config.selection import Selection, as_ranges, parse_ids
from onepix.config.statistics import Statistics
from onepix.errors import OnepixError
from onepix.files.layout import TAKEN, Layout
from onepix.names import nearest


class Run(Settings):
    """Images of one dataset, attacked on each of the networks by each of the attacks."""

    dataset: Name
    networks: Unordered[Name] = Field(min_length=1)
    attacks: Unordered[Name] = Field(min_length=1)
    images: int | str | tuple[int, ...] | Selection = Field(
        description="Ids: 7, a range such as 0-49, several with commas, a list; or a rule: {first: 100}, "
        "{per_class: 10, seed: 0}, {file: ids.txt}."
    )

    @field_validator("images")
    @classmethod
    def _can_be_read(cls, value: int | str | tuple[int, ...] | Selection) -> int | str | tuple[int, ...] | Selection:
        if isinstance(value, Selection):
            return value
        if not (ids := parse_ids(value)):
            raise ValueError("no image is selected")
        return as_ranges(ids)  # one spelling for the same ids


class Config(Settings):
    """A study."""

    datasets: dict[Name, DatasetSettings]
    networks: dict[Name, NetworkSettings]
    attacks: dict[Name, AttackSettings]
    runs: tuple[Run, ...] = Field(min_length=1)
    images_per_job: int = Field(25, ge=1, description="Number of images that one job attacks.")
    engine: Engine = Engine()
    propagation: Propagation = Propagation()
    statistics: Statistics = Statistics()
    figures: Figures = Figures()
    existing_cifar10: PathText | None = Field(
        None, description="A folder with a copy, in torchvision's or the official binary layout; default: download."
    )
    data: Folder = Field("data", description="Folder of fetched images and networks.")
    results: Folder = Field("results", description="Folder of all computed results.")

    @property
    def layout(self) -> Layout:
        """Where everything of the study lies."""
        return Layout(Path(self.data), Path(self.results))

    @model_validator(mode="after")
    def _names_are_free(self) -> "Config":
        for kind, taken in TAKEN.items():
            for name in taken & getattr(self, kind).keys():
                raise ValueError(f"{kind}.{name}: the results have a file or folder of this name; choose another")
        return self

    @model_validator(mode="after")
    def _runs_name_what_exists(self) -> "Config":
        for index, run in enumerate(self.runs):
            _known(run.dataset, self.datasets, f"runs.{index}.dataset")
            for name in run.networks:
                _known(name, self.networks, f"runs.{index}.networks")
            for name in run.attacks:
                _known(name, self.attacks, f"runs.{index}.attacks")
        return self

    @model_validator(mode="after")
    def _each_combination_once(self) -> "Config":
        seen: set[tuple[str, str, str]] = set()
        for run in self.runs:
            for combination in ((run.dataset, n, a) for n in run.networks for a in run.attacks):
                if combination in seen:
                    raise ValueError(f"runs: {'/'.join(combination)} is named twice; join its images in one run")
                seen.add(combination)
        return self


def parse(values: Any, source: str) -> Config:
    """Check a configuration.

    Parameters
    ----------
    values : dict
        As read from YAML.
    source : str
        Named in error messages.

    Raises
    ------
    OnepixError
        One line per error: source, key, what was wrong and what was expected.
    """
    return validated(Config, values, source)


def load(*paths: Path) -> Config:
    """Read and check a YAML configuration; later files add to earlier ones. Errors as in `parse`."""
    values: Any = None
    for path in paths:
        try:
            read = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise OnepixError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        except yaml.YAMLError as error:
            raise OnepixError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
        values = _merged(values, read)
    return parse(values, " + ".join(map(str, paths)))


def _merged(values: Any, later: Any) -> Any:
    """Merge later values into earlier ones, key by key, as Snakemake does with several configuration files."""
    if not (isinstance(values, Mapping) and isinstance(later, Mapping)):
        return later
    return {**values, **{key: _merged(values.get(key), value) for key, value in later.items()}}


def json_schema() -> str:
    """Return the JSON schema of the configuration, as text."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def _known(name: str, known: Mapping[str, Any], where: str) -> None:
    if name not in known:
        raise ValueError(f"{where}: '{name}' is unknown; {nearest(name, known)}")
