"""Jobs beside each other and beside other programs: threads and memory of each, and who waits how."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from inside import opened, workflow
from studies import NETWORK_RULES, ROOT, Study, new_study

from onepix.engine import gpus, machine
from onepix.process import well_behaved


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return new_study(tmp_path_factory.mktemp("calm") / "study")


@pytest.fixture(autouse=True)
def two_gigabytes_without_gpus(monkeypatch):
    monkeypatch.setattr(machine, "memory_mb", lambda: 2000)
    monkeypatch.setattr(gpus, "visible", dict)


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("nodes", [None, 5])
def test_a_job_that_runs_a_network_has_one_thread_on_any_machine(study, device, nodes):
    """So that its results, which state their threads, are the same on a workstation and a cluster."""
    config = study.changed("engine", "device", to=device)
    with opened(study.folder, config, nodes=nodes) as parsed:
        found = {rule.name: rule.resources["_cores"].value for rule in parsed.rules}
    assert {name for name, threads in found.items() if threads != 1} == {"training"}
    assert found["training"] == 2
    assert found.keys() > NETWORK_RULES


def limits(study, **settings):
    with opened(study.folder, study.CONFIG, **settings) as parsed:
        return {name: limit.value for name, limit in parsed.global_resources.items() if name in ("gpu", "mem_mb")}


def test_jobs_share_the_memory_and_the_gpus_of_this_machine(study, monkeypatch):
    assert limits(study) == {"mem_mb": 2000}
    monkeypatch.setattr(gpus, "visible", lambda: {"0": "GPU-0", "1": "GPU-1"})
    assert limits(study) == {"mem_mb": 2000, "gpu": 2}
    assert limits(study, resources={"mem_mb": 7000, "gpu": 1}) == {"mem_mb": 7000, "gpu": 1}, "the user's win"
    assert limits(study, nodes=5) == {}, "jobs run elsewhere"
    monkeypatch.setattr(machine, "memory_mb", lambda: None)
    assert limits(study) == {"gpu": 2}


def test_a_job_that_wants_more_memory_than_there_is_runs_alone(study):
    with workflow(study.folder, study.CONFIG) as planned:
        jobs = list(planned.dag.jobs)
    wanted = {job.rule.name: job.scheduler_resources.get("mem_mb") for job in jobs if job.output}
    assert {wanted[name] for name in NETWORK_RULES} == {2000}
    assert wanted["tables"] is None


@pytest.mark.parametrize("set_by_user", [None, "active"])
def test_commands_let_waiting_threads_sleep(monkeypatch, set_by_user):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if set_by_user:
        monkeypatch.setenv("OMP_WAIT_POLICY", set_by_user)
    with mock.patch.object(signal, "signal"), well_behaved():
        assert os.environ["OMP_WAIT_POLICY"] == (set_by_user or "passive")


@pytest.mark.slow
@pytest.mark.parametrize("set_by_user", [None, "active"])
@pytest.mark.parametrize(
    "command", [("onepix.jobs", "attack", "--help"), ("onepix", "evaluate", "none", "--cifar10", "x")]
)
def test_openmp_hears_of_it(command, set_by_user):
    """It looks at its settings once, when PyTorch is loaded, and then tells them."""
    given = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    given |= {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": set_by_user} if set_by_user else {})
    run = subprocess.run(
        [sys.executable, "-m", *command], text=True, capture_output=True, check=False, env=given, cwd=ROOT
    )
    assert f"OMP_WAIT_POLICY = '{(set_by_user or 'passive').upper()}'" in run.stderr


def test_the_memory_of_a_container(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(machine, "LIMITS", ())
    whole = machine.memory_mb()
    assert whole > 100
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "LIMITS", (tmp_path / "none", limit))
    for said, expected in (("max\n", whole), (f"{64 << 20}\n", 64), (f"{1 << 60}\n", whole)):
        limit.write_text(said)
        assert machine.memory_mb() == expected


def test_cores_that_other_programs_use(tmp_path, monkeypatch):
    """Of 90 ticks in half a second, this process used 30: others use 0.6 s in 0.5 s, or 1.2 cores."""
    ticks = os.sysconf("SC_CLK_TCK")
    stat, now = tmp_path / "stat", iter((10.0, 10.5))
    stat.write_text("cpu 100 20 30 4000 5 6 7\ncpu0 1 2 3\n")

    def later(_):
        stat.write_text(f"cpu {100 + ticks // 2} {20 + ticks // 5} {30 + ticks // 5} 9000 5 6 7\n")

    own = iter((mock.Mock(user=1.0, system=2.0), mock.Mock(user=1.2, system=2.1)))
    monkeypatch.setattr(machine, "STAT", stat)
    monkeypatch.setattr(machine, "os", mock.Mock(times=lambda: next(own), sysconf=os.sysconf))
    monkeypatch.setattr(machine, "time", mock.Mock(sleep=later, monotonic=lambda: next(now)))
    assert machine.busy_cores() == pytest.approx(1.2)
    monkeypatch.setattr(machine, "STAT", Path("/nowhere"))
    assert machine.busy_cores() is None
