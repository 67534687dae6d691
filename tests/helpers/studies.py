"""A folder with the workflow, the library and a small configuration, in which Snakemake is run."""

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import yaml

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "models"
NETWORK_RULES = {"attack", "propagation", "locality", "controls", "receptive_fields", "transfer"}


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

    def command(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m MODULE ARGUMENTS` in the study's folder."""
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, cwd=self.folder, text=True, capture_output=True, check=False)

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
