"""Networks whose answer is known by hand, small sets of images, and where optional data lie."""

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from onepix.images import ImageSet
from onepix.networks.classifier import Classifier

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT.parent / "shared" / "models"
NETWORK_RULES = {"attack", "propagate", "locality", "propagate_controls", "find_receptive_fields", "transfer"}
# Small jobs spend their time on starting PyTorch, which two at once do sooner than two in turn. Manifests state the
# threads, so a study that is compared with `finished_study` keeps the rules' own.
ONE_THREAD = ("--set-threads", *(f"{rule}=1" for rule in sorted(NETWORK_RULES)))


def pytest_configure() -> None:
    """Hide a SLURM that does not answer: its plugin would wait nine seconds for it whenever Snakemake starts."""
    if shutil.which("scontrol") and subprocess.run(["scontrol", "ping"], check=False, capture_output=True).returncode:
        os.environ["SLURM_CONF"] = os.devnull


class PixelRule(nn.Module):
    """Two classes; class 1 where `margin(images)` is positive. Images are 0–255 again, (N, C, H, W)."""

    def __init__(self, margin: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, scaled: Tensor) -> Tensor:
        margin = self.margin((scaled * 255).round())
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


def rule(margin: Callable[[Tensor], Tensor], channels: int = 3) -> Classifier:
    """Wrap a rule on raw pixel values as a classifier."""
    return Classifier(PixelRule(margin), (0.0,) * channels, (1.0,) * channels).eval()


def blank(count: int, height: int, width: int, channels: int = 3, value: int = 0, label: int = 0) -> ImageSet:
    """Return images of one colour, of class 0 unless told otherwise."""
    images = np.full((count, height, width, channels), value, np.uint8)
    return ImageSet(images, np.full(count, label, np.int64), np.arange(count), ("zero", "one"), "made by a test")


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


class Study:
    """A folder with the workflow, the library and a small configuration, in which Snakemake is run."""

    CONFIG: ClassVar[dict[str, Any]] = {
        "datasets": {"sample": {"source": "bundled"}},
        "networks": {"lenet": {"architecture": "lenet"}, "resnet20": {"architecture": "resnet20"}},
        "attacks": {"de": {"population": 200, "generations": 4}},
        "runs": [
            {"dataset": "sample", "networks": ["lenet"], "attacks": ["de"], "images": "0-7"},
            {"dataset": "sample", "networks": ["resnet20"], "attacks": ["de"], "images": "0-3"},
        ],
        "images_per_job": 4,
        "statistics": {"resamples": 200},
        "figures": {"dpi": 80},
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def snakemake(self, *arguments: str, config: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with a configuration; its output is in `stdout`, errors included."""
        (self.folder / "study.yaml").write_text(yaml.safe_dump(self.CONFIG if config is None else config))
        command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "2"]
        options = ["--configfile", "study.yaml", "--workflow-profile", "workflow/profiles/default"]
        return subprocess.run(
            command + options,
            cwd=self.folder,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def plan(self, config: dict[str, Any] | None = None) -> dict[str, int]:
        """Return how many jobs of each rule Snakemake would run."""
        run = self.snakemake("--dry-run", config=config)
        assert run.returncode == 0, run.stdout
        table = run.stdout.partition("Job stats:")[2].partition("total")[0]
        return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}

    def changed(self, *path: Any, to: Any) -> dict[str, Any]:
        """Return the configuration with one value changed."""
        config = copy.deepcopy(self.CONFIG)
        target = config
        for key in path[:-1]:
            target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
        target[path[-1]] = to
        return config


def new_study(folder: Path) -> Study:
    """Make a folder with the workflow and the library."""
    folder.mkdir()
    for name in ("workflow", "onepix", "config"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy2(ROOT / name, folder / name)
    return Study(folder)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Run the small study once, for real. Tests must leave it as it was; see `study_copy`."""
    study = new_study(tmp_path_factory.mktemp("finished") / "study")
    run = study.snakemake()
    assert run.returncode == 0, run.stdout
    return study


@pytest.fixture
def study_copy(finished_study: Study, tmp_path: Path) -> Study:
    """Return a copy of the finished study, to be changed at will."""
    shutil.copytree(finished_study.folder, tmp_path / "study")
    return Study(tmp_path / "study")
