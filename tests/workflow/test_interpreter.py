"""Which Python runs the jobs."""

import os
import shutil

from studies import new_study


def test_jobs_run_by_the_python_of_snakemake_whatever_python_is_on_the_path(tmp_path, monkeypatch):
    """As `.venv/bin/snakemake` does without an activated environment."""
    others = tmp_path / "bin"
    others.mkdir()
    (others / "python").write_text("#!/bin/sh\nexit 127\n")
    (others / "python").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(others), "/usr/bin", "/bin"]))
    assert shutil.which("python") == str(others / "python")
    study = new_study(tmp_path / "study")
    manifest = study.folder / "data/datasets/sample/manifest.json"
    run = study.snakemake(str(manifest.relative_to(study.folder)))
    assert run.returncode == 0, run.stdout
    assert manifest.exists()
