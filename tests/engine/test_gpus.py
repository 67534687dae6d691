"""Which GPUs a process may use, that processes which run at once get one each, and threads. nvidia-smi is made up."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from onepix.engine import gpus
from onepix.engine.devices import choose_device, claimed_device
from onepix.errors import OnepixError

FIRST, SECOND, THIRD = "GPU-5d5ba0d6-d33d", "GPU-5d5bff00-0001", "GPU-91a2c4e6-7788"
PLAIN = [
    f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {FIRST})",
    f"GPU 1: NVIDIA A100-SXM4-40GB (UUID: {SECOND})",
    f"GPU 2: NVIDIA T4 (UUID: {THIRD})",
]
HALF, OTHER_HALF = "MIG-c6d4f1ef-42e4", "MIG-cba663e8-9bed"
DIVIDED = [
    PLAIN[0],
    f"  MIG 3g.20gb     Device  0: (UUID: {HALF})",
    f"  MIG 3g.20gb     Device  1: (UUID: {OTHER_HALF})",
    PLAIN[1],
]
HOLDER = """
import os, sys
from onepix.engine import gpus
print(gpus.claim(), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes this a machine with such an nvidia-smi; claims lie in a folder of the test."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # put back after the test, also where a claim changes it
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def with_gpus(lines, status=0):
        program = tmp_path / "bin" / "nvidia-smi"
        program.write_text("#!/bin/sh\ncat <<END\n" + "\n".join(lines) + f"\nEND\nexit {status}\n")
        program.chmod(0o755)

    yield with_gpus
    gpus.release()


@pytest.fixture
def holders():
    """Return a function that starts a process which claims a GPU and keeps it until its standard input ends."""
    started = []

    def start():
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        root = Path(gpus.__file__).parents[1]
        started.append(subprocess.Popen([sys.executable, "-c", HOLDER], text=True, cwd=root, **pipes))
        return started[-1]

    yield start
    for process in started:
        with process:  # closes its pipes and waits for it
            process.kill()


def claimed(process):
    """Return the CUDA_VISIBLE_DEVICES of a process once it has claimed a GPU."""
    has_one, name = process.stdout.readline().split()
    assert has_one == "True"
    return name


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, {FIRST: FIRST, SECOND: SECOND, THIRD: THIRD}),
        ("", {}),
        ("-1", {}),
        ("NoDevFiles", {}),
        ("2", {"2": THIRD}),
        ("2,0", {"2": THIRD, "0": FIRST}),
        (" 1 , 2", {"1": SECOND, "2": THIRD}),
        ("0,-1,1", {"0": FIRST}),
        ("0,3,1", {"0": FIRST}),  # there is no fourth
        ("1,1", {}),
        (f"{THIRD},{FIRST}", {THIRD: THIRD, FIRST: FIRST}),
        ("GPU-91", {"GPU-91": THIRD}),
        ("GPU-5d5b,GPU-91", {}),  # the first may be either of two
        (f"{SECOND},GPU-dead,{FIRST}", {SECOND: SECOND}),
        (f"{FIRST},0", {}),  # the same one twice
        ("91a2", {}),
    ],
)
def test_gpus_that_a_process_may_use(machine, monkeypatch, setting, expected):
    machine(PLAIN)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert gpus.visible() == expected
    assert list(gpus.visible()) == list(expected), "in the order of the setting"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, {HALF: HALF, OTHER_HALF: OTHER_HALF, SECOND: SECOND}),
        (OTHER_HALF, {OTHER_HALF: OTHER_HALF}),
        (f"{HALF},MIG-1", {HALF: HALF}),
        ("0,1", {"0": HALF, "1": SECOND}),  # CUDA takes the first part
        (FIRST, {}),  # nothing but its parts can be used
    ],
)
def test_gpus_that_are_divided(machine, monkeypatch, setting, expected):
    machine(DIVIDED)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert gpus.visible() == expected


def test_no_gpu_where_nvidia_smi_fails_or_is_missing(machine, monkeypatch):
    machine(["NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."], status=9)
    assert gpus.visible() == {}
    machine(PLAIN, status=15)
    assert gpus.visible() == {}
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # as some have it in their shell's start-up file
    assert gpus.visible() == {}
    assert gpus.claim() is False


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, None])
def test_two_get_one_each_and_the_third_waits_for_an_end(machine, holders, end):
    machine(PLAIN[:2])
    first, second = holders(), holders()
    names = [claimed(first), claimed(second)]
    assert set(names) == {FIRST, SECOND}
    third = holders()
    assert third.stderr.readline() == "onepix: other jobs use all 2 GPUs; waiting until one ends\n"
    if end is None:
        second.stdin.close()
    else:
        second.send_signal(end)
    assert claimed(third) == names[1]
    third.kill()
    assert third.stderr.read() == "", "it says so once"


def test_a_gpu_is_one_whatever_it_is_called(machine, holders, monkeypatch):
    machine(PLAIN)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    first = holders()
    assert claimed(first) == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{THIRD},1")
    assert claimed(holders()) == "1", "in the user's words: CUDA may count in another order than nvidia-smi"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-91")
    last = holders()
    assert last.stderr.readline() == "onepix: other jobs use the only GPU; waiting until one ends\n"
    first.kill()
    assert claimed(last) == "GPU-91"


def test_parts_of_a_gpu_are_claimed_singly(machine, holders):
    machine(DIVIDED[:3])
    assert {claimed(holders()), claimed(holders())} == {HALF, OTHER_HALF}


def test_a_process_claims_once(machine, holders, monkeypatch):
    machine(PLAIN[:2])
    assert gpus.claim()
    name = os.environ["CUDA_VISIBLE_DEVICES"]
    assert gpus.claim()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == name
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert {name, claimed(holders())} == {FIRST, SECOND}, "the other one was left free"


@pytest.fixture
def two_gpus(monkeypatch):
    """Make PyTorch believe in two GPUs, and return the list of those that it was told to use."""
    used = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    properties = [SimpleNamespace(uuid=uuid) for uuid in ("5d5ba0d6-d33d", "5d5bff00-0001")]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: properties[place])
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    return used


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_job_gets_the_gpu_that_it_claims(machine, holders, two_gpus, wanted):
    machine(PLAIN[:2])
    taken = claimed(holders())
    assert claimed_device(wanted) == "cuda"
    assert {taken, os.environ["CUDA_VISIBLE_DEVICES"]} == {FIRST, SECOND}
    assert two_gpus == [], "CUDA sees no other"


@pytest.mark.usefixtures("machine")
def test_a_job_gets_one_of_its_own_without_nvidia_smi(two_gpus, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert claimed_device("auto") == "cuda"
    holder = "import sys; from onepix.engine import gpus; print(gpus.claim_one(sys.argv[1:]), flush=True)"
    arguments = [sys.executable, "-c", holder, "5d5ba0d6-d33d", "5d5bff00-0001"]
    run = subprocess.run(arguments, text=True, capture_output=True, check=True, cwd=Path(gpus.__file__).parents[1])
    assert two_gpus == [0]
    assert run.stdout == "1\n"


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("wanted", ["cpu", "cuda:0", "cuda:1"])
def test_a_device_that_is_named_is_not_claimed(machine, holders, wanted):
    machine(PLAIN[:2])
    assert claimed_device(wanted) == wanted
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert {claimed(holders()), claimed(holders())} == {FIRST, SECOND}


def test_a_gpu_that_pytorch_cannot_use_is_left_to_others(machine, holders, monkeypatch):
    machine(PLAIN[:1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert claimed_device("auto") == "cpu"
    assert claimed(holders()) == "None"


@pytest.mark.usefixtures("two_gpus")
def test_library_calls_do_not_wait(machine, holders):
    machine(PLAIN[:1])
    claimed(holders())
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"


@pytest.mark.parametrize(("wanted", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there(monkeypatch, wanted, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(OnepixError, match=rf"^engine\.device: {wanted}, but PyTorch finds {count} GPUs"):
        choose_device(wanted)


COMMAND = """
from onepix.process import well_behaved

with well_behaved():
    import dask.config, pyarrow, zarr
    print(dask.config.get("num_workers", None), zarr.config.get("threading.max_workers"), pyarrow.cpu_count())
"""


@pytest.mark.parametrize(("threads", "expected"), [("3", "3 3 3"), (None, "None None")])
def test_a_command_keeps_to_its_threads(monkeypatch, threads, expected):
    for name in ("OMP_NUM_THREADS", "DASK_NUM_WORKERS", "ZARR_THREADING__MAX_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    root = Path(gpus.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", COMMAND], text=True, capture_output=True, check=True, cwd=root)
    assert run.stdout.startswith(expected)
