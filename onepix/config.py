"""The configuration, whole: every setting, its type, its range and its default."""

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from onepix.errors import OnepixError
from onepix.places import PACKAGE


def _printable(text: str) -> str:
    """Refuse what would break a line, steer a terminal or end a path early."""
    if not text:
        raise ValueError("is empty")
    if any(unicodedata.category(letter) in UNPRINTABLE for letter in text):
        raise ValueError(f"expected text without line breaks and control characters, got {text!r}")
    return text


def _usable_place(name: str) -> str:
    """Refuse what no path can be made of, and places in a package that would lie outside it."""
    if name.startswith(PACKAGE):
        package, _, inside = name.removeprefix(PACKAGE).partition("/")
        if not package.isidentifier() or inside.startswith("/") or ".." in inside.split("/"):
            raise ValueError(f"expected package:NAME/PATH, a path inside an installed package, got {name!r}")
    if "{" in name or "}" in name:
        raise ValueError(f"expected no braces, which Snakemake takes for wildcards, got {name!r}")
    try:
        Path(name).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no such user's home folder, got {name!r}") from None
    return name


def _usable_folder(name: str) -> str:
    """Refuse what Snakemake takes for a wildcard, its report for HTML, a command for an option."""
    if name.startswith(("-", "~")) or any(letter in name for letter in "{}<"):
        raise ValueError(
            f"expected a folder whose name holds none of {{ }} < and begins with neither - nor ~, got {name!r}"
        )
    return Path(name).as_posix()  # out/ and ./out are one folder, and Snakemake compares text


UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories: controls, halves of characters, ends of lines
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Text = Annotated[str, AfterValidator(_printable)]
Place = Annotated[Text, AfterValidator(_usable_place)]
Folder = Annotated[Text, AfterValidator(_usable_folder)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(gt=0, lt=1)]
S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")
UNTARGETED = -1  # in place of a target, where numbers cannot be missing
HASH = re.compile(r"[0-9a-f]{8,64}")
RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")
TAKEN = {  # in the folder of results, and in those of its datasets and networks
    "datasets": {"configuration.yaml", "figures", "sharing", "tables"},
    "attacks": {f"receptive_fields.{ending}" for ending in ("csv", "json", "zarr")},
}
LONGEST = 1000  # characters of a message on one value
MOST_IDS = 1_000_000  # ids are below, so that chunks' names have six digits; and a range cannot take all memory


def natural(name: str) -> list[str | int]:
    """Return a sort key that takes numbers in a name as numbers: resnet20 comes before resnet110."""
    parts: list[str | int] = list(re.split(r"(\d+)", name))
    parts[1::2] = map(int, parts[1::2])
    return parts


def _in_order(values: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(sorted(set(values), key=lambda value: natural(str(value))))


# A list whose order means nothing: it is kept in one order and each value once, so that no other order is a change.
Unordered = Annotated[tuple[T, ...], AfterValidator(_in_order)]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the nearest known name, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"expected one of: {', '.join(known)}"


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a name fits one of several glob patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key '{key}'; {nearest(str(key), cls.model_fields)}")
        return values


class BundledDataset(Settings):
    """The first 100 CIFAR-10 test images, which come with onepix."""

    source: Literal["bundled"] = "bundled"


class Cifar10Dataset(Settings):
    """CIFAR-10, fetched once and checked against the published MD5s."""

    source: Literal["cifar10"]
    split: Literal["train", "test"] = "test"


ClassNames = tuple[Text, ...] | Literal["imagenet"]


class ArraysDataset(Settings):
    """Your own images: an .npz file with `images` (uint8; image, y, x, channel) and `labels`."""

    source: Literal["arrays"]
    path: Place
    class_names: ClassNames | None = Field(None, description="Default: the labels as numbers.")


Side = Annotated[int, Field(ge=1)]


class Pictures(Settings):
    """How pictures of any size become 8-bit images of one size: what the attack changes and the network sees."""

    resize: Side | tuple[Side, Side] | None = Field(
        None, description="The shorter side in pixels, proportions kept; or height and width. Default: as they are."
    )
    crop: Side | tuple[Side, Side] | None = Field(
        None, description="From the middle, after resizing: a square's side, or height and width. Default: none."
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="For resize, with antialiasing."
    )
    channels: Literal[1, 3] | None = Field(
        None, description="Default: 1 where all pictures are grey; else 3, and grey ones are repeated."
    )


class FolderDataset(Pictures):
    """A folder of pictures, with classes by subfolder or by a CSV file."""

    source: Literal["folder"]
    path: Place = Field(description="The folder; package:NAME/FOLDER lies in an installed Python package.")
    labels: Place | None = Field(
        None, description="A CSV file with the columns file and label; default: a class is a subfolder."
    )
    class_names: ClassNames | None = Field(
        None, description="In the order of the network's outputs; default: the subfolders, or the labels, sorted."
    )


class TorchvisionDataset(Pictures):
    """A classification dataset of torchvision, which downloads and checks it."""

    source: str = Field(
        pattern=r"^torchvision:[A-Za-z0-9_]{1,100}$", description="torchvision:CIFAR100, or another of its datasets."
    )
    split: Name = Field("test", description="As torchvision names it: train, test, val, …")
    root: Place | None = Field(None, description="A folder with a copy in torchvision's layout; default: download.")
    class_names: ClassNames | None = Field(None, description="Default: torchvision's, or the labels as numbers.")


def _source(value: Any) -> str | None:
    """Return the kind of source that a dataset's entry names."""
    named = value.get("source") if isinstance(value, Mapping) else getattr(value, "source", None)
    return "torchvision:NAME" if str(named).startswith("torchvision:") else named


DatasetSettings = Annotated[
    Annotated[BundledDataset, Tag("bundled")]
    | Annotated[Cifar10Dataset, Tag("cifar10")]
    | Annotated[ArraysDataset, Tag("arrays")]
    | Annotated[FolderDataset, Tag("folder")]
    | Annotated[TorchvisionDataset, Tag("torchvision:NAME")],
    Discriminator(_source),
]


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
        description="One of onepix, such as lenet or resnet20; torchvision:NAME; or package.module:factory."
    )
    weights: Place = Field(
        "bundled",
        description="bundled, train, factory (the factory loads its own), torchvision or torchvision:ENTRY, a URL, "
        "a path, or package:NAME/PATH in an installed Python package. Files are safetensors, torch checkpoints or "
        "Keras 2 HDF5.",
    )
    sha256: str | None = Field(
        None,
        description="Of the weights file; a prefix of 8 digits or more will do. A URL needs it.",
    )
    mean: tuple[float, ...] | None = Field(None, description="A number a channel; default: what the weights file says.")
    std: tuple[float, ...] | None = None
    classes: int | None = Field(None, ge=2, description="Default: 1000 of torchvision's, 10 of onepix's architectures.")
    channels: int = Field(3, ge=1)

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
            raise ValueError("weights: expected an address without a password: it would stand in every manifest")
        if self.weights.partition(":")[0] == "torchvision" and not self.architecture.startswith("torchvision:"):
            raise ValueError(f"weights {self.weights} go with torchvision:NAME, not with {self.architecture}")
        return self

    @model_validator(mode="after")
    def _scaling_is_whole(self) -> "Network":
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together: give both or neither")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} numbers, expected {self.channels}, one a channel")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {list(self.std)}")
        return self


class NetworkSettings(Network):
    """A network, and how it is trained if it is to be."""

    recipe: Recipe | None = Field(None, description="For weights: train. Default: the architecture's own recipe.")
    seed: Seed = Field(0, description="For weights: train.")


class Attack(Settings):
    """What all attacks have in common."""

    target: Annotated[int, Field(ge=0)] | Literal["all"] | None = Field(
        None,
        description="The class to be reached, or all but the true one, each in an attack of its own; "
        "default: untargeted, any class but the true one.",
    )
    objective: Literal["probability", "margin"] = Field(
        "probability",
        description="What is minimised: the true class's probability (targeted: minus the target's), or the margin of "
        "its logit over the best other one (targeted: of the best other one over the target's).",
    )
    budget: int | None = Field(
        None, ge=1, description="At most so many candidates (forward passes) an image; default: what the method takes."
    )
    seed: Seed = Field(0, description="With an image's id, it sets that image's own random stream.")

    @property
    def idle(self) -> set[str]:
        """The keys that make no difference beside the others, such as thresholds where nothing stops at one."""
        return set()


class PixelSearch(Attack):
    """What the searches over any number of pixels have in common."""

    pixels: int = Field(1, ge=1, description="How many pixels change at most.")
    stop: Literal["flip", "threshold", "budget"] = Field(
        "flip",
        description="When an image is done: the class flips, a probability passes its threshold, or never early.",
    )
    true_threshold: Share = Field(0.05, description="For stop: threshold, untargeted: the true class falls below.")
    target_threshold: Share = Field(0.9, description="For stop: threshold, targeted: the target class rises above.")

    @property
    def idle(self) -> set[str]:
        """The thresholds that end nothing."""
        if self.stop != "threshold":
            return {"true_threshold", "target_threshold"}
        return {"target_threshold" if self.target is None else "true_threshold"}


class DifferentialEvolution(PixelSearch):
    """Differential evolution, by default that of Su, Vargas and Sakurai (2017)."""

    method: Literal["differential_evolution"] = "differential_evolution"
    variant: Literal["paper", "best1bin"] = Field(
        "paper",
        description="paper: rand/1 without crossover, each child against its own parent; best1bin: best/1/bin with "
        "crossover 1 and F drawn anew in each generation, as attack libraries use it.",
    )
    population: int = Field(400, ge=4, description="Candidates an image.")
    generations: int = Field(100, ge=0, description="After the initial population.")
    differential_weight: float | tuple[float, float] | None = Field(
        None,
        description="F, or the interval from which each generation draws it; default: 0.5, or [0.5, 1] of best1bin.",
    )
    colour_mean: float = Field(128.0, description="paper: of the normal distribution of initial colours.")
    colour_std: float = Field(127.0, gt=0)

    @property
    def idle(self) -> set[str]:
        """The thresholds that end nothing, and colours that are not drawn."""
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
            raise ValueError(f"expected a number above 0 and up to 2, or two such in ascending order, got {value}")
        return value

    @model_validator(mode="after")
    def _the_first_population_fits(self) -> "DifferentialEvolution":
        if self.budget is not None and self.budget < self.population:
            raise ValueError(f"budget {self.budget} does not suffice for one population of {self.population}")
        return self


class RandomSearch(PixelSearch):
    """Random search, the baseline: positions and colours drawn uniformly."""

    method: Literal["random_search"]
    budget: int = Field(40_400, ge=1, description="Candidates (forward passes) an image.")


class Scan(Attack):
    """Every position × every colour of a set: the exact answer for that set."""

    method: Literal["scan"]
    colours: Literal["extremes", "grid", "palette"] = Field(
        "extremes",
        description="extremes: each channel 0 or 255; grid: each channel at evenly spaced levels; "
        "palette: the image's own colours.",
    )
    levels: int = Field(3, ge=2, le=256, description="For colours: grid. Levels a channel.")
    palette_size: int = Field(8, ge=1, le=256, description="For colours: palette. Colours an image at most.")
    refine: int = Field(
        0,
        ge=0,
        description="Positions of least margin at which other colours are searched for, where no colour of the set "
        "flips the class.",
    )
    stop: Literal["first", "all"] = Field(
        "all", description="When an image is done: at its first flip, or never early."
    )

    @property
    def idle(self) -> set[str]:
        """What belongs to another set of colours."""
        return {key for key, colours in (("levels", "grid"), ("palette_size", "palette")) if self.colours != colours}


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


class Selection(Settings):
    """Images chosen by a rule: one of `first`, `per_class` and `file`."""

    first: int | None = Field(None, ge=1, le=MOST_IDS, description="The first n of the dataset.")
    per_class: int | None = Field(None, ge=1, le=MOST_IDS, description="So many of each class, drawn at random.")
    seed: Seed = Field(0, description="For per_class; with the same seed, a larger number adds images.")
    file: Place | None = Field(None, description="A text file with ids or ranges; # begins a comment.")

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
        """The keys that choose, without those that the rule does not look at."""
        return {"first": self.first} if self.first else {"per_class": self.per_class, "seed": self.seed}


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
        return as_ranges(ids)  # one spelling, however they are written


class Passes(Settings):
    """How images are passed through networks."""

    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$", description="auto takes a GPU if there is one."
    )
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Images a forward pass; auto goes by the device and the size of the images."
    )


class Engine(Passes):
    """How networks are evaluated."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of the screening of candidates; whatever counts is redone in float32. auto takes bfloat16 where "
        "the device has instructions for it.",
    )
    bound: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Candidates whose logit margin is above it are not redone in float32. auto: four times the largest "
        "error seen on the image's first 64 candidates, and never less than the rounding of its logits.",
    )
    fold: bool = Field(True, description="Fold batch normalisation into convolutions for screening.")
    windows: bool | Literal["auto"] = Field(
        "auto",
        description="Screen one-pixel changes by recomputing only what they can reach. auto: on CPUs, where it pays.",
    )


Layers = Literal["auto"] | Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_in_order)]


class Propagation(Settings):
    """Which layers are followed, and how."""

    layers: Layers = Field(
        "auto",
        description="Glob patterns of dotted layer names; auto: convolutions, activations, attention, pooling, linear "
        "layers and the outputs of blocks.",
    )
    gradient_images: int = Field(
        16, ge=1, description="Images of a dataset from whose gradients a network's effective receptive fields come."
    )


class Intervals(Settings):
    """Confidence intervals."""

    confidence: Share = 0.95
    resamples: int = Field(9999, ge=100, description="Of the bootstrap over images.")
    seed: Seed = 0


class Statistics(Intervals):
    """Intervals and tests."""

    permutations: int = Field(999, ge=99, description="Of each position map, for its p-values.")


class Figures(Settings):
    """What is drawn, and how."""

    strips: Unordered[Literal["success", "failure"] | Annotated[int, Field(ge=0, lt=MOST_IDS)]] = Field(
        ("failure", "success"), description="Images shown layer by layer: the first of a kind, or an image id."
    )
    strip_layers: Unordered[Text] = Field(("*",), min_length=1, description="Glob patterns of the layers shown.")
    position_maps: int = Field(4, ge=1, le=8, description="Successes whose position maps are shown.")
    colour_map: Text = Field("magma", description="A Matplotlib colour map.")
    dpi: int = Field(200, ge=50, le=1200)


class Config(Settings):
    """A study."""

    datasets: dict[Name, DatasetSettings]
    networks: dict[Name, NetworkSettings]
    attacks: dict[Name, AttackSettings]
    runs: tuple[Run, ...] = Field(min_length=1)
    images_per_job: int = Field(25, ge=1, description="Images a job attacks together.")
    engine: Engine = Engine()
    propagation: Propagation = Propagation()
    statistics: Statistics = Statistics()
    figures: Figures = Figures()
    existing_cifar10: Place | None = Field(
        None, description="A folder with a copy, in torchvision's or the official binary layout; default: download."
    )
    data: Folder = Field("data", description="Folder of fetched images and networks.")
    results: Folder = Field("results", description="Folder of everything that is computed.")

    @model_validator(mode="after")
    def _names_are_free(self) -> "Config":
        for kind, taken in TAKEN.items():
            for name in taken & getattr(self, kind).keys():
                raise ValueError(f"{kind}.{name}: results have a file or folder of this name; choose another")
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
        One line an error: source, key, what was wrong and what was expected.
    """
    return validated(Config, values, source)


def load(*paths: Path) -> Config:
    """Read and check a YAML configuration; of several files, later ones add to earlier ones. Errors as in `parse`."""
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
    """Put later values into earlier ones, key by key, as Snakemake does with several configuration files."""
    if not (isinstance(values, Mapping) and isinstance(later, Mapping)):
        return later
    return {**values, **{key: _merged(values.get(key), value) for key, value in later.items()}}


def as_ranges(ids: Sequence[int]) -> str:
    """Write ascending ids in short, as `parse_ids` reads them: '0-9, 20'."""
    starts = [place for place, image_id in enumerate(ids) if place == 0 or image_id != ids[place - 1] + 1]
    blocks = [(ids[start], ids[end - 1]) for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in blocks)


def part(model: type[BaseModel], settings: BaseModel) -> dict[str, Any]:
    """Return those settings that a model of fewer keys has, as plain values."""
    return settings.model_dump(mode="json", include=set(model.model_fields))


def validated(model: type[S], values: Any, source: str) -> S:
    """Check values against a model of settings; errors as in `parse`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise OnepixError("\n".join(_lines(error.errors(), values, source))) from None
    except UnicodeEncodeError as error:  # a message would quote half a character, which YAML lets pass
        raise OnepixError(f"{source}: {error.object!r} is not text") from None


def canonical(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON that is the same for the same settings, whatever their order, and safe inside HTML."""
    plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in settings.items()}
    # Snakemake's report puts parameters into a script of its page, which a class called </script> would end.
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")


def json_schema() -> str:
    """Return the JSON schema of the configuration, as text."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def _known(name: str, known: Mapping[str, Any], where: str) -> None:
    if name not in known:
        raise ValueError(f"{where}: '{name}' is unknown; {nearest(name, known)}")


def _lines(errors: Sequence[Any], values: Any, source: str) -> list[str]:
    """Return a line for each place that is wrong; pydantic reports an error for each of the types allowed there."""
    places: dict[str, list[Any]] = {}
    for error in errors:
        if error["type"] == "too_short" and error["input"]:
            continue  # after an error inside an item, pydantic also reports that its list is too short
        places.setdefault(_place(error, values), []).append(error)
    # Where one of several types is a model, what is wrong inside it says more than that it is none of the other types.
    deepest = {place: e for place, e in places.items() if not any(other.startswith(f"{place}.") for other in places)}
    return [
        f"{source}: {_in_line(place)}{': ' if place else ''}{_in_line(_what(found))}"
        for place, found in deepest.items()
    ]


def _in_line(said: str) -> str:
    """Return what quotes a configuration as one line that does nothing to a terminal, shortened if it is very long."""
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in said)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def _place(error: Any, values: Any) -> str:
    """Return the keys that lead to an error, without the names of types that pydantic puts between them."""
    keys = []
    for part in error["loc"]:
        inside = (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list) and isinstance(part, int)
        )
        if inside:
            values = values[part]
        if inside or (error["type"] == "missing" and part == error["loc"][-1]) or part == "[key]":
            keys.append(str(part))
    return ".".join(keys)


def _what(errors: Sequence[Any]) -> str:
    """Say what is wrong with one value."""
    first = errors[0]
    context = first.get("ctx", {})
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        key = context["discriminator"].strip("'_()")
        if "tag" not in context:
            return f"{key} is missing"
        return f"{key} '{context['tag']}' is unknown; expected one of: {context['expected_tags']}"
    said = " or ".join(dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in errors))
    return said if first["type"] in ("value_error", "missing") else f"{said}, got {first['input']!r}"
