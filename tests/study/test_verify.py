"""`onepix verify`: whatever is wrong on disk is found, with the target that repairs it."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from inside import command_inside

from onepix.datasets.arrays import load_arrays
from onepix.errors import OnepixError
from onepix.files.manifests import digest
from onepix.files.records import read_records, write_records
from onepix.networks.weights import load_network_file
from onepix.study.verify import STAGES, verify

RUN = Path("results/sample/lenet/de")
CHUNK = "000000-000003"


@pytest.fixture
def faults(study_copy, monkeypatch):
    """Return what verifies the copy of the finished study: targets, relative to it, and what is said of each."""
    monkeypatch.chdir(study_copy.folder)

    def of_copy(**options):
        return {str(fault.target): fault.what for fault in verify(Path("results"), Path("data"), **options)}

    return of_copy


def rewrite(manifest, **changes):
    """Write a manifest that fits its data, with other facts."""
    facts = json.loads(manifest.read_text())
    facts |= {"sha256": digest(manifest.parent / facts["data"])} | changes
    manifest.write_text(json.dumps(facts))


def test_a_finished_study_is_whole(finished_study):
    done = finished_study.command("onepix", "verify", "results", "--sample", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "results: 3 chunks, all as they were written\n"


@pytest.mark.parametrize("stage", ["attack", "propagation", "locality", "controls"])
def test_a_flipped_bit(faults, stage):
    folder = RUN / stage
    data = max(
        (f for f in folder.rglob("*") if f.is_file() and CHUNK in str(f) and f.suffix != ".json"),
        key=lambda f: f.stat().st_size,
    )
    contents = bytearray(data.read_bytes())
    contents[len(contents) // 2] ^= 1
    data.write_bytes(contents)
    ((target, what),) = faults().items()
    assert target == str(folder / f"{CHUNK}.json")
    assert "truncated or altered" in what
    assert "\n" not in what


def test_a_missing_piece_of_a_store(faults):
    piece = next(f for f in sorted((RUN / "propagation" / f"{CHUNK}.zarr" / "000_conv1").rglob("*")) if f.name == "0")
    shutil.rmtree(piece) if piece.is_dir() else piece.unlink()
    assert list(faults()) == [str(RUN / "propagation" / f"{CHUNK}.json")]


@pytest.mark.parametrize("stage", ["attack", "propagation", "locality", "controls"])
def test_a_missing_chunk(faults, stage):
    (RUN / stage / f"{CHUNK}.json").unlink()
    ((target, what),) = faults().items()
    assert target == str(RUN / stage / f"{CHUNK}.json")
    assert "not found" in what


def test_what_belongs_to_no_chunk(faults):
    """Receptive fields are data like others; the configuration and the table of origins must be there."""
    gone = [Path("results/configuration.yaml"), Path("results/provenance.csv")]
    for path in gone:
        path.unlink()
    fields = Path("results/sample/lenet/receptive_fields.json")
    stored = max(fields.with_suffix(".zarr").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    stored.write_bytes(stored.read_bytes()[:-1])
    found = faults()
    assert set(found) == {str(path) for path in [*gone, fields]}
    assert "truncated or altered" in found[str(fields)]
    assert {found[str(path)] for path in gone} == {f"{path}: not found" for path in gone}


def test_receptive_fields_of_another_network(faults):
    fields = Path("results/sample/lenet/receptive_fields.json")
    facts = json.loads(fields.read_text())
    rewrite(fields, inputs=facts["inputs"] | {"network": "0" * 64})
    assert faults() == {
        str(fields): f"{fields}: made from another network than the one in data/networks/lenet/manifest.json"
    }


def test_everything_is_read_once(faults, monkeypatch):
    """Digests of large data take the time that verifying takes: one for each file, and each dataset is read once."""
    digested, loaded = Counter(), Counter()

    def counted(counter, function):
        def counting(path, *arguments):
            counter[str(path)] += 1
            return function(path, *arguments)

        return counting

    monkeypatch.setattr("onepix.files.manifests.digest", counted(digested, digest))
    monkeypatch.setattr("onepix.study.verify.load_arrays", counted(loaded, load_arrays))
    monkeypatch.setattr("onepix.study.verify.load_network_file", counted(loaded, load_network_file))
    assert faults() == {}
    data = [path for stage in STAGES for path in Path("results").glob(f"*/*/*/{stage}/*.*") if path.suffix != ".json"]
    assert {str(path) for path in data} <= digested.keys()
    assert len(data) == 12, "three chunks at four stages"
    assert set(digested.values()) == {1}
    networks = {f"data/networks/{name}/weights.safetensors": 1 for name in ("lenet", "resnet20")}
    assert loaded == {"data/datasets/sample/images.npz": 1, **networks}


def test_a_file_of_another_configuration(faults, study_copy):
    """The same chunk of a run with another seed: whole by itself, but not of this study."""
    job = json.loads((RUN / "attack" / f"{CHUNK}.json").read_text())["settings"]
    job["attack"]["seed"] = 5
    arguments = ["--dataset", "data/datasets/sample/manifest.json", "--network", "data/networks/lenet/manifest.json"]
    output = str(RUN / "attack" / f"{CHUNK}.json")
    done = study_copy.command("onepix.jobs", "attack", "--settings", json.dumps(job), *arguments, "--output", output)
    assert done.returncode == 0, done.stderr
    found = faults()
    assert found == {
        str(RUN / "propagation" / f"{CHUNK}.json"): f"{RUN}/propagation/{CHUNK}.json: made from another "
        f"attack than the one in {RUN}/attack/{CHUNK}.json"
    }


def test_a_chunk_made_with_other_settings(faults):
    """Of three chunks or more, the odd one is named."""
    manifest = RUN / "locality" / f"{CHUNK}.json"
    facts = json.loads(manifest.read_text())
    rewrite(manifest, settings=facts["settings"] | {"engine": {"device": "cuda"}})
    controls = RUN / "controls" / f"{CHUNK}.json"
    assert any("made with another 'engine'" in what for what in faults().values())
    assert controls.exists()


def test_a_network_that_was_exchanged(faults):
    manifest = Path("data/networks/lenet/manifest.json")
    weights = manifest.with_name("weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    found = faults()
    assert "truncated or altered" in found.pop(str(manifest))
    assert found == {}, "the results are as they were made"
    rewrite(manifest)
    assert {"made from another network" in what for what in faults().values()} == {True}


def tampered(change):
    manifest = RUN / "attack" / f"{CHUNK}.json"
    path = manifest.with_suffix(".parquet")
    records = change(read_records([path]))
    write_records(records, path)
    rewrite(manifest)
    return manifest


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r[r["image_id"] != 2], "holds 3 images (0, 1, 3), its manifest says 4 images (0, 1, 2, 3)"),
        (lambda r: pd.concat([r, r[r["image_id"] == 1]]), "holds image 1 twice"),
        (lambda r: r.assign(success=~r["success"]), "states successes that its classes contradict"),
        (lambda r: r.assign(adversarial_class=pd.NA), "lacks values of attacked images"),
    ],
)
def test_records_that_contradict_themselves(faults, change, told):
    manifest = tampered(change)
    assert told in faults()[str(manifest)]


def test_a_record_that_the_network_contradicts(faults):
    """A success's pixel becomes another, which flips nothing: only classifying the image again can tell."""

    def exchange(records):
        place = records.index[records["success"].fillna(False).astype(bool)][0]
        for name, value in (("values", [[128, 128, 128]]), ("rows", [0]), ("columns", [0])):
            changed = [value if index == place else kept for index, kept in records[name].items()]
            records[name] = pd.Series(changed, records.index, dtype=object)
        return records

    manifest = tampered(exchange)
    for stage in ("propagation", "locality"):  # else the change would show by the digests alone
        path = RUN / stage / f"{CHUNK}.json"
        inputs = json.loads(path.read_text())["inputs"]
        rewrite(path, inputs=inputs | {"attack": json.loads(manifest.read_text())["sha256"]})
    found = faults(sample=1000)
    assert "is classified as" in found[str(manifest)]
    assert len(found) == 1
    assert faults(sample=0) == {}


@pytest.mark.slow
def test_the_repair_that_is_named_repairs(study_copy):
    data = study_copy.folder / RUN / "attack" / f"{CHUNK}.parquet"
    before = data.read_bytes()
    data.write_bytes(before[:-1] + b"?")
    done = command_inside(study_copy.folder, "verify", "results")
    assert done.returncode == 1
    assert done.stderr == "onepix: results: 1 faults in 3 chunks\n"
    assert f"  to repair: snakemake --cores all --force {RUN}/attack/{CHUNK}.json" in done.stdout
    run = study_copy.snakemake("--force", f"{RUN}/attack/{CHUNK}.json")
    assert run.returncode == 0, run.stdout
    assert data.read_bytes() == before
    assert list(verify(study_copy.folder / "results", study_copy.folder / "data")) == []


def test_a_folder_without_results(tmp_path):
    with pytest.raises(OnepixError, match="no results; expected files such as DATASET/NETWORK/ATTACK/attack"):
        list(verify(tmp_path, tmp_path))
