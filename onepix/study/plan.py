"""Finds out which jobs the workflow would run, why, and how long the attacks take at most.

No other module of the library imports Snakemake.
"""

import ast
import dataclasses
import functools
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from onepix.config.attacks import RandomSearch, Scan
from onepix.config.base import Settings
from onepix.config.engine import Engine
from onepix.config.figures import Figures
from onepix.config.propagation import Propagation
from onepix.config.statistics import Statistics
from onepix.config.study import Config
from onepix.errors import OnepixError
from onepix.files.manifests import digest
from onepix.study.check import CheckedPair, check_pair, known

# Snakemake is imported inside functions: that takes seconds, and most functions here do not need it.

SECTIONS: dict[str, type[Settings]] = {
    "engine": Engine,
    "propagation": Propagation,
    "statistics": Statistics,
    "figures": Figures,
}
KINDS = ("method", "variant", "source", "architecture", "weights")  # when these change, other keys change with them
MOST_KEYS = 5  # named per job
LONGEST = 40  # characters shown of a value
ABSENT = "–"
ATTACK = "attack"  # the only rule whose work can be counted before it runs

Run = tuple[str, str, str]  # dataset, network, attack


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of the workflow.

    Attributes
    ----------
    rule : str
        Its name.
    wildcards : mapping
        Values by name.
    settings : mapping
        Its part of the configuration; empty if it has none.
    why : tuple of str
        Why it would run, most important reason first; empty if it would not run.
    threads : int
        Number of threads.
    """

    rule: str
    wildcards: Mapping[str, str]
    settings: Mapping[str, Any]
    why: tuple[str, ...] = ()
    threads: int = 1

    @property
    def run(self) -> Run:
        """Dataset, network and attack; empty where the job does not belong to one."""
        dataset, network, attack = (self.wildcards.get(name, "") for name in ("dataset", "network", "attack"))
        return dataset, network, attack


@dataclasses.dataclass(frozen=True)
class Workflow:
    """The jobs of a study, as Snakemake sees them.

    Attributes
    ----------
    jobs : tuple of Job
        All jobs that lead to the study's results, in a possible order of running; without the target `all`.
    at_once : int
        So many attack jobs run at once on this machine, as cores, GPUs and memory allow.
    """

    jobs: tuple[Job, ...]
    at_once: int = 1

    def to_run(self, rule: str | None = None) -> list[Job]:
        """Return the jobs that would run, of one rule or of all."""
        return [job for job in self.jobs if job.why and rule in (None, job.rule)]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The attacks of one run.

    Attributes
    ----------
    run : tuple of str
        Dataset, network and attack.
    images, of : int or None
        Number of images to be attacked, and of images of the run; None if not known yet.
    passes : int or None
        At most so many candidates are evaluated; None if not known.
    rate : float or None
        Passes per second of one job; None if not measured.
    unknown : str
        Why something is not known.
    budget, whole : int or None
        Where `budget` in the configuration ends an attack early: its value, and how many candidates the attack would
        evaluate at most without it.
    """

    run: Run
    images: int | None = None
    of: int | None = None
    passes: int | None = None
    rate: float | None = None
    unknown: str = ""
    budget: int | None = None
    whole: int | None = None

    @property
    def each(self) -> int | None:
        """Candidates per image at most; None if not known, or if no image is to be attacked."""
        return self.passes // self.images if self.passes is not None and self.images else None

    @property
    def seconds(self) -> float | None:
        """Seconds that the attacks take at most, with one job at a time."""
        if self.passes == 0:
            return 0.0
        return self.passes / self.rate if self.passes and self.rate else None


def ask_snakemake(config: Config, files: Sequence[Path]) -> Workflow:
    """Let Snakemake find out what would run in this folder, without running it.

    Parameters
    ----------
    config : Config
        A study.
    files : sequence of Path
        The files that it was read from.

    Raises
    ------
    OnepixError
        If there is no Snakefile, or Snakemake finds a mistake.
    """
    if not Path("Snakefile").is_file():
        raise OnepixError(f"{Path.cwd()}: no Snakefile; run onepix plan in the folder of the Snakefile")
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import format_exception_to_string
    from snakemake.settings.enums import Quietness
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

    quiet = OutputSettings(quiet={Quietness.ALL}, enable_file_logging=False)
    with SnakemakeApi(quiet) as api, redirect_stdout(io.StringIO()):
        study = api.workflow(ResourceSettings(cores=os.cpu_count()), ConfigSettings(configfiles=files))
        try:
            # As in the default profile, interrupted outputs are made again.
            study.dag(DAGSettings(force_incomplete=True))
            workflow = study._workflow
            # Snakemake has no public way to get the jobs; its own commands begin with these two calls.
            workflow._prepare_dag(forceall=False, ignore_incomplete=False, lock_warn_only=True)
            workflow._build_dag()
        except SystemExit as error:
            raise OnepixError(str(error.code).removeprefix("onepix: ")) from error
        except Exception as error:
            text = " ".join(format_exception_to_string(error, workflow_lines(study)).split())
            raise OnepixError(f"Snakemake cannot plan this study: {text}") from error
        return Workflow(tuple(_jobs(config, workflow)), _at_once(workflow))


def workflow_lines(study: Any) -> Any:
    """Return where the lines of a workflow are in its files, for error messages."""
    return study._workflow_store.linemaps if study._workflow_store else {}


def _jobs(config: Config, workflow: Any) -> Iterator[Job]:
    dag = workflow.dag
    to_run = set(dag.needrun_jobs())
    for level in dag.toposorted():
        for job in sorted(level, key=lambda job: (job.rule.name, list(job.output))):
            if not job.output:
                continue
            wildcards, settings = dict(job.wildcards), _settings(job.params.get("settings"))
            reasons = _reasons(config, workflow, job, wildcards, settings) if job in to_run else ()
            yield Job(job.rule.name, wildcards, settings, tuple(reasons), job.threads)


def _at_once(workflow: Any) -> int:
    """Return how many attack jobs run at once, by what each needs of what is limited."""
    limits = {name: resource.value for name, resource in workflow.global_resources.items()}
    fitting = [
        limits[name] // needed
        for job in workflow.dag.needrun_jobs()
        if job.rule.name == ATTACK
        for name, needed in job.scheduler_resources.items()
        if isinstance(needed, int) and needed and isinstance(limits.get(name), int)
    ]
    return max(min(fitting, default=1), 1)


def _settings(text: object) -> dict[str, Any]:
    """Read a job's settings; empty if it has none."""
    settings = json.loads(text) if isinstance(text, str) and text.startswith("{") else {}
    return settings if isinstance(settings, dict) else {}


def _reasons(
    config: Config, workflow: Any, job: Any, wildcards: Mapping[str, str], settings: Mapping[str, Any]
) -> Iterator[str]:
    """Yield the reasons why a job would run, most important first.

    If a job runs because of another job, Snakemake looks no further, so settings and files are compared here.
    """
    reason, records = workflow.dag.reason(job), workflow.persistence
    makers = _makers(workflow.dag, job)
    if records.params_changed(job):
        # Snakemake stores parameters as Python literals.
        before = [_settings(ast.literal_eval(text)) for text in records.params(job.output[0]) or []]
        yield from changed_keys(config, wildcards, next(filter(None, before), {}), settings)
    made = {file for files in makers.values() for file in files}
    if changed := {*reason.updated_input, *_changed_files(records, job)} - made:
        yield f"{in_short(changed)} changed"
    if reason.input_changed:
        yield from _other_inputs(records.input(job.output[0]) or [], job.input)
    if reason.code_changed:
        yield "the rule's command changed"
    if reason.software_stack_changed:
        yield "its environment changed"
    if reason.incomplete_output:
        yield "was interrupted"
    elif reason.missing_output:
        yield "its output is gone" if records.metadata(job.output[0]) else "new"
        return
    implied = {earlier for maker in makers for earlier in workflow.dag.dependencies[maker]}
    if rules := {maker.rule.name for maker in makers if maker not in implied}:
        yield f"after {', '.join(sorted(rules))}"


def _makers(dag: Any, job: Any) -> dict[Any, Any]:
    """Return the jobs that would run and make inputs of a job, and which inputs they make."""
    return {maker: files for maker, files in dag.dependencies[job].items() if dag.needrun(maker)}


def _changed_files(records: Any, job: Any) -> set[str]:
    """Return the inputs of a job that changed since it ran; Snakemake stores the digests of small files."""
    record = records.metadata(job.output[0])
    before = (record and record.input_checksums) or {}
    known = {file for file in map(str, job.input) if file in before and Path(file).is_file()}
    return {file for file in known if before[file].removeprefix("sha256:") != _digest(file)}


@functools.cache
def _digest(file: str) -> str:
    return digest(Path(file))


def _other_inputs(before: Iterable[str], now: Iterable[str]) -> Iterator[str]:
    """Name the files that are new among a job's inputs, and those that are gone."""
    old, new = set(map(str, before)), set(map(str, now))
    if new - old:
        yield f"also reads {in_short(new - old)}"
    if old - new:
        yield f"no longer reads {in_short(old - new)}"


def in_short(files: Iterable[str]) -> str:
    """Name two files, and count the others."""
    names = sorted(map(str, files))
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def changed_keys(
    config: Config, wildcards: Mapping[str, str], before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[str]:
    """Name the keys of the configuration that changed for a job, with their values before and now.

    Parameters
    ----------
    config : Config
        The study.
    wildcards : mapping
        Wildcards of the job: the dataset, network and attack of its settings.
    before, now : mapping
        The job's settings when it ran, and now.

    Yields
    ------
    str
        ``attacks.de.generations: 4 → 5``; after a few keys, the number of further ones.
    """
    found = list(_differences((), before, now)) if before else []
    if not found:
        yield "its parameters changed"
    found.sort(key=lambda difference: (difference[0][-1] not in KINDS, ABSENT in difference[1:]))
    for path, old, new in found[:MOST_KEYS]:
        yield f"{_key(config, wildcards, path)}: {old} → {new}"
    if len(found) > MOST_KEYS:
        yield f"{len(found) - MOST_KEYS} more keys"


def _differences(path: tuple[str, ...], before: Any, now: Any) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Compare two settings; yield path, value before and value now of each difference."""
    if isinstance(before, list) and isinstance(now, list) and path[-1:] == ("runs",) and len(before) == len(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences((*path, str(key)), before.get(key, ...), now.get(key, ...))
    elif before != now:
        yield path, _shown(path, before), _shown(path, now)


def _shown(path: tuple[str, ...], value: Any) -> str:
    if value is ...:
        return ABSENT
    if path[-1] == "image_ids":
        return _ranges(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _ranges(ids: Sequence[int]) -> str:
    """Write ids as a short text: 0-3, 7."""
    parts: list[list[int]] = []
    for image_id in sorted(ids):
        if parts and image_id == parts[-1][-1] + 1:
            parts[-1][1:] = [image_id]
        else:
            parts.append([image_id])
    text = ", ".join("-".join(map(str, part)) for part in parts)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _key(config: Config, wildcards: Mapping[str, str], path: tuple[str, ...]) -> str:
    """Return a setting's key as the configuration spells it."""
    first, *rest = path
    section = next((name for name, model in SECTIONS.items() if first in model.model_fields), None)
    if first in ("attack", "dataset", "network"):
        path = (f"{first}s", wildcards.get(first, ABSENT), *rest)
    elif first == "image_ids":
        path = (*_run(config, wildcards), "images")
    elif first == "existing":
        path = ("existing_cifar10",)
    elif first == "downloads":
        path = ("data",)
    elif first not in Config.model_fields and section:
        path = (section, *path)
    return ".".join(path)


def _run(config: Config, wildcards: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys of the run that a job belongs to; just `runs` if there are several."""
    indices = [
        index
        for index, run in enumerate(config.runs)
        if run.dataset == wildcards.get("dataset")
        and wildcards.get("network") in run.networks
        and wildcards.get("attack", run.attacks[0]) in run.attacks
    ]
    return ("runs", str(indices[0])) if len(indices) == 1 else ("runs",)


def estimates(config: Config, workflow: Workflow, trial: bool = True) -> Iterator[Estimate]:
    """Count the candidates that attacks would evaluate.

    Parameters
    ----------
    config : Config
        The study.
    workflow : Workflow
        What would run.
    trial : bool
        Measure the speed of the networks that would be attacked, each in its own process.

    Yields
    ------
    Estimate
        For each dataset, network and attack, in the order of the runs.
    """
    tried: dict[tuple[str, str], CheckedPair] = {}
    for run in [(r.dataset, network, attack) for r in config.runs for network in r.networks for attack in r.attacks]:
        pair, jobs = run[:2], [job for job in workflow.jobs if job.rule == ATTACK and job.run == run]
        if trial and pair not in tried and any(job.why for job in jobs):
            tried[pair] = check_pair(config, *pair, sample=1, threads=max(job.threads for job in jobs))
        yield estimate(config, run, jobs, tried.get(pair, CheckedPair(*pair)))


def estimate(config: Config, run: Run, jobs: Sequence[Job], tried: CheckedPair) -> Estimate:
    """Count the candidates of one run, from its jobs and from a trial of its network."""
    if not jobs:
        why = f"{' × '.join(run)}: a rule will choose the images when the dataset has been fetched"
        return Estimate(run, unknown=why)
    images, of = (sum(len(job.settings["image_ids"]) for job in jobs if job.why or every) for every in (False, True))
    if not images:
        return Estimate(run, 0, of, passes=0)
    shape, classes = known(config, run[0]) or (tried.shape, tried.classes)
    each = passes_per_image(config, run, shape, classes)
    passes = None if each is None else images * each
    missing = tried.fault or (f"to be fetched: {'; '.join(tried.fetches)}" if tried.fetches else "")
    is_told = bool(missing) and None in (passes, tried.passes)
    unknown = f"{' × '.join(run[:2])}: {missing}" if is_told else ""
    return Estimate(run, images, of, passes, tried.passes, unknown, *_cut(config, run, shape))


def wall_time(workflow: Workflow, estimates: Sequence[Estimate]) -> float | None:
    """Return the seconds that all attacks take at most, with as many jobs at once as possible; None if not known."""
    lengths: list[float] = []
    for run in estimates:
        if run.seconds is None or run.images is None:
            return None
        jobs = [job for job in workflow.to_run(ATTACK) if job.run == run.run]
        lengths += [run.seconds * len(job.settings["image_ids"]) / run.images for job in jobs]
    ends = [0.0] * workflow.at_once
    for length in sorted(lengths, reverse=True):  # the longest first, each where there is room first
        ends[ends.index(min(ends))] += length
    return max(ends)


def passes_per_image(config: Config, run: Run, shape: tuple[int, int, int] | None, classes: int | None) -> int | None:
    """Return how many candidates all attacks on an image evaluate at most; None if shape or classes are missing."""
    from onepix.attacks.attack import budget

    settings = config.attacks[run[2]]
    attacks = 1 if settings.target != "all" else classes and classes - 1
    if attacks is None or (isinstance(settings, Scan) and shape is None):
        return None
    return attacks * budget(settings, shape or (0, 0, 0))


def _cut(config: Config, run: Run, shape: tuple[int, int, int] | None) -> tuple[int | None, int | None]:
    """Return the budget of an attack, and its candidates without it, if these are known and more than the budget."""
    from onepix.attacks.attack import budget

    settings = config.attacks[run[2]]
    if settings.budget is None or isinstance(settings, RandomSearch) or (isinstance(settings, Scan) and shape is None):
        return None, None
    whole = budget(settings.model_copy(update={"budget": None}), shape or (0, 0, 0))
    return (settings.budget, whole) if settings.budget < whole else (None, None)
