"""Users' mistakes end in one clear message, and leave earlier results whole."""

import json

import pytest
from inside import failure_inside, job_inside, run_inside

from onepix.files.manifests import checked_data, digest


def told(run, message):
    """Check that a command failed with this one line, and no traceback."""
    status, said = run
    assert status == 1
    assert "Traceback" not in said
    assert message in said
    assert len(said.strip().splitlines()) == 1, said


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["networks", "lenet", "wieghts"],
            "x",
            "study.yaml:14: networks.lenet: unknown key 'wieghts'; did you mean 'weights'?",
        ),
        (
            ["attacks", "de", "population"],
            1,
            "attacks.de.population: Input should be greater than or equal to 4, got 1",
        ),
        (["runs", 0, "networks"], ["lennet"], "runs.0.networks: 'lennet' is unknown; did you mean 'lenet'?"),
        (["runs", 0, "dataset"], "samples", "runs.0.dataset: 'samples' is unknown; did you mean 'sample'?"),
    ],
)
def test_a_mistake_in_the_configuration_stops_before_anything_runs(finished_study, path, value, message):
    run = finished_study.snakemake(config=finished_study.changed(*path, to=value))
    assert run.returncode == 1
    assert message in run.stdout
    assert "Traceback" not in run.stdout
    assert len(run.stdout.strip().splitlines()) == 2, run.stdout  # the profile in use, and the mistake


CHUNK = "results/sample/lenet/de/attack/000000-000003"


def attack_job(**changes):
    job = {"attack": {"population": 4, "generations": 0}, "image_ids": list(range(8)), "engine": {}, **changes}
    return [
        *("attack", "--settings", json.dumps(job)),
        *("--dataset", "data/datasets/sample/manifest.json"),
        *("--network", "data/networks/lenet/manifest.json"),
        *("--output", "other/000000-000003.json"),
    ]


def test_image_ids_outside_the_set(finished_study):
    told(
        job_inside(finished_study, *attack_job(image_ids=[99, 100])),
        "image ids: 100 is not in the set, which holds 100 images with ids 0–99",
    )
    assert not (finished_study.folder / "other").exists()


def test_settings_that_are_no_json(finished_study):
    arguments = attack_job()
    arguments[2] = "{"
    told(job_inside(finished_study, *arguments), "--settings: not JSON")


def test_records_truncated_on_disk(study_copy):
    """The next stage refuses them, says how to mend it, and the mend works; other results stay as they were."""
    data = study_copy.folder / f"{CHUNK}.parquet"
    untouched = study_copy.folder / "results/sample/lenet/de/attack/000004-000007.json"
    before = digest(data), digest(untouched), digest(checked_data(untouched))
    data.write_bytes(data.read_bytes()[:-100])
    config = study_copy.changed("propagation", "layers", to=["*conv*"])
    next_stage = f"{CHUNK}.json".replace("attack", "propagation")
    said = failure_inside(study_copy, next_stage, config=config)
    assert f"onepix: {CHUNK}.parquet: truncated or altered" in said
    assert f"delete {CHUNK}.json and run the workflow again" in said
    assert "Traceback" not in said
    (study_copy.folder / f"{CHUNK}.json").unlink()
    run_inside(study_copy, next_stage, config=config)
    assert (digest(data), digest(untouched), digest(checked_data(untouched))) == before


def test_weights_that_are_missing_or_truncated(finished_study, tmp_path):
    network = {"architecture": "lenet", "weights": str(tmp_path / "mine.safetensors")}
    output = str(tmp_path / "n/manifest.json")
    command = ["networks", "--settings", json.dumps({"network": network}), "--output", output]
    missing = "mine.safetensors: No such file or directory; expected safetensors, a torch checkpoint or Keras 2 HDF5"
    told(job_inside(finished_study, *command), missing)
    whole = (finished_study.folder / "onepix/assets/lenet.safetensors").read_bytes()
    (tmp_path / "mine.safetensors").write_bytes(whole[:1000])
    told(job_inside(finished_study, *command), "mine.safetensors: not a whole safetensors file")
    assert not list(tmp_path.rglob("manifest.json"))
