"""The configuration, whole: every setting, its type, its range and its default."""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from onepix.config.attacks import AttackSettings
from onepix.config.base import Folder, Keys, KeysError, Name, PathText, Settings, Unordered
from onepix.config.datasets import DatasetSettings
from onepix.config.documents import merged, read_file, read_option, shown
from onepix.config.engine import Engine
from onepix.config.figures import Figures
from onepix.config.networks import NetworkSettings
from onepix.config.propagation import Propagation
from onepix.config.reading import NOWHERE, origin, validated
from onepix.config.selection import Selection, as_ranges, parse_ids
from onepix.config.statistics import Statistics
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
    images_per_job: int | None = Field(None, ge=1, description="Of this run; default: that of the study.")

    @field_validator("images")
    @classmethod
    def _can_be_read(cls, value: int | str | tuple[int, ...] | Selection) -> int | str | tuple[int, ...] | Selection:
        if isinstance(value, Selection):
            return value
        if not (ids := parse_ids(value)):
            raise ValueError("no image is selected")
        return as_ranges(ids)  # one spelling for the same ids


class Origins(dict[Keys, str]):
    """Where values were given; a study is the same wherever it was written."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origins)

    __hash__ = None


class Config(Settings):
    """A study."""

    datasets: dict[Name, DatasetSettings]
    networks: dict[Name, NetworkSettings]
    attacks: dict[Name, AttackSettings]
    runs: tuple[Run, ...] = Field(min_length=1)
    images_per_job: int = Field(
        10,
        ge=1,
        description="Number of images that one job attacks. On a CPU, a job has one core, and as many run at once as "
        "there are cores.",
    )
    engine: Engine = Engine()
    propagation: Propagation = Propagation()
    statistics: Statistics = Statistics()
    figures: Figures = Figures()
    existing_cifar10: PathText | None = Field(
        None, description="A folder with a copy, in torchvision's or the official binary layout; default: download."
    )
    data: Folder = Field("data", description="Folder of fetched images and networks.")
    results: Folder = Field("results", description="Folder of all computed results.")

    _origins: Origins = PrivateAttr(default_factory=Origins)

    def spelled(self, *keys: str | int) -> str:
        """Return a key for messages, after file and line if they are known: ``study.yaml:14: runs.0.images``."""
        found = origin(keys, self._origins)
        return f"{found}: {'.'.join(map(str, keys))}" if found else ".".join(map(str, keys))

    @property
    def layout(self) -> Layout:
        """Where everything of the study lies."""
        return Layout(Path(self.data), Path(self.results))

    @model_validator(mode="after")
    def _names_are_free(self) -> "Config":
        for kind, taken in TAKEN.items():
            for name in taken & getattr(self, kind).keys():
                said = f"{kind}.{name}: the results have a file or folder of this name; choose another"
                raise KeysError(said, kind, name)
        return self

    @model_validator(mode="after")
    def _runs_name_what_exists(self) -> "Config":
        for index, run in enumerate(self.runs):
            _known(run.dataset, self.datasets, "runs", index, "dataset")
            for name in run.networks:
                _known(name, self.networks, "runs", index, "networks")
            for name in run.attacks:
                _known(name, self.attacks, "runs", index, "attacks")
        return self

    @model_validator(mode="after")
    def _each_combination_once(self) -> "Config":
        seen: set[tuple[str, str, str]] = set()
        for index, run in enumerate(self.runs):
            for combination in ((run.dataset, n, a) for n in run.networks for a in run.attacks):
                if combination in seen:
                    said = f"runs: {'/'.join(combination)} is named twice; join its images in one run"
                    raise KeysError(said, "runs", index)
                seen.add(combination)
        return self


def parse(values: Any, source: str, origins: Mapping[Keys, str] = NOWHERE) -> Config:
    """Check a configuration.

    Parameters
    ----------
    values : dict
        Plain values.
    source : str
        Named in error messages.
    origins : mapping, optional
        File and line, by the keys that lead to a value; named instead, where known.

    Raises
    ------
    OnepixError
        One line per error: source, key, what was wrong and what was expected.
    """
    config = validated(Config, values, source, origins)
    config._origins.update(origins)
    return config


def load(*paths: Path, options: Iterable[str] = ()) -> Config:
    """Read and check a configuration of one or more files; later ones add to earlier ones.

    Parameters
    ----------
    *paths : Path
        YAML or JSON.
    options : iterable of str
        Values of Snakemake's `--config`, such as ``images_per_job=10``; they win over files.

    Raises
    ------
    OnepixError
        As in `parse` and `onepix.config.documents.read_file`.
    """
    given = functools.reduce(merged, [*map(read_file, paths), *map(read_option, options)])
    return parse(given.values, " + ".join(map(shown, paths)) or "--config", given.origins)


def json_schema() -> str:
    """Return the JSON schema of the configuration, as text."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def _known(name: str, known: Mapping[str, Any], *keys: str | int) -> None:
    if name not in known:
        raise KeysError(f"{'.'.join(map(str, keys))}: '{name}' is unknown; {nearest(name, known)}", *keys)
