"""The workflow on a real SLURM: same results, GPUs for those who need them, more memory on a retry, clear failures."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from studies import NETWORK_RULES, Study, new_study

from onepix.files.manifests import digest

pytestmark = pytest.mark.slow
CHUNK = "results/sample/lenet/de/attack/000000-000003"


def answer(*command: str) -> str:
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def partitions() -> dict[str, str]:
    """Return a partition without GPUs and one with, as the profile's site values."""
    if shutil.which("sbatch") is None:
        pytest.skip("no SLURM here: sbatch is not installed")
    try:
        listed = [line.split() for line in answer("sinfo", "-h", "-o", "%R %G").splitlines()]
    except subprocess.CalledProcessError:
        pytest.skip("SLURM is installed, but does not answer")
    found = {"gpu_partition" if "gpu:" in gres else "cpu_partition": name for name, gres in listed}
    if len(found) < 2:
        pytest.skip("this SLURM has no two partitions, with GPUs and without")
    return found


def prepare(study: Study, partitions: dict[str, str]) -> None:
    """Enter the site's values into the profile, as a user would."""
    profile = study.folder / "workflow/profiles/slurm/config.yaml"
    text = profile.read_text()
    for key, name in partitions.items():
        text, changed = re.subn(rf"(?m)^(  {key}:) \S+", rf"\1 {name}", text)
        assert changed == 1
    profile.write_text(text)


def command(*arguments: str) -> list[str]:
    """Return the command a user gives, but for the seconds until Snakemake first asks for its jobs."""
    options = ["--slurm-init-seconds-before-status-checks", "5"]
    profile = ["--profile", "workflow/profiles/slurm", "--configfile", "study.yaml"]
    return [sys.executable, "-m", "snakemake", *profile, *options, *arguments]


def submit(study: Study, *arguments: str, config: dict | None = None) -> subprocess.CompletedProcess[str]:
    (study.folder / "study.yaml").write_text(yaml.safe_dump(config or study.CONFIG))
    log = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command(*arguments), cwd=study.folder, text=True, check=False, **log)


def jobs_of(log: str) -> list[dict[str, str]]:
    """Return what SLURM knows of the jobs that a run of Snakemake submitted, in their order."""
    run_id = re.search(r"SLURM run ID: (\S+)", log)[1]
    listed = answer("squeue", "--states=all", "--name", run_id, "-h", "-o", "%i|%k|%P|%C|%m|%l").splitlines()
    keys = ("id", "comment", "partition", "cpus", "memory", "time")
    jobs = [dict(zip(keys, line.split("|"), strict=True)) for line in listed]
    for job in jobs:
        job["rule"] = re.match(r"rule_(.*?)(_wildcards_|$)", job["comment"])[1]
        job["gpus"] = re.search(r"TresPerJob=(\S+)|$", answer("scontrol", "show", "job", job["id"]))[1] or ""
    return sorted(jobs, key=lambda job: int(job["id"]))


@pytest.fixture(scope="module")
def submitted(tmp_path_factory, partitions) -> tuple[Study, str]:
    """Run the small study on SLURM; return it and Snakemake's log."""
    study = new_study(tmp_path_factory.mktemp("slurm") / "study")
    prepare(study, partitions)
    run = submit(study)
    assert run.returncode == 0, run.stdout
    return study, run.stdout


def test_results_equal_those_of_a_local_run(submitted, finished_study):
    def contents(folder: Path) -> dict[str, str]:
        files = [path for part in ("data", "results") for path in (folder / part).rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): digest(path) for path in files}

    assert contents(submitted[0].folder) == contents(finished_study.folder)


def test_jobs_ask_for_what_they_need(submitted, partitions):
    jobs = jobs_of(submitted[1])
    assert {job["rule"] for job in jobs} == NETWORK_RULES | {"summary", "figures", "sharing"}
    for job in jobs:
        network = job["rule"] in NETWORK_RULES
        assert job["partition"] == partitions["gpu_partition" if network else "cpu_partition"]
        assert job["gpus"].endswith("gpu:1") if network else job["gpus"] == ""
        assert job["cpus"] == "1"
    attack = next(job for job in jobs if job["rule"] == "attack")
    assert (attack["memory"], attack["time"]) == ("4000M", "2:00:00")


def test_a_second_submission_does_nothing(submitted):
    run = submit(submitted[0])
    assert run.returncode == 0, run.stdout
    assert "Nothing to be done" in run.stdout


@pytest.fixture
def copied(submitted, tmp_path) -> Study:
    shutil.copytree(submitted[0].folder, tmp_path / "study")
    return Study(tmp_path / "study")


def test_a_job_that_exceeds_its_memory_is_submitted_with_more(copied):
    rules = copied.folder / "workflow/rules/attack.smk"
    rules.write_text(rules.read_text().replace("growing(4000)", "growing(350)"))
    before = digest(copied.folder / f"{CHUNK}.parquet")
    run = submit(copied, "--force", f"{CHUNK}.json")
    assert run.returncode == 0, run.stdout
    jobs = jobs_of(run.stdout)
    assert len(jobs) > 1, "a job of 350 MB cannot load PyTorch"
    assert [job["memory"] for job in jobs] == ["350M", "700M", "1400M"][: len(jobs)]
    assert [job["time"] for job in jobs] == ["2:00:00", "4:00:00", "8:00:00"][: len(jobs)]
    assert digest(copied.folder / f"{CHUNK}.parquet") == before


def told(log: str, study: Study) -> tuple[str, str]:
    """Return what the two logs say that Snakemake's log names of a failed job: its own, and the scheduler's."""
    named = re.search(r"^    log: (logs/attack/\S+\.log), (\S*/logs/slurm/\S+\.log)", log, re.MULTILINE)
    assert named, log
    own, scheduler = ((study.folder / name).read_text() for name in named.groups())
    return own, scheduler


def test_a_job_that_fails_names_its_log(copied):
    config = copied.changed("attacks", "de", "target", to=12)
    run = submit(copied, "--retries", "0", f"{CHUNK}.json", config=config)
    assert run.returncode == 1
    assert re.search(r"SLURM-job '\d+' failed, SLURM status is: 'FAILED'", run.stdout)
    said, _ = told(run.stdout, copied)
    assert said == "onepix: target: 12 is not a class; the images have classes 0–9\n"
    assert said in run.stdout


def test_a_job_that_is_cancelled_names_its_log(copied):
    config = copied.changed("attacks", "de", "generations", to=100_000)
    (copied.folder / "study.yaml").write_text(yaml.safe_dump(config))
    log = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    arguments = command("--retries", "0", f"{CHUNK}.json")
    run = subprocess.Popen(arguments, cwd=copied.folder, text=True, **log)
    other = copied.folder / CHUNK.replace("000000-000003", "000004-000007.parquet")
    before = digest(other)
    own = copied.folder / "logs/attack/sample/lenet/de/000000-000003.log"
    earlier = own.read_text()
    lines = []
    for line in run.stdout:
        lines.append(line)
        if submitted := re.search(r"submitted with SLURM jobid (\d+)", line):
            while not (own.is_file() and own.read_text() not in ("", earlier)):  # the attack has begun
                assert run.poll() is None
                time.sleep(0.5)
            answer("scancel", submitted[1])
    text = "".join(lines)
    assert run.wait() == 1
    assert re.search(r"SLURM-job '\d+' failed, SLURM status is: 'CANCELLED'", text)
    said, scheduler = told(text, copied)
    assert "attack lenet 000000-000003:   0%" in said
    assert "CANCELLED AT" in scheduler
    assert digest(other) == before
