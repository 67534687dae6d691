"""What all tests share: small sets of images, where optional data lie, and the study that is run once."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several that share the cores; read when NumPy and PyTorch are loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait leave the cores to those that work

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from studies import ROOT, Study, new_study

from onepix.images import ImageSet

# The fast tier tries few examples, the same each time; `pytest --hypothesis-profile=thorough` tries many, and new ones.
# No example has a deadline: how long one takes depends on what else the machine does.
settings.register_profile("fast", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile("fast")

pytest.register_assert_rewrite("drawing", "refusals", "small_sets", "windowed")


def pytest_configure() -> None:
    """Hide a SLURM that does not answer: its plugin would wait nine seconds for it whenever Snakemake starts."""
    if shutil.which("scontrol") and subprocess.run(["scontrol", "ping"], check=False, capture_output=True).returncode:
        os.environ["SLURM_CONF"] = os.devnull


# Which tests come first. One worker runs a study in processes of its own; meanwhile the others have tests that need
# none, and what is short comes last, so that all end together.
ORDER = ("workflow/test_end_to_end.py", "networks", "figures", "attacks", "engine", "workflow", "study", "jobs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs Snakemake, and put the files into order: each is for one worker, which makes its fixtures once."""

    def rank(item: pytest.Item) -> int:
        file = item.path.relative_to(ROOT / "tests")
        return min(ORDER.index(name) if name in ORDER else len(ORDER) for name in (file.as_posix(), file.parts[0]))

    for item in items:
        file = item.path.relative_to(ROOT / "tests")
        if "finished_study" in getattr(item, "fixturenames", ()) or file.parts[0] == "workflow":
            item.add_marker("workflow")
    items.sort(key=rank)


@pytest.fixture
def noise() -> ImageSet:
    """Nine random images that are not square."""
    generator = np.random.default_rng(5)
    images = generator.integers(0, 256, (9, 7, 5, 3)).astype(np.uint8)
    return ImageSet(images, generator.integers(0, 4, 9), np.arange(9) * 3, ("a", "b", "c", "d"), "made by a test")


@pytest.fixture(scope="session")
def official_cifar10() -> Path:
    """Return a folder with CIFAR-10's official binary files; without one, the test is skipped."""
    folder = os.environ.get("ONEPIX_CIFAR10")
    if not folder:
        pytest.skip("ONEPIX_CIFAR10 names no folder with CIFAR-10's official binary files")
    return Path(folder)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Study:
    """Run the small study once, its jobs in this process. Tests must leave it as it was; see `study_copy`.

    Of several workers, the first that needs it runs it, and each has a copy. What processes of their own make
    is held against it in workflow/test_end_to_end.py.
    """
    own = tmp_path_factory.mktemp("finished") / "study"
    if worker_id == "master":
        return finished(own)
    shared = tmp_path_factory.getbasetemp().parent / "finished"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            run = finished(shared.with_name("running"))
            run.folder.rename(shared)
    shutil.copytree(shared, own)
    return Study(own)


def finished(folder: Path) -> Study:
    from inside import run_inside  # which imports PyTorch and Snakemake

    study = new_study(folder)
    run_inside(study)
    return study


@pytest.fixture
def study_copy(finished_study: Study, tmp_path: Path) -> Study:
    """Return a copy of the finished study, to be changed at will."""
    shutil.copytree(finished_study.folder, tmp_path / "study")
    return Study(tmp_path / "study")
