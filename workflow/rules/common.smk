"""The configuration, and what only Snakemake needs; onepix.study.runs says what a configuration means."""

import functools
import os
import re
import sys
from pathlib import Path

from snakemake.common.configfile import load_configfile
from snakemake.settings.types import DeploymentMethod
from snakemake.utils import update_config

# Imported names would hide Snakemake's own, such as `parse` and `report`: so most imports here are modules.
import onepix.config.study
from onepix.config.reading import canonical
from onepix.engine import gpus, machine
from onepix.errors import OnepixError
from onepix.files import closure, layout
from onepix.study import runs

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "../report/workflow.rst"


# Fetching needs the web, which a cluster's compute nodes often cannot reach; the other rules take a second or two.
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


# The number of GPUs limits only jobs on this machine, not those of a cluster.
resource_scopes:
    gpu="local",


def told(function, *arguments):
    """Call a function; a user's mistake ends in one or two lines, not in a traceback."""
    try:
        return function(*arguments)
    except OnepixError as error:
        sys.exit(f"onepix: {error}")


def configuration():
    """Read again what Snakemake has read: it loses the lines, and takes 10:49 for 649 and `no` for false."""
    given = workflow.config_settings
    replaced = given.replace_workflow_config and given.config and not given.configfiles
    files = [] if replaced else workflow.configfiles
    as_snakemake_reads = {}
    for values in (*map(load_configfile, files), given.config):
        update_config(as_snakemake_reads, values)
    if config == as_snakemake_reads:
        return told(functools.partial(onepix.config.study.load, options=given.config_args), *map(Path, files))
    return told(onepix.config.study.parse, config, "config")  # another workflow has made it, for this module


CONFIG = configuration()
LAYOUT = CONFIG.layout
RUN = ("{dataset}", "{network}", "{attack}")

# Jobs use the Python interpreter that runs Snakemake, even if no environment is activated; with Snakemake's conda
# environments, the interpreter of the environment.
# The environment names it, so it is no part of a rule's command: the same command elsewhere reruns nothing.
of_conda = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
os.environ.update(ONEPIX_PYTHON="python" if of_conda else sys.executable)

GPU = 0 if CONFIG.engine.device == "cpu" else 1  # per job that runs a network
IS_HERE = workflow.is_main_process and workflow.resource_settings.nodes is None  # where jobs run: not on a cluster


def gpus_here():
    """Return the number of GPUs for jobs on this machine."""
    if not (IS_HERE and GPU):
        return 0
    return len(gpus.visible()) if CONFIG.engine.device in ("auto", "cuda") else 1


def limit(resource, amount):
    """Limit what jobs on this machine need together, unless the user has set it, as by --resources gpu=2."""
    if IS_HERE and amount and resource not in workflow.global_resources:
        workflow.register_resource(resource, amount)


limit("gpu", gpus_here())  # without GPUs, the limits are cores and memory
limit("mem_mb", machine.memory_mb())


def growing(amount):
    """Return a resource that doubles with each attempt: a job that was killed for lack of it is tried with more."""

    def of_attempt(wildcards, attempt):
        return amount * 2 ** (attempt - 1)

    return of_attempt


def chosen(dataset, selection):
    """Return the file with the ids that a rule chose; Snakemake makes it before it plans further jobs."""
    return Path(checkpoints.selection.get(dataset=dataset, selection=selection).output[0])


@functools.cache
def images(index):
    """Return the ids of a run's images; if a rule chooses them, the dataset is fetched first."""
    return told(runs.image_ids, CONFIG, index, chosen)


RUNS = runs.Runs(CONFIG, images)


def tell_of_other_versions():
    """Print which results will be made again because their format has another version."""
    if workflow.is_main_process and (found := LAYOUT.manifests()):
        from onepix.study import versions  # slow to import, and a first run does not need it

        for line in versions.outdated(found):
            print(f"onepix: {line}", file=sys.stderr)


tell_of_other_versions()


def library(rule):
    """Return the modules that a rule's results depend on, so that an edit of one of them reruns the rule."""
    # Relative, so that a study can be moved.
    return [os.path.relpath(file) for file in closure.closure(f"onepix.jobs.{rule}")]


def settings(rule):
    """Return a function that gives the settings of a job of a rule, as one JSON."""
    return lambda wildcards: canonical(RUNS.settings(rule, wildcards))


def run_of(wildcards):
    """Return the run that a job belongs to."""
    return wildcards.dataset, wildcards.network, wildcards.attack


def manifests(stage):
    """Return an input function that gives the manifests of all chunks of a run at a stage."""
    return lambda wildcards: RUNS.manifests(stage, run_of(wildcards))


wildcard_constraints:
    dataset="|".join(map(re.escape, CONFIG.datasets)),
    network="|".join(map(re.escape, CONFIG.networks)),
    attack="|".join(map(re.escape, CONFIG.attacks)),
    chunk=r"\d{6}-\d{6}",
    selection=r"first-\d+|per-class-\d+-seed-\d+",
