"""The configuration, the chunks of images, and the paths and inputs that rules share."""

import functools
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

import onepix.config.study
from onepix.config.datasets import ArraysDataset, Cifar10Dataset, FolderDataset, TorchvisionDataset
from onepix.config.engine import Passes
from onepix.config.networks import Network
from onepix.config.reading import canonical, part
from onepix.config.selection import Selection
from onepix.config.statistics import Intervals

from onepix.datasets.selection import ids_in_file, listed_ids
from onepix.engine.gpus import visible
from onepix.errors import OnepixError
from onepix.files.closure import closure
from onepix.files.located import PACKAGE, located
from onepix.names import natural

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "../report/workflow.rst"


# Fetching needs the web, which a cluster's compute nodes often have no way to; the others take a second or two.
localrules:
    all,
    cifar10,
    datasets,
    networks,
    selection,
    tables,
    charts,
    sharing_figures,
    configuration,
    provenance,


# GPUs are counted on the machine that a job runs on: their number here is no limit for a cluster's jobs.
resource_scopes:
    gpu="local",


def read_config():
    """Check the configuration; a mistake ends in a line or two, not in a traceback."""
    try:
        return onepix.config.study.parse(config, " + ".join(map(str, workflow.configfiles)))
    except OnepixError as error:
        sys.exit(f"onepix: {error}")


CONFIG = read_config()
DATA, RESULTS = CONFIG.data, CONFIG.results

# Jobs run by the interpreter that runs Snakemake, also where no environment is activated; in a conda environment of
# Snakemake's own, by that environment's.
of_conda = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
JOB = f"{'python' if of_conda else shlex.quote(sys.executable)} -m onepix.jobs"

GPU = 0 if CONFIG.engine.device == "cpu" else 1  # asked for by each job that runs a network


def count_gpus():
    """Let as many jobs with a GPU run at once as there are GPUs; without any, cores are the limit."""
    if GPU and workflow.is_main_process and "gpu" not in workflow.global_resources:  # --resources gpu=2 goes before
        count = len(visible()) if CONFIG.engine.device in ("auto", "cuda") else 1
        if count:
            workflow.register_resource("gpu", count)


count_gpus()


def growing(amount):
    """Return a resource that doubles with each attempt: what is killed for want of it is tried again with more."""

    def of_attempt(wildcards, attempt):
        return amount * 2 ** (attempt - 1)

    return of_attempt


def is_rule(images):
    """Tell whether images are chosen by a rule, which takes the dataset, and not listed."""
    return isinstance(images, Selection) and images.file is None


# Rules for choosing images, by name
SELECTIONS = {run.images.name: run.images for run in CONFIG.runs if is_rule(run.images)}
# Targets of their own: Snakemake would not ask for them where later results, of other images, are there.
SELECTED = [f"{DATA}/selection/{run.dataset}/{run.images.name}.txt" for run in CONFIG.runs if is_rule(run.images)]
# (dataset, network, attack) → the place in the configuration's list of runs. Their order does not depend on that list:
# it is the order of many rules' inputs, and of the rows of tables.
RUNS = {
    (run.dataset, network, attack): index
    for index, run in enumerate(CONFIG.runs)
    for network in run.networks
    for attack in run.attacks
}
RUNS = dict(sorted(RUNS.items(), key=lambda run: [natural(name) for name in run[0]]))
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
CHARTS = ["locality_chart", "distance_profile", "receptive_fields"]
STRIPS = [f"strip_{wanted}" for wanted in CONFIG.figures.strips]
# What several rules use of the configuration
PASSES = part(Passes, CONFIG.engine)
CHART = {"dpi": CONFIG.figures.dpi, "confidence": CONFIG.statistics.confidence}
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
    """Return the networks that are attacked so."""
    return [run[1] for run in RUNS if run[::2] == (dataset, attack)]


# (dataset, attack) of runs that several networks share, each image attacked once
SHARED = [
    (dataset, attack)
    for dataset, attack in dict.fromkeys(run[::2] for run in RUNS)
    if len(networks_of(dataset, attack)) > 1 and single_pixel(attack) and CONFIG.attacks[attack].target is None
]

TABLES = [
    f"{RESULTS}/configuration.yaml",
    f"{RESULTS}/provenance.csv",
    *(f"{RESULTS}/tables/{table}" for table in [*RUN_TABLES, "receptive_fields.csv"]),
    *(f"{RESULTS}/sharing/{dataset}/{attack}.csv" for dataset, attack in SHARED),
]
FIGURES = [
    *(f"{RESULTS}/charts/{name}.png" for name in CHARTS),
    *(f"{RESULTS}/sharing_figures/{dataset}/{attack}.png" for dataset, attack in SHARED),
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
    return checkpoints.selection.get(dataset=run.dataset, selection=run.images.name).output[0]


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


def attack_settings(attack):
    """Return an attack's settings, without those that make no difference beside the others."""
    return attack.model_dump(mode="json", exclude=attack.idle)


def stages_of(attack):
    """Return the stages that an attack's chunks go through."""
    return ["attack", "propagation", *(["locality", "controls"] if single_pixel(attack) else [])]


def manifests(stage):
    """Return an input function: the manifests of all chunks of a run at a stage."""

    def of_run(wildcards):
        run = (wildcards.dataset, wildcards.network, wildcards.attack)
        return manifests_of(stage, *run) if stage in stages_of(wildcards.attack) else []

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
    return [f"{RESULTS}/{'/'.join(run)}/summary/{wildcards.table}" for run in RUNS]


def first_images(dataset, network):
    """Return the first images that a network is attacked on: its effective receptive fields come from them."""
    ids = {image_id for run, index in RUNS.items() if run[:2] == (dataset, network) for image_id in image_ids(index)}
    return sorted(ids)[: CONFIG.propagation.gradient_images]


def library(rule):
    """Return the modules that a rule's results depend on, so that editing one of them reruns the rule."""
    return [os.path.relpath(file) for file in closure(f"onepix.jobs.{rule}")]  # relative, so that a study can be moved


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
    # Snakemake would take braces for wildcards, and look for another file.
    watched = [str(file) for file in files if file.is_file() and not set("{}") & set(str(file))]
    return [*watched, *own_files(dataset.labels or PACKAGE)]


def own_files(name):
    """Return a place that the configuration names, unless it lies in a package."""
    return [] if name.startswith(PACKAGE) else [str(located(name))]


def dataset_settings(dataset):
    """Return what fetching a dataset needs to know: where torchvision's downloads go, if there are any."""
    downloads = isinstance(dataset, TorchvisionDataset) and dataset.root is None
    return {"dataset": dataset, **({"downloads": f"{DATA}/torchvision"} if downloads else {})}


def network_settings(network):
    """Return what fetching a network needs to know; no hash is looked at where nothing is downloaded or read."""
    known = part(Network, network)
    return {**known, "sha256": None} if network.weights in ("train", "factory") else known


def trained_weights(wildcards):
    """Return the weights to be trained, for a network that asks for it."""
    wanted = CONFIG.networks[wildcards.network].weights == "train"
    return [f"{DATA}/training/{wildcards.network}.safetensors"] if wanted else []


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


def chart(name):
    """Declare a chart of all runs as part of the report."""
    return report(
        f"{RESULTS}/charts/{name}.png",
        caption=f"../report/{name}.rst",
        category="Figures",
        subcategory="all networks",
        labels={"figure": name.replace("_", " "), "dataset": "all", "attack": "all"},
    )


def whole_configuration():
    """Return the configuration with all defaults, the same for the same runs in whatever order."""
    values = CONFIG.model_dump(mode="json")
    return canonical({**values, "runs": sorted(values["runs"], key=canonical)})


def all_manifests(wildcards):
    """Return the manifests of all datasets and networks that are used, and of all chunks of all stages."""
    return [
        *(f"{DATA}/datasets/{dataset}/manifest.json" for dataset in dict.fromkeys(run[0] for run in RUNS)),
        *(f"{DATA}/networks/{network}/manifest.json" for network in dict.fromkeys(run[1] for run in RUNS)),
        *(f"{RESULTS}/{'/'.join(pair)}/receptive_fields.json" for pair in dict.fromkeys(run[:2] for run in RUNS)),
        *(manifest for run in RUNS for stage in stages_of(run[2]) for manifest in manifests_of(stage, *run)),
    ]


def provenance_report(name, path):
    """Declare a file as part of the report, which shows pages and hands out the rest."""
    return report(
        path,
        caption=f"../report/{name}.rst",
        category="Provenance",
        labels={"what": name, "as": Path(path).suffix[1:]},
    )
