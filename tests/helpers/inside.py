"""Snakemake in this process: what it plans, and its jobs, each of which takes less time than loading PyTorch anew.

Only the start of a process is left out. Snakemake plans, runs, checks and records as it always does, and each job's own
command is read and carried out. A test holds what comes out against what processes of their own make.
"""

import contextlib
import io
import os
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import traceback
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from snakemake.api import SnakemakeApi
from snakemake.cli import parse_config
from snakemake.exceptions import WorkflowError
from snakemake.scheduling.greedy import SchedulerSettings
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    Quietness,
    ResourceSettings,
    SchedulingSettings,
)
from snakemake.workflow import Workflow
from studies import Study

import onepix

PREFIX = "set -euo pipefail; "
ONE_AT_A_TIME = threading.Lock()  # what jobs say goes where sys.stdout and sys.stderr lead, and these are all threads'


class Job:
    """In place of a process: runs `python -m MODULE ARGUMENTS 2>&1 | tee LOG` at once, and has ended."""

    stdout = None

    def __init__(self, command: str, *, env: dict[str, str], **_: Any) -> None:
        assert command.startswith(PREFIX), command
        _, option, module, *arguments, joined, pipe, tee, log = shlex.split(command.removeprefix(PREFIX))
        assert (option, joined, pipe, tee) == ("-m", "2>&1", "|", "tee"), command
        with ONE_AT_A_TIME:
            self.returncode, said = called(module, arguments, env)
        Path(log).write_text(said)

    def wait(self) -> int:
        return self.returncode


def called(
    module: str, arguments: list[str], env: dict[str, str], errors: io.StringIO | None = None
) -> tuple[int, str]:
    """Run a module as `python -m` does; return its exit status and what it said: `errors` apart, if they are wanted."""
    said, known = io.StringIO(), set(sys.modules)
    errors = said if errors is None else errors
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))  # of this thread, which is the job's own
    with (
        environment(env),
        mock.patch.object(sys, "argv", [module, *arguments]),
        mock.patch.object(sys, "path", [str(Path.cwd()), *sys.path]),
        mock.patch.object(signal, "signal"),  # only the main thread may
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(errors),
    ):
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                errors.write(f"{end.code}\n")
            return (end.code if isinstance(end.code, int) else int(end.code is not None)), said.getvalue()
        except Exception:
            errors.write(traceback.format_exc())
            return 1, said.getvalue()
        finally:  # another study may have other modules of the same names
            for name in set(sys.modules) - known:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(f"{Path.cwd()}/"):
                    del sys.modules[name]
    return 0, said.getvalue()


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set some variables and take that back; others are never gone meanwhile, as Snakemake's own thread reads them."""
    before = {name: os.environ.get(name) for name, value in values.items() if os.environ.get(name) != value}
    os.environ.update({name: values[name] for name in before})
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        for name, value in before.items():
            if value is None:
                del os.environ[name]


@contextlib.contextmanager
def opened(
    folder: Path,
    config: dict[str, Any] | str | None,
    options: Sequence[str] = (),
    snakefile: str = "Snakefile",
    replace: bool = False,
    **resources: Any,
) -> Iterator[Workflow]:
    """Give Snakemake's workflow when it has read the Snakefile.

    Without `config` it reads its own file. `options` are values of `--config`; `replace`: of them alone.
    """
    file = folder / "study.yaml"
    if config is not None:
        file.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
    settings = ConfigSettings(
        configfiles=[] if config is None else [file],
        config=parse_config(options),
        config_args=list(options),
        replace_workflow_config=replace,
    )
    limits = ResourceSettings(**{"cores": 2, **resources})
    with SnakemakeApi(OutputSettings(quiet=frozenset({Quietness.ALL}), enable_file_logging=False)) as api:
        yield api.workflow(limits, settings, snakefile=folder / snakefile, workdir=folder)._workflow


@contextlib.contextmanager
def workflow(
    folder: Path,
    config: dict[str, Any] | str,
    *targets: str,
    executor: str = "dryrun",
    everything: bool = False,
) -> Iterator[Workflow]:
    """Give Snakemake's workflow after a dry run, touching all outputs, or all jobs; `config` may be text."""
    file = folder / "study.yaml"
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
    output = OutputSettings(
        dryrun=executor == "dryrun",
        quiet=frozenset({Quietness.ALL}),
        show_failed_logs=True,
        enable_file_logging=False,
    )
    # The rules' inputs are the modules of the onepix that is imported; here, they must be the study's own.
    with mock.patch.object(onepix, "__file__", str(folder / "onepix" / "__init__.py")), SnakemakeApi(output) as api:
        settings = ConfigSettings(configfiles=[file])
        of_study = api.workflow(ResourceSettings(cores=2), settings, snakefile=folder / "Snakefile", workdir=folder)
        dag = of_study.dag(DAGSettings(targets=frozenset(targets), forceall=everything))
        # The other scheduler is a program of its own: to start one while a job's thread sets its environment may fail.
        scheduler = {
            "scheduling_settings": SchedulingSettings(scheduler="greedy"),
            "scheduler_settings": SchedulerSettings(),
        }
        dag.execute_workflow(executor=executor, **scheduler)
        yield of_study._workflow


def plan(folder: Path, config: dict[str, Any] | str, *targets: str) -> dict[str, int]:
    """Return how many jobs of each rule Snakemake would run."""
    with workflow(folder, config, *targets) as planned:
        return dict(Counter(job.rule.name for job in planned.dag.needrun_jobs(exclude_finished=False)))


def pretend(folder: Path, config: dict[str, Any], *targets: str) -> None:
    """Put something in the place of all results, and have Snakemake take it for them."""
    with workflow(folder, config, *targets) as planned:
        outputs = [folder / output for job in planned.dag.jobs for output in job.output]
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        if not output.exists():
            output.write_text(output.name)
    with workflow(folder, config, *targets, executor="touch", everything=True):
        pass


def job_inside(study: Study, *arguments: str) -> tuple[int, str]:
    """Run a job as `python -m onepix.jobs` in the study's folder; return its exit status and what it said."""
    with contextlib.chdir(study.folder):
        return called("onepix.jobs", list(arguments), {"OMP_NUM_THREADS": "1"})


def command_inside(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m onepix` in a study's folder, as `Study.command` does with a process of its own."""
    errors = io.StringIO()
    library = mock.patch.object(onepix, "__file__", str(folder / "onepix" / "__init__.py"))
    with contextlib.chdir(folder), library:
        status, said = called("onepix", list(arguments), {"OMP_NUM_THREADS": "1"}, errors)
    return subprocess.CompletedProcess(arguments, status, said, errors.getvalue())


def failure_inside(study: Study, *targets: str, config: dict[str, Any] | None = None) -> str:
    """Run Snakemake, one job of which fails; return what that one said."""
    for log in (study.folder / "logs").rglob("*.log"):
        log.unlink()
    with pytest.raises(WorkflowError):
        run_inside(study, *targets, config=config)
    (said,) = (text for log in (study.folder / "logs").rglob("*.log") if "onepix: " in (text := log.read_text()))
    return said


def run_inside(study: Study, *targets: str, config: dict[str, Any] | None = None) -> None:
    """Run Snakemake as `study.snakemake` does, or raise what Snakemake raises; jobs leave their logs."""
    processes = types.SimpleNamespace(**{**vars(subprocess), "Popen": Job})
    with (
        mock.patch.object(sys.modules["snakemake.shell"], "sp", processes),
        workflow(study.folder, study.CONFIG if config is None else config, *targets, executor="local"),
    ):
        pass
