"""The configuration, the chunks of images, and the paths and inputs that rules share."""

import ast
import functools
import os
import re
import sys
from pathlib import Path
from shlex import quote

import onepix
import onepix.config
from onepix.config import ArraysDataset, Cifar10Dataset, FolderDataset, Selection, canonical
from onepix.errors import OnepixError
from onepix.places import PACKAGE, located
from onepix.selection import ids_in_file, listed_ids

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "../report/workflow.rst"


def read_config():
    """Check the configuration; a mistake ends in a line or two, not in a traceback."""
    try:
        return onepix.config.parse(config, " + ".join(map(str, workflow.configfiles)))
    except OnepixError as error:
        sys.exit(f"onepix: {error}")


CONFIG = read_config()
DATA, RESULTS = CONFIG.data, CONFIG.results
LIBRARY = Path(os.path.relpath(Path(onepix.__file__).parent))  # relative, so that a study can be moved

STAGES = ("attack", "propagation", "locality", "controls")


def is_rule(images):
    """Tell whether images are chosen by a rule, which takes the dataset, and not listed."""
    return isinstance(images, Selection) and images.file is None


# Rules for choosing images, by name
SELECTIONS = {run.images.name: run.images for run in CONFIG.runs if is_rule(run.images)}
# Targets of their own: Snakemake would not ask for them where later results, of other images, are there.
SELECTED = [f"{DATA}/datasets/{run.dataset}/{run.images.name}.txt" for run in CONFIG.runs if is_rule(run.images)]
# (dataset, network, attack) → the place in the configuration's list of runs
RUNS = {
    (run.dataset, network, attack): index
    for index, run in enumerate(CONFIG.runs)
    for network in run.networks
    for attack in run.attacks
}
RUN_TABLES = [
    f"{name}.csv"
    for name in (
        "success",
        "claims",
        "layers",
        "comparison",
        "separation",
        "locality",
        "profile",
        "clusters",
        "neighbourhood",
    )
]
STRIPS = [f"strip_{wanted}" for wanted in CONFIG.figures.strips]
FIGURE_SETTINGS = {"figures": CONFIG.figures, "confidence": CONFIG.statistics.confidence}
RUN_FIGURES = [
    *STRIPS,
    "average_propagation",
    "average_aligned",
    "growth_by_depth",
    "comparison",
    "position_maps",
]


def single_pixel(attack):
    """Tell whether an attack changes one pixel; where a change of several would be moved to is not defined."""
    return getattr(CONFIG.attacks[attack], "pixels", 1) == 1


def networks_of(dataset, attack):
    """Return the networks that are attacked so, in the order of the configuration."""
    return [run[1] for run in RUNS if run[::2] == (dataset, attack)]


# (dataset, attack) of runs that several networks share, each image attacked once
SHARED = [
    (dataset, attack)
    for dataset, attack in dict.fromkeys(run[::2] for run in RUNS)
    if len(networks_of(dataset, attack)) > 1 and single_pixel(attack) and CONFIG.attacks[attack].target is None
]

TABLES = [
    *(f"{RESULTS}/tables/{table}" for table in [*RUN_TABLES, "receptive_fields.csv"]),
    *(f"{RESULTS}/sharing/{dataset}/{attack}.csv" for dataset, attack in SHARED),
]
FIGURES = [
    *(f"{RESULTS}/figures/{name}.png" for name in ("locality_chart", "distance_profile", "receptive_fields")),
    *(f"{RESULTS}/sharing/{dataset}/{attack}.png" for dataset, attack in SHARED),
    *(f"{RESULTS}/{'/'.join(run)}/figures/{name}.png" for run in RUNS for name in RUN_FIGURES),
]


wildcard_constraints:
    dataset="|".join(map(re.escape, CONFIG.datasets)),
    network="|".join(map(re.escape, CONFIG.networks)),
    attack="|".join(map(re.escape, CONFIG.attacks)),
    chunk=r"\d{6}-\d{6}",
    selection=r"first-\d+|per-class-\d+-seed-\d+",


@functools.cache
def image_ids(index):
    """Return the ids of a run's images; where a rule chooses them, the dataset is fetched first."""
    run = CONFIG.runs[index]
    if is_rule(run.images):
        return ids_in_file(Path(chosen_by_rule(run)))
    try:
        return listed_ids(run.images)
    except OnepixError as error:
        sys.exit(f"onepix: runs.{index}.images: {error}")


def chosen_by_rule(run):
    """Return the file that lists a run's images; Snakemake makes it before it looks any further."""
    return checkpoints.select_images.get(dataset=run.dataset, selection=run.images.name).output[0]


def chosen_images(wildcards):
    """Return the files that list a network's images of a dataset, where rules choose them."""
    runs = [run for run in CONFIG.runs if run.dataset == wildcards.dataset and wildcards.network in run.networks]
    return [chosen_by_rule(run) for run in runs if is_rule(run.images)]


def chunks(dataset, network, attack):
    """Return a run's chunks: fixed blocks of image ids, by name, with the ids wanted of each."""
    size, blocks = CONFIG.images_per_job, {}
    for image_id in image_ids(RUNS[dataset, network, attack]):
        first = image_id // size * size
        blocks.setdefault(f"{first:06d}-{first + size - 1:06d}", []).append(image_id)
    return blocks


def manifests(stage):
    """Return an input function: the manifests of all chunks of a run at a stage."""

    def of_run(wildcards):
        run = (wildcards.dataset, wildcards.network, wildcards.attack)
        if stage in ("locality", "controls") and not single_pixel(wildcards.attack):
            return []
        return manifests_of(stage, *run)

    return of_run


def manifests_of(stage, *run):
    """Return the manifests of all chunks of a run at a stage."""
    return [f"{RESULTS}/{'/'.join(run)}/{stage}/{chunk}.json" for chunk in chunks(*run)]


def attacks_of_others(wildcards):
    """Return the attacks on the other networks of a dataset and attack."""
    pair = (wildcards.dataset, wildcards.attack)
    return [
        manifest
        for network in networks_of(*pair)
        if network != wildcards.network
        for manifest in manifests_of("attack", pair[0], network, pair[1])
    ]


def vulnerable(kind):
    """Return an input function: where a network's vulnerable positions stand, for whole scans and for other attacks."""

    def of_all_networks(wildcards):
        settings = CONFIG.attacks[wildcards.attack]
        whole_scan = settings.method == "scan" and settings.stop == "all"
        if whole_scan != (kind == "scan"):
            return []
        return [
            manifest
            for network in networks_of(wildcards.dataset, wildcards.attack)
            for manifest in manifests_of(
                "attack" if whole_scan else "locality", wildcards.dataset, network, wildcards.attack
            )
        ]

    return of_all_networks


def tables_to_gather(wildcards):
    """Return the tables of all runs; those of receptive fields do not depend on the attack."""
    if wildcards.table == "receptive_fields.csv":
        return [f"{RESULTS}/{'/'.join(pair)}/{wildcards.table}" for pair in dict.fromkeys(run[:2] for run in RUNS)]
    return [f"{RESULTS}/{'/'.join(run)}/tables/{wildcards.table}" for run in RUNS]


def first_images(dataset, network):
    """Return the first images that a network is attacked on: its effective receptive fields come from them."""
    ids = {image_id for run, index in RUNS.items() if run[:2] == (dataset, network) for image_id in image_ids(index)}
    return sorted(ids)[: CONFIG.propagation.gradient_images]


def library(module):
    """Return a module of the library and all it imports from there, so that editing one of them reruns the rule."""
    found, waiting = set(), [LIBRARY / module]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += imported(file)
    return sorted(map(str, found))


def imported(file):
    """Return the files of the modules of onepix that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    candidates = []
    for name in names:
        parts = name.split(".")
        if parts[0] == "onepix":
            for depth in range(1, len(parts) + 1):
                place = LIBRARY.joinpath(*parts[1:depth])
                candidates += [place / "__init__.py", place.with_suffix(".py")]
    return [file for file in candidates if file.is_file()]


def repeated(option, paths):
    """Return a command-line option once for each of several paths, quoted for the shell."""
    return " ".join(f"--{option} {quote(str(path))}" for path in paths)


def cifar10_of_dataset(wildcards):
    """Return CIFAR-10 for a dataset that is made of it."""
    from_cifar10 = isinstance(CONFIG.datasets[wildcards.dataset], Cifar10Dataset)
    return [f"{DATA}/cifar10.json"] if from_cifar10 else []


def own_images(wildcards):
    """Return the user's own files of images, if the dataset is made of such; packages are not watched."""
    dataset = CONFIG.datasets[wildcards.dataset]
    if isinstance(dataset, ArraysDataset):
        return own_files(dataset.path)
    if not isinstance(dataset, FolderDataset):
        return []
    files = [file for folder in own_files(dataset.path) for file in sorted(Path(folder).rglob("[!.]*"))]
    return [*(str(file) for file in files if file.is_file()), *own_files(dataset.labels or PACKAGE)]


def own_files(name):
    """Return a place that the configuration names, unless it lies in a package."""
    return [] if name.startswith(PACKAGE) else [str(located(name))]


def trained_weights(wildcards):
    """Return the weights to be trained, for a network that asks for it."""
    wanted = CONFIG.networks[wildcards.network].weights == "train"
    return [f"{DATA}/trained/{wildcards.network}.safetensors"] if wanted else []


def own_weights(wildcards):
    """Return the user's own file of weights, if the network names one."""
    weights = CONFIG.networks[wildcards.network].weights
    elsewhere = weights in ("bundled", "train", "factory", "torchvision")
    return [] if elsewhere or weights.startswith(("torchvision:", "http://", "https://")) else own_files(weights)


def run_figure(name):
    """Declare a figure of a run as part of the report."""
    return report(
        f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/figures/{name}.png",
        caption=f"../report/{'strip' if name in STRIPS else name}.rst",
        category="Figures",
        subcategory="{network}",
        labels={"figure": name.replace("_", " "), "dataset": "{dataset}", "attack": "{attack}"},
    )
