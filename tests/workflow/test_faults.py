"""Jobs that are killed at random moments, preempted, or out of disk: what comes out in the end is what would have."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

RUN = Path("results/sample/lenet/de")
CHUNK = "000000-000003"
BUSY = {"population": 200, "generations": 25}  # seconds of work
PATIENCE = 300  # seconds within which something must happen that does not depend on chance
PAGE = os.sysconf("SC_PAGE_SIZE")


def attack_job(output, attack=BUSY, ids=range(12)):
    job = {"attack": attack, "image_ids": list(ids), "engine": {"micro_batch": 32}}
    return [
        *("attack", "--settings", json.dumps(job), "--output", str(output)),
        *("--dataset", "data/datasets/sample/manifest.json"),
        *("--network", "data/networks/lenet/manifest.json"),
    ]


def again(study, stage, output):
    """Return the command that makes a chunk of the finished study again."""
    manifest = json.loads((study.folder / RUN / stage / f"{CHUNK}.json").read_text())
    inputs = {
        "dataset": "data/datasets/sample/manifest.json",
        "network": "data/networks/lenet/manifest.json",
        "attack": f"{RUN}/attack/{CHUNK}.json",
        "locality": f"{RUN}/locality/{CHUNK}.json",
    }
    given = [word for name in manifest["inputs"] for word in (f"--{name}", inputs[name])]
    return [stage, "--settings", json.dumps(manifest["settings"]), *given, "--output", str(output)]


def summary_job(study, output):
    settings = {"dataset": "sample", "network": "lenet", "attack": "de", "statistics": {"resamples": 200}}
    stages = ("attack", "propagation", "locality", "controls")
    manifests = [path for stage in stages for path in sorted((study.folder / RUN / stage).glob("*.json"))]
    return ["summary", "--settings", json.dumps(settings), "--output", str(output), *map(str, manifests)]


def tables_job(study, output):
    tables = sorted(study.folder.glob("results/sample/*/de/summary/layers.csv"))
    return ["tables", "--output", str(output), *map(str, tables)]


def start(study, command, log):
    """Start a job; what it says goes into a file."""
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in the finished study: manifests state them
    with log.open("w") as said:
        job = [sys.executable, "-m", "onepix.jobs", *command]
        return subprocess.Popen(job, cwd=study.folder, stderr=said, env=threads)


def finished(study, command, log):
    """Run a job to its end; return its exit status and what it said."""
    return start(study, command, log).wait(PATIENCE), log.read_text()


def contents(*folders):
    """Return all that lies in folders, hidden things too: names, and the bytes of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for folder in folders
        for path in sorted(folder.rglob("*"))
    }


def entries(folder):
    """Return the journal's entries, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("journal/*/*.npz")}


def wait_for(something):
    """Wait until there is something, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := something()):
        assert time.monotonic() < end
        time.sleep(0.002)
    return found


def kill(process):
    process.kill()
    process.wait()


def undisturbed(study, command, log):
    """Run a job to its end; return how many seconds that takes from its first line on."""
    job = start(study, command, log)
    wait_for(log.read_text)
    began = time.monotonic()
    assert job.wait(PATIENCE) == 0, log.read_text()
    return time.monotonic() - began


@pytest.mark.parametrize("most", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_an_attack_killed_at_random_moments(finished_study, tmp_path, most):
    """What is finished is not attacked again, and the last process's files are those of one that nobody killed."""
    plain, log, chance = tmp_path / "plain", tmp_path / "log", np.random.default_rng(most)
    seconds = undisturbed(finished_study, attack_job(plain / "attack/c.json"), log)
    kills = 0
    while kills < most:
        folder = tmp_path / f"disturbed-{kills}"
        command = attack_job(folder / "attack/c.json")
        job = start(finished_study, command, log)
        wait_for(lambda folder=folder: list(folder.glob("journal/*/*.npz")))
        kill(job)
        kills, more, status = kills + 1, most - 1, None
        while status is None:
            before = entries(folder)
            job = start(finished_study, command, log)
            wait_for(log.read_text)
            left = seconds * (1 - len(before) / 11)
            try:
                status = job.wait(chance.uniform(0, 0.7) * left if more else PATIENCE)
            except subprocess.TimeoutExpired:
                kill(job)
                kills, more = kills + 1, more - 1
                if not (folder / "attack/c.json").exists():
                    assert before.items() <= entries(folder).items(), "each was written once"
        said = log.read_text()
        assert status == 0, said
        assert said.count(f"attack lenet c: {len(before)} of 11 attacks are in the journal\n") == bool(before)
        assert contents(folder) == contents(plain)


@pytest.mark.parametrize(
    ("stage", "kills"),
    [
        ("propagation", 1),
        ("tables", 1),
        *(
            pytest.param(stage, kills, marks=pytest.mark.slow)
            for stage, kills in (("propagation", 3), ("locality", 2), ("controls", 2), ("summary", 4), ("tables", 5))
        ),
    ],
)
def test_a_stage_killed_at_random_moments(finished_study, tmp_path, stage, kills):
    """While it writes, and at any other moment; then it ends, with what Snakemake has made."""
    folder, log, chance = tmp_path / stage, tmp_path / "log", np.random.default_rng(kills)
    if stage == "summary":
        command, made = summary_job(finished_study, folder / "attacks.parquet"), RUN / "summary"
    elif stage == "tables":
        command, made = tables_job(finished_study, folder / "layers.csv"), Path("results/tables")
    else:
        command, made = again(finished_study, stage, folder / f"{CHUNK}.json"), RUN / stage
    began = time.monotonic()
    job = start(finished_study, command, log)
    wait_for(lambda: list(folder.glob(".*")) or job.poll() is not None)
    kill(job)
    seconds = time.monotonic() - began
    for _ in range(kills - 1):
        job = start(finished_study, command, log)
        time.sleep(chance.uniform(0.4, 1.1) * seconds)
        kill(job)
    status, said = finished(finished_study, command, log)
    assert status == 0, said
    expected = contents(finished_study.folder / made)
    wanted = {"tables": "layers.csv", "summary": ""}.get(stage, CHUNK)
    assert contents(folder) == {name: data for name, data in expected.items() if name.startswith(wanted)}


def test_a_job_that_is_preempted_says_so_and_goes_on(finished_study, tmp_path):
    log, command = tmp_path / "log", attack_job(tmp_path / "attack/c.json", {**BUSY, "generations": 10_000})
    job = start(finished_study, command, log)
    wait_for(lambda: list(tmp_path.glob("journal/*/*.npz")))
    job.send_signal(signal.SIGTERM)
    assert job.wait(PATIENCE) == 1
    said = log.read_text()
    assert said.endswith("onepix: stopped by SIGTERM\n")
    assert "Traceback" not in said
    assert not (tmp_path / "attack").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]
    count = len(entries(tmp_path))
    job = start(finished_study, command, log)
    wait_for(lambda: f"attack lenet c: {count} of 11 attacks are in the journal" in log.read_text())
    kill(job)


@pytest.mark.slow
def test_a_whole_workflow_killed_at_random_moments(study_copy):
    """Snakemake and all its jobs at once; it is unlocked and run again, and all outputs are as they were."""
    chance, folder = np.random.default_rng(4), study_copy.folder
    before = contents(folder / "results")
    for part in ("attack", "propagation", "locality", "controls", "summary"):
        shutil.rmtree(folder / RUN / part)
    targets = [f"{RUN}/summary/attacks.parquet", "results/tables/layers.csv"]
    (folder / targets[1]).unlink()
    command = [sys.executable, "-m", "snakemake", *targets, "--cores", "2", "--configfile", "study.yaml"]
    for done in (1, 4):
        log = (folder / "log").open("w")
        options = ["--workflow-profile", "workflow/profiles/default"]
        run = subprocess.Popen(
            command + options, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        wait_for(lambda done=done: len(list((folder / RUN).glob(f"*/{CHUNK[:3]}*.json"))) >= done)
        time.sleep(chance.uniform(0, 3))
        assert run.poll() is None, (folder / "log").read_text()
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        log.close()
        assert study_copy.snakemake("--unlock").returncode == 0
    (folder / "log").unlink()
    end = study_copy.snakemake(*targets)
    assert end.returncode == 0, end.stdout
    after = contents(folder / "results")
    assert {name for name in after if after[name] != before.get(name)} == set()
    assert before.keys() == after.keys()


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """Return a file system of 4 MB of its own, in memory; as root, or in a name space where one may mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield place
        subprocess.run(["umount", str(place)], check=True)
        return
    script = '"$@" && echo mounted && read line'
    try:
        holder = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", script, "sh", *mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("a small file system cannot be mounted here")
    if holder.stdout.readline() != "mounted\n":
        pytest.skip("a small file system cannot be mounted here")
    yield Path(f"/proc/{holder.pid}/root{place}")
    holder.communicate("\n")


@contextlib.contextmanager
def nearly_full(disk, pages):
    """Leave so many pages of memory on the disk."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(PAGE))
    assert os.statvfs(disk).f_bavail == 0
    os.truncate(ballast, ballast.stat().st_size // PAGE * PAGE - pages * PAGE)
    yield
    ballast.unlink()


def stops(study, command, log):
    """Check that a job ends in one line of its own, and return it."""
    status, said = finished(study, command, log)
    assert status == 1, said
    assert "Traceback" not in said
    assert said.count("onepix:") == 1
    return said.splitlines()[-1]


@pytest.mark.slow
def test_an_attack_on_a_full_disk(finished_study, tmp_path, small_disk):
    """There is no room for the first entry of the journal; then for it, but not for the records; then for all."""
    log, settings = tmp_path / "log", {"population": 20, "generations": 1}
    plain, command = (
        attack_job(folder / "attack/c.json", settings, [0]) for folder in (tmp_path / "plain", small_disk)
    )
    undisturbed(finished_study, plain, log)
    (small_disk / "attack").mkdir()
    for name, text in (("c.parquet", b"earlier records"), ("c.json", b"their manifest")):
        (small_disk / "attack" / name).write_bytes(text)
    earlier = contents(small_disk / "attack")
    with nearly_full(small_disk, 0):
        line = stops(finished_study, command, log)
        assert line.startswith(f"onepix: {small_disk}/journal/")
        assert line.endswith("/0-untargeted.npz: No space left on device")
        assert not entries(small_disk)
    with nearly_full(small_disk, 2):
        line = stops(finished_study, command, log)
        assert line == f"onepix: {small_disk}/attack/c.parquet: No space left on device"
        assert len(entries(small_disk)) == 1
    assert contents(small_disk / "attack") == earlier
    status, said = finished(finished_study, command, log)
    assert status == 0, said
    assert "1 of 1 attacks are in the journal" in said
    assert contents(small_disk) == contents(tmp_path / "plain")


@pytest.mark.slow
def test_maps_on_a_full_disk(finished_study, tmp_path, small_disk):
    """Earlier maps stay as they were, with their manifest."""
    log, output = tmp_path / "log", small_disk / "propagation" / f"{CHUNK}.json"
    command, maps = again(finished_study, "propagation", output), output.with_suffix(".zarr")
    source = finished_study.folder / RUN / "propagation"
    shutil.copytree(source / f"{CHUNK}.zarr", maps)
    shutil.copy(source / f"{CHUNK}.json", output)
    earlier = contents(output.parent)
    files = len([path for path in maps.rglob("*") if path.is_file()])
    with nearly_full(small_disk, files // 2):  # each takes a page at least
        assert stops(finished_study, command, log) == f"onepix: {maps}: No space left on device"
        assert contents(output.parent) == earlier
    shutil.rmtree(maps)
    status, said = finished(finished_study, command, log)
    assert status == 0, said
    assert contents(output.parent) == earlier


@pytest.mark.slow
def test_tables_on_a_full_disk(finished_study, tmp_path, small_disk):
    """Those that went on it are whole, and the one that did not is not there."""
    log, output = tmp_path / "log", small_disk / "summary/attacks.parquet"
    made = contents(finished_study.folder / RUN / "summary")
    with nearly_full(small_disk, 8):
        line = stops(finished_study, summary_job(finished_study, output), log)
        assert line.startswith(f"onepix: {small_disk}/summary/")
        assert line.endswith(".csv: No space left on device")
        there = contents(output.parent)
        assert there.items() < made.items()
        assert there
        assert line.partition("summary/")[2].partition(":")[0] not in there
    status, said = finished(finished_study, summary_job(finished_study, output), log)
    assert status == 0, said
    assert contents(output.parent) == made


def test_weights_on_a_full_disk(finished_study, tmp_path, small_disk):
    output, settings = small_disk / "lenet/manifest.json", json.dumps({"network": {"architecture": "lenet"}})
    command = ["networks", "--settings", settings, "--output", str(output)]
    with nearly_full(small_disk, 4):
        line = stops(finished_study, command, tmp_path / "log")
        assert line == f"onepix: {small_disk}/lenet/weights.safetensors: No space left on device"
        assert contents(output.parent) == {}
    status, said = finished(finished_study, command, tmp_path / "log")
    assert status == 0, said
    made = finished_study.folder / "data/networks/lenet/weights.safetensors"
    assert (output.parent / made.name).read_bytes() == made.read_bytes()
