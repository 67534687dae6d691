"""What each key of the configuration reruns, written by hand; docs/reruns.md is made of it.

python tests/helpers/reruns.py > docs/reruns.md
"""

import copy
import dataclasses
import json
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Tag
from studies import Study

from onepix.config.study import Config

Path = tuple[str | int, ...]
Jobs = Mapping[str, int]

# The finished study, run for real: three chunks, two of LeNet, and one of ResNet-20.
SMALL = Study.CONFIG
# Every kind of dataset, attack and selection, one chunk per run. It is not run: files stand in for its results.
WIDE: dict[str, Any] = {
    "datasets": {
        "cifar": {"source": "cifar10"},
        "own": {"source": "arrays", "path": "own.npz"},
        "pictures": {"source": "folder", "path": "pictures", "labels": "labels.csv"},
        "web": {"source": "torchvision:CIFAR100"},
        "sample": {"source": "bundled"},
    },
    "networks": {
        "trained": {
            "architecture": "resnet8",
            "weights": "train",
            "recipe": {"epochs": 2, "peak_learning_rate": 0.1},
        },
        "file": {
            "architecture": "resnet8",
            "weights": "mine.safetensors",
            "sha256": "12345678",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
        },
    },
    "attacks": {
        "evolution": {"stop": "threshold"},
        "random": {"method": "random_search", "stop": "threshold", "target": 3},
        "grid": {"method": "scan", "colours": "grid"},
        "palette": {"method": "scan", "colours": "palette"},
        "plain": {"method": "random_search"},
    },
    "runs": [
        {"dataset": "cifar", "networks": ["trained"], "attacks": ["evolution"], "images": "0-3"},
        {"dataset": "own", "networks": ["file"], "attacks": ["random"], "images": {"file": "ids.txt"}},
        {"dataset": "pictures", "networks": ["file"], "attacks": ["grid"], "images": "0-3"},
        {"dataset": "web", "networks": ["file"], "attacks": ["palette"], "images": "0-3"},
        {"dataset": "sample", "networks": ["file"], "attacks": ["plain"], "images": {"per_class": 2}},
    ],
    "images_per_job": 4,
}
OWN_FILES = {
    **dict.fromkeys(("own.npz", "other.npz", "mine.safetensors", "other.safetensors"), "stands in for a file"),
    **dict.fromkeys(("labels.csv", "other.csv", "pictures/a.png", "others/a.png"), "stands in for a file"),
    "ids.txt": "0-3\n",
    "fewer.txt": "0-2\n",
    "data/selection/sample/per-class-2-seed-0.txt": "0\n1\n2\n3\n",
}
STUDIES = {"small": SMALL, "wide": WIDE}

# Each change of a value runs these besides; so the table leaves them out.
ALWAYS = {"configuration": 1, "all": 1}

CHARTS = {"charts": 1}
SHARING = {"sharing": 1, "sharing_figures": 1}
TRACE = {"provenance": 1}
SUMMARY = {"summary": 2, "figures": 2, "tables": 9, **CHARTS}
MAPS = {"propagation": 3, "controls": 3}
FIELDS = {"receptive_fields": 2, "tables": 10}  # the tenth table is that of receptive fields
CHUNK = {"attack": 1, "locality": 1, "propagation": 1, "controls": 1}
ONE_RUN = {**CHUNK, "summary": 1, "figures": 1, "tables": 9, **CHARTS, **TRACE}
ONE_PAIR = {**ONE_RUN, "receptive_fields": 1, "tables": 10}  # a dataset and a network
IN_COMPANY = {"transfer": 1, **SHARING}  # the other network is tried on new successes
ATTACKS = {"attack": 3, "locality": 3, "transfer": 2, **MAPS, **SHARING, **SUMMARY, **TRACE}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What runs: in words, and the jobs of each rule besides `ALWAYS`."""

    text: str
    jobs: Jobs


NOTHING = Outcome("nothing", {})
UNUSED = Outcome("nothing: here it makes no difference", {})
DATASET = "the dataset, its attacks and all that follows"
NETWORK = "the network, its attacks and all that follows"
TRAINING = "the network's training, its attacks and all that follows"
ATTACK = "attacks and all that follows"
CHUNKS = "new or changed chunks and all that follows"
DRAWING = "figures"
one_dataset = Outcome(DATASET, {"datasets": 1, **ONE_PAIR})
one_attack = Outcome(ATTACK, ONE_RUN)
all_attacks = Outcome(ATTACK, ATTACKS)
trained = Outcome(TRAINING, {"training": 1, "networks": 1, **ONE_PAIR})
file_network = Outcome(  # four datasets are attacked on it
    NETWORK,
    {
        "networks": 1,
        **{rule: 4 * jobs for rule, jobs in CHUNK.items()},
        **{"summary": 4, "figures": 4, "receptive_fields": 4, "tables": 10, **CHARTS, **TRACE},
    },
)
run_figures = Outcome("figures of runs", {"figures": 2})
first_choice = Outcome("images are chosen; then " + CHUNKS, {"selection": 1, **ONE_PAIR})


@dataclasses.dataclass(frozen=True)
class Change:
    """A key, a change of its value in one of the studies, and what runs.

    `chosen` holds the ids that a rule would choose; the jobs are counted in two steps, before and after that is known.
    """

    key: str
    study: str
    edits: Mapping[Path, Any]
    outcome: Outcome
    chosen: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The study's configuration after the change."""
        return changed(STUDIES[self.study], self.edits)


def changed(config: Mapping[str, Any], edits: Mapping[Path, Any]) -> dict[str, Any]:
    """Return a configuration with some values changed; a path leads through keys and places in lists."""
    result = copy.deepcopy(dict(config))
    for path, value in edits.items():
        target: Any = result
        for key in path[:-1]:
            target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
        target[path[-1]] = value
    return result


def keys(model: type[BaseModel] = Config, before: str = "") -> Iterator[str]:
    """Yield every key of the configuration; where there are several kinds: datasets.NAME[folder].path."""
    for name, field in model.model_fields.items():
        kinds, has_values = list(_models(field.annotation)), _has_values(field.annotation)
        named = f"{before}{name}{'.NAME' if typing.get_origin(field.annotation) is dict else ''}"
        if has_values or not kinds:
            yield named
        for kind, inner in kinds:
            yield from keys(inner, f"{named}[{kind}]." if len(kinds) > 1 else f"{named}.")


def _models(annotation: Any, tag: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the models that a value may be, by the kind that their tag names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield tag or annotation.__name__, annotation
    for inner in typing.get_args(annotation):
        tags = [part.tag for part in getattr(inner, "__metadata__", ()) if isinstance(part, Tag)]
        yield from _models(inner, tags[0] if tags else tag)


def _has_values(annotation: Any) -> bool:
    """Tell whether a value may be something else than a model, a table or list of models, or nothing."""
    if typing.get_origin(annotation) in (dict, tuple) and list(_models(annotation)):
        return False
    others = [inner for inner in typing.get_args(annotation) if inner is not type(None) and not list(_models(inner))]
    return bool(list(_models(annotation))) and bool(others)


def _of_attacks() -> Iterator[Change]:
    """Yield the changes of attacks, each of which one run of the wide study makes."""
    common = {"objective": "margin", "seed": 1}
    search = {**common, "true_threshold": 0.1, "target_threshold": 0.8}
    evolution = {"variant": "best1bin", "population": 100, "generations": 10, "differential_weight": 0.6}
    colours = {"colour_mean": 100, "colour_std": 50}
    several = {rule: jobs for rule, jobs in ONE_RUN.items() if rule not in ("locality", "controls")}
    kinds = {
        "evolution": (
            "differential_evolution",
            {**search, **evolution, **colours, "target": 3, "budget": 500, "stop": "flip"},
            {"target_threshold"},  # untargeted
        ),
        "random": (
            "random_search",
            {**search, "target": 4, "budget": 100, "stop": "budget"},
            {"true_threshold"},  # targeted
        ),
        "grid": (
            "scan",
            {**common, "target": 3, "budget": 100, "colours": "extremes", "levels": 4, "palette_size": 4, "refine": 1}
            | {"refine_budget": 60, "gradient": False, "stop": "first"},
            {"palette_size", "refine_budget"},  # nothing is refined
        ),
        "palette": ("scan", {"levels": 4, "palette_size": 4}, {"levels"}),
    }
    for name, (kind, values, idle) in kinds.items():
        for key, value in values.items():
            outcome = UNUSED if key in idle else one_attack
            yield Change(f"attacks.NAME[{kind}].{key}", "wide", {("attacks", name, key): value}, outcome)
    for name, kind in (("evolution", "differential_evolution"), ("random", "random_search")):
        several_pixels = Outcome("attacks and all that follows, without position maps and controls", several)
        yield Change(f"attacks.NAME[{kind}].pixels", "wide", {("attacks", name, "pixels"): 2}, several_pixels)
    for name, kind, other in (
        ("evolution", "differential_evolution", {"method": "random_search", "stop": "threshold"}),
        ("random", "random_search", {"stop": "threshold", "target": 3}),
        ("grid", "scan", {"method": "random_search"}),
    ):
        yield Change(f"attacks.NAME[{kind}].method", "wide", {("attacks", name): other}, one_attack)
    for key, value in (("true_threshold", 0.1), ("target_threshold", 0.8)):  # it stops at a flip
        kind = "attacks.NAME[differential_evolution]"
        yield Change(f"{kind}.{key}", "small", {("attacks", "de", key): value}, UNUSED)


def _of_datasets() -> Iterator[Change]:
    size = {"resize": 20, "crop": [18, 16], "interpolation": "nearest", "channels": 1}
    kinds = {
        "cifar": ("cifar10", {"split": "train"}),
        "own": ("arrays", {"path": "other.npz", "split": "val", "class_names": ["a", "b"]}),
        "pictures": (
            "folder",
            {**size, "path": "others", "labels": "other.csv", "class_names": ["a", "b"], "class_order": "text"},
        ),
        "web": (
            "torchvision:NAME",
            {**size, "source": "torchvision:CIFAR10", "split": "train", "root": "copy", "class_names": ["a", "b"]},
        ),
    }
    for name, (kind, values) in kinds.items():
        for key, value in values.items():
            yield Change(f"datasets.NAME[{kind}].{key}", "wide", {("datasets", name, key): value}, one_dataset)
        if "source" not in values:
            edits = {("datasets", name): {"source": "bundled"}}
            yield Change(f"datasets.NAME[{kind}].source", "wide", edits, one_dataset)
    jobs = {"cifar10": 1, "datasets": 1, **ATTACKS, **FIELDS}
    source = {("datasets", "sample"): {"source": "cifar10"}}
    yield Change("datasets.NAME[bundled].source", "small", source, Outcome(DATASET, jobs))


def _of_networks() -> Iterator[Change]:
    one_channel = {("networks", "file", "mean"): [0.4], ("networks", "file", "std"): [0.3]}
    factory = {("networks", "file", "architecture"): "mynetworks:make"}
    besides = {"channels": one_channel, "arguments": factory}
    for key, value in {
        "architecture": "resnet20",
        "arguments": {"width": 8},
        "weights": "other.safetensors",
        "weights_key": "ema",
        "sha256": "87654321",
        "mean": [0.4, 0.5, 0.5],
        "std": [0.3, 0.3, 0.3],
        "classes": 7,
        "channels": 1,
    }.items():
        edits = {("networks", "file", key): value} | besides.get(key, {})
        yield Change(f"networks.NAME.{key}", "wide", edits, file_network)
    yield Change("networks.NAME.sha256", "wide", {("networks", "trained", "sha256"): "87654321"}, UNUSED)
    yield Change("networks.NAME.seed", "wide", {("networks", "file", "seed"): 1}, UNUSED)
    yield Change("networks.NAME.seed", "wide", {("networks", "trained", "seed"): 1}, trained)
    for key, value in {
        "epochs": 3,
        "optimiser": "adamw",
        "initialisation": "own",
        "batch_size": 64,
        "peak_learning_rate": 0.2,
        "momentum": 0.8,
        "weight_decay": 0.001,
        "crop_padding": 2,
        "mirror": False,
        "precision": "bfloat16",
    }.items():
        yield Change(f"networks.NAME.recipe.{key}", "wide", {("networks", "trained", "recipe", key): value}, trained)
    # LeNet's two chunks; and each network is tried on the other's successes.
    lenet = {
        "networks": 1,
        **{rule: 2 * jobs for rule, jobs in CHUNK.items()},
        **{"transfer": 2, **SHARING, "summary": 1, "figures": 1, "receptive_fields": 1},
        **{"tables": 10, **CHARTS, **TRACE},
    }
    edits = {("networks", "lenet", "architecture"): "resnet8"}
    yield Change("networks.NAME.architecture", "small", edits, Outcome(NETWORK, lenet))
    yield Change("networks.NAME", "small", {("networks", "other"): {"architecture": "lenet"}}, NOTHING)


def _of_runs() -> Iterator[Change]:
    other = {("datasets", "other"): {"source": "bundled"}, ("runs", 1, "dataset"): "other"}
    # With a dataset each, the two networks share nothing.
    yield Change("runs.dataset", "small", other, Outcome(DATASET, {"datasets": 1, **ONE_PAIR}))
    other = {("networks", "other"): {"architecture": "lenet"}, ("runs", 1, "networks"): ["resnet20", "other"]}
    jobs = {"networks": 1, **ONE_PAIR, "transfer": 3, **SHARING}
    yield Change("runs.networks", "small", other, Outcome("the new network, its attacks and all that follows", jobs))
    other = {("attacks", "random"): {"method": "random_search"}, ("runs", 1, "attacks"): ["de", "random"]}
    yield Change("runs.attacks", "small", other, Outcome("the new attack and all that follows", ONE_RUN))
    for images in ("0-11", "0-6"):  # a third chunk; three images in the second one
        jobs = {**ONE_PAIR, **IN_COMPANY}
        yield Change("runs.images", "small", {("runs", 0, "images"): images}, Outcome(CHUNKS, jobs))
    larger = {("runs", 0, "images_per_job"): 8}  # one chunk in place of two
    jobs = {**ONE_RUN, **IN_COMPANY}
    yield Change("runs.images_per_job", "small", larger, Outcome("the run's chunks and all that follows", jobs))
    yield Change("runs.images.file", "wide", {("runs", 1, "images", "file"): "fewer.txt"}, Outcome(CHUNKS, ONE_PAIR))
    folder, images = "data/selection/sample", ("runs", 4, "images")
    fifth = "0\n1\n2\n3\n4\n"  # image 4 is in a second chunk
    chosen = {f"{folder}/first-5.txt": fifth}
    yield Change("runs.images.first", "wide", {images: {"first": 5}}, first_choice, chosen)
    chosen = {f"{folder}/per-class-3-seed-0.txt": fifth}
    yield Change("runs.images.per_class", "wide", {images: {"per_class": 3}}, first_choice, chosen)
    chosen = {f"{folder}/per-class-2-seed-1.txt": fifth}
    yield Change("runs.images.seed", "wide", {images: {"per_class": 2, "seed": 1}}, first_choice, chosen)


def _of_the_rest() -> Iterator[Change]:
    two = {rule: 2 * jobs for rule, jobs in CHUNK.items()}  # one chunk per run
    jobs = {**ATTACKS, **two}
    yield Change("images_per_job", "small", {("images_per_job",): 8}, Outcome("all chunks and all that follows", jobs))
    with_fields = Outcome(ATTACK + ", receptive fields", {**ATTACKS, **FIELDS})
    yield Change("engine.device", "small", {("engine", "device"): "cpu"}, with_fields)
    engine = {"micro_batch": 32, "precision": "float32", "bound": 1.0, "fold": False, "windows": False}
    for key, value in engine.items():
        yield Change(f"engine.{key}", "small", {("engine", key): value}, all_attacks)
    jobs = {**MAPS, **SUMMARY, **FIELDS, **TRACE}
    layers = Outcome("propagation maps, receptive fields, tables and figures", jobs)
    yield Change("propagation.layers", "small", {("propagation", "layers"): ["*conv*"]}, layers)
    jobs = {"receptive_fields": 2, "tables": 1, "charts": 1, **TRACE}
    fields = Outcome("receptive fields, their table and figure", jobs)
    yield Change("propagation.gradient_images", "small", {("propagation", "gradient_images"): 2}, fields)
    tables = Outcome("tables and figures", {**SUMMARY, **SHARING})
    yield Change("statistics.confidence", "small", {("statistics", "confidence"): 0.9}, tables)
    yield Change("statistics.resamples", "small", {("statistics", "resamples"): 300}, tables)
    of_runs = Outcome("tables and figures, but those of sharing", SUMMARY)
    yield Change("statistics.permutations", "small", {("statistics", "permutations"): 99}, of_runs)
    jobs = {"controls": 3, "transfer": 2, **SUMMARY, **SHARING, **TRACE}
    drawn = Outcome("controls, transfer, tables and figures", jobs)
    yield Change("statistics.seed", "small", {("statistics", "seed"): 1}, drawn)
    figures = {"strips": ["success", 3], "strip_layers": ["*conv*"], "position_maps": 2, "colour_map": "viridis"}
    for key, value in figures.items():
        yield Change(f"figures.{key}", "small", {("figures", key): value}, run_figures)
    every_figure = Outcome("all figures", {"figures": 2, "sharing_figures": 1, **CHARTS})
    yield Change("figures.dpi", "small", {("figures", "dpi"): 90}, every_figure)
    jobs = {"cifar10": 1, "datasets": 1, "training": 1, "networks": 1, **ONE_PAIR}
    cifar10 = Outcome("all that is made of CIFAR-10", jobs)
    yield Change("existing_cifar10", "wide", {("existing_cifar10",): "copy"}, cifar10)
    yield Change("existing_cifar10", "small", {("existing_cifar10",): "copy"}, UNUSED)
    jobs = {"datasets": 1, "networks": 2, **ATTACKS, **FIELDS}
    yield Change("data", "small", {("data",): "elsewhere"}, Outcome("everything", jobs))
    made = Outcome("everything but fetching and training", {**ATTACKS, **FIELDS})
    yield Change("results", "small", {("results",): "elsewhere"}, made)


CHANGES = [*_of_datasets(), *_of_networks(), *_of_attacks(), *_of_runs(), *_of_the_rest()]

RULES = (
    *("cifar10", "datasets", "selection", "training", "networks", "attack", "locality", "propagation"),
    *("controls", "receptive_fields", "transfer", "sharing", "summary", "figures", "sharing_figures"),
    *("tables", "charts", "provenance"),
)

INTRODUCTION = """\
# What a change reruns

Snakemake runs a job again if its settings, its set of inputs, the contents of an input or its command have changed, or
if a job before it runs. Here:

- **Settings.** Each rule has at most one parameter: one JSON of just what it uses of the configuration. A key that the
  rule does not use, or that makes no difference beside the others (`levels` where `colours` is not `grid`), is not in
  it. What belongs together is not always taken apart: attacks and position maps have the whole of `engine`.
- **Order and spelling.** The order of keys and of `runs`, comments, and defaults written out rerun nothing. The same
  holds for the order in `networks` and `attacks` of a run, `propagation.layers`, `figures.strips` and
  `figures.strip_layers`, and for other spellings of the same images.
- **Modules.** A rule's inputs include its job, `onepix/jobs/RULE.py`, and the modules of the library that this imports,
  directly and through others, anywhere in a file, but not for types only (`TYPE_CHECKING`); they are found anew each
  time. Editing one of them, even a comment, reruns the rules that use it: Snakemake compares contents, not meaning. A
  section of the configuration belongs to the rules that are told its values: a key that is added to
  onepix/config/figures.py reruns `figures` and `configuration`, and no attack. cli.py, process.py and jobs/__main__.py
  belong to no rule.
- **Your code.** A factory's module, and what it imports from its own folder, are inputs of `networks` and `training`;
  all that uses the network follows. Installed packages are not watched.
- **Touched files.** Up to 1 MB, files are compared by content: one that is only touched, copied or checked out anew
  reruns nothing. Results are tracked by their manifests, which are small. Of larger files of your own (images,
  weights), the date counts.
- **Chunks.** A chunk is named by its block of `images_per_job` ids, and reruns if the ids wanted of it change. More
  images add chunks and touch none.
- **Images chosen by a rule.** `{first: 100}` and `{per_class: 10}` need the dataset. Only when `selection` has run
  does Snakemake know the chunks; until then, a dry run shows only part of what follows. What then runs is what would
  run if the same ids were listed.
- **Jobs, not results.** What follows a job that runs is run too, also where the job's result turns out to be the same.

`configuration` runs after any change of a value, also where the table says nothing. The table is written by hand
in [tests/helpers/reruns.py](../tests/helpers/reruns.py) and held against Snakemake by tests/workflow/test_reruns.py;
this page is written anew by

```console
$ python tests/helpers/reruns.py > docs/reruns.md
```

## By key

The kind of dataset or attack stands in brackets. `data` and `results` leave the former folders as they are.
"""


def page() -> str:
    """Return docs/reruns.md."""
    rows = ["| key | changed to | what runs |", "|---|---|---|"]
    for change in sorted(CHANGES, key=lambda change: _place(change.key)):
        values = ", ".join(f"`{'.'.join(map(str, p))}: {json.dumps(v)}`" for p, v in change.edits.items())
        rows.append(f"| `{change.key}` | {values} | {change.outcome.text} |")
    meaning = ["| what runs | rules |", "|---|---|"]
    texts = dict.fromkeys(change.outcome.text for change in CHANGES)
    for text in texts:
        rules = {rule for change in CHANGES if change.outcome.text == text for rule in change.outcome.jobs}
        if rules:
            meaning.append(f"| {text} | {', '.join(f'`{rule}`' for rule in sorted(rules, key=RULES.index))} |")
    return "\n".join([INTRODUCTION, *rows, "\n## By outcome\n", *meaning, ""])


def _place(key: str) -> int:
    known = list(keys())
    return known.index(key) if key in known else known.index(next(k for k in known if k.startswith(f"{key}.")))


if __name__ == "__main__":
    sys.stdout.write(page())
