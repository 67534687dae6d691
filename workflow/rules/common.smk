"""The configuration, the chunks of images, and the paths and inputs that rules share."""

import ast
import os
import re
import sys
from pathlib import Path
from shlex import quote

import onepix
import onepix.config
from onepix.config import ArraysDataset, Cifar10Dataset, canonical
from onepix.errors import OnepixError

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

STAGES = ("attack", "propagation", "locality")
# (dataset, network, attack) → image ids
RUNS = {
    (run.dataset, network, attack): run.image_ids
    for run in CONFIG.runs
    for network in run.networks
    for attack in run.attacks
}
RUN_TABLES = ("success.csv", "layers.csv", "locality.csv", "profile.csv", "clusters.csv", "neighbourhood.csv")
STRIPS = [f"strip_{wanted}" for wanted in CONFIG.figures.strips]
FIGURE_SETTINGS = {"figures": CONFIG.figures, "confidence": CONFIG.statistics.confidence}
RUN_FIGURES = [*STRIPS, "average_propagation", "growth_by_depth", "position_maps"]

TABLES = [f"{RESULTS}/tables/{table}" for table in RUN_TABLES]
FIGURES = [
    f"{RESULTS}/figures/locality_chart.png",
    f"{RESULTS}/figures/distance_profile.png",
    *(f"{RESULTS}/{'/'.join(run)}/figures/{name}.png" for run in RUNS for name in RUN_FIGURES),
]


wildcard_constraints:
    dataset="|".join(map(re.escape, CONFIG.datasets)),
    network="|".join(map(re.escape, CONFIG.networks)),
    attack="|".join(map(re.escape, CONFIG.attacks)),
    chunk=r"\d{6}-\d{6}",


def chunks(dataset, network, attack):
    """Return a run's chunks: fixed blocks of image ids, by name, with the ids wanted of each."""
    size, blocks = CONFIG.images_per_job, {}
    for image_id in RUNS[dataset, network, attack]:
        first = image_id // size * size
        blocks.setdefault(f"{first:06d}-{first + size - 1:06d}", []).append(image_id)
    return blocks


def manifests(stage):
    """Return an input function: the manifests of all chunks of a run at a stage."""

    def of_run(wildcards):
        run = (wildcards.dataset, wildcards.network, wildcards.attack)
        if stage == "locality" and getattr(CONFIG.attacks[wildcards.attack], "pixels", 1) > 1:
            return []  # where a change of several pixels would be moved to is not defined
        return [f"{RESULTS}/{'/'.join(run)}/{stage}/{chunk}.json" for chunk in chunks(*run)]

    return of_run


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


def own_arrays(wildcards):
    """Return the user's own file of images, if the dataset is one."""
    dataset = CONFIG.datasets[wildcards.dataset]
    return [dataset.path] if isinstance(dataset, ArraysDataset) else []


def trained_weights(wildcards):
    """Return the weights to be trained, for a network that asks for it."""
    wanted = CONFIG.networks[wildcards.network].weights == "train"
    return [f"{DATA}/trained/{wildcards.network}.safetensors"] if wanted else []


def own_weights(wildcards):
    """Return the user's own file of weights, if the network names one."""
    weights = CONFIG.networks[wildcards.network].weights
    return [] if weights in ("bundled", "train", "factory") else [weights]


def run_figure(name):
    """Declare a figure of a run as part of the report."""
    return report(
        f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/figures/{name}.png",
        caption=f"../report/{'strip' if name in STRIPS else name}.rst",
        category="Figures",
        subcategory="{network}",
        labels={"figure": name.replace("_", " "), "dataset": "{dataset}", "attack": "{attack}"},
    )
