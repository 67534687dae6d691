"""How many jobs run at once: as many with a GPU as there are GPUs, each with its own; else as many as cores allow."""

import os
import subprocess
import sys

import pytest
import yaml
from studies import new_study

UUIDS = [f"GPU-{number}5d5ba0d6-d33d" for number in range(4)]
PROFILE = ["--workflow-profile", "workflow/profiles/default"]
SNAKEFILE = """
include: "workflow/rules/common.smk"

rule everything:
    default_target: True
    input:
        expand("done/{job}", job=range(4))

rule one:
    output:
        touch("done/{job}")
    threads: 2
    resources:
        gpu=GPU
    shell:
        "python job.py DEVICE TOGETHER"
"""
# A job ends when as many as ought to run together have come so far, itself among them.
JOB = """
import os, sys, time
from pathlib import Path
from onepix.engine import gpus

events, device, together = Path("events"), sys.argv[1], int(sys.argv[2])

def tell(what):
    with events.open("a") as opened:
        opened.write(f"{what} {os.getpid()}\\n")

def at_work():
    return [line.split()[-1] for line in events.read_text().splitlines() if line.startswith("works")]

tell("starts")
if device in ("auto", "cuda"):
    gpus.claim()
tell(f"works {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')} {os.environ['OMP_NUM_THREADS']}")
place = at_work().index(str(os.getpid()))
while len(at_work()) < (place // together + 1) * together:
    if Path("stopped").exists():
        sys.exit("the others did not come")
    time.sleep(0.02)
tell("ends")
"""


@pytest.mark.parametrize(
    ("count", "device", "options", "together"),
    [
        (2, "auto", ["--cores", "8"], 2),
        pytest.param(4, "auto", ["--cores", "8", "--resources", "gpu=2"], 2, marks=pytest.mark.slow),
        pytest.param(4, "cuda", ["--cores", "8", *PROFILE], 4, marks=pytest.mark.slow),
        pytest.param(4, "cuda:1", ["--cores", "8"], 1, marks=pytest.mark.slow),
        pytest.param(2, "cpu", ["--cores", "8"], 4, marks=pytest.mark.slow),
        pytest.param(0, "auto", ["--cores", "8"], 4, marks=pytest.mark.slow),
        (0, "auto", ["--cores", "4", *PROFILE], 2),
    ],
)
def test_so_many_jobs_run_at_once(tmp_path, monkeypatch, count, device, options, together):
    study = new_study(tmp_path / "study")
    nvidia_smi = tmp_path / "bin" / "nvidia-smi"
    nvidia_smi.parent.mkdir()
    listed = [f"echo 'GPU {number}: A100 (UUID: {uuid})'" for number, uuid in enumerate(UUIDS[:count])]
    nvidia_smi.write_text("\n".join(["#!/bin/sh", *listed, f"exit {0 if count else 9}", ""]))
    nvidia_smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nvidia_smi.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (study.folder / "Snakefile").write_text(SNAKEFILE.replace("DEVICE", device).replace("TOGETHER", str(together)))
    (study.folder / "job.py").write_text(JOB)
    (study.folder / "study.yaml").write_text(yaml.safe_dump({**study.CONFIG, "engine": {"device": device}}))
    try:
        run = subprocess.run(
            [sys.executable, "-m", "snakemake", "--configfile", "study.yaml", *options],
            cwd=study.folder,
            text=True,
            check=False,
            timeout=120,  # jobs that do not run together wait for each other
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    finally:
        (study.folder / "stopped").touch()
    assert run.returncode == 0, run.stdout
    claims = count and device in ("auto", "cuda")
    running, most, devices = {}, 0, set()
    for line in (study.folder / "events").read_text().splitlines():
        what, *facts, job = line.split()
        if what == "ends":
            del running[job]
            continue
        running[job] = facts[0] if facts else None
        most = max(most, len(running))
        held = [name for name in running.values() if name]
        if claims:
            assert len(set(held)) == len(held), "two jobs on one GPU"
        devices.update(held)
        assert facts[1:] in ([], ["2"]), "threads"
    assert most == together
    assert devices <= set(UUIDS[:count]) if claims else devices == {"all"}
