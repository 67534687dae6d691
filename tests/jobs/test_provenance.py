"""Every result can be traced: the manifests, and the table that is made of them."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from html_pages import HOSTILE, Page
from studies import ROOT

import onepix.jobs.inputs
from onepix.config.reading import canonical
from onepix.config.study import parse
from onepix.errors import OnepixError
from onepix.files.layout import STAGES
from onepix.files.manifests import source_digest
from onepix.jobs import provenance

TEXT = ("dataset", "network", "attack", "source_sha256", "cuda")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_table(path):
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))


def test_the_table_says_where_each_result_comes_from(finished_study):
    folder = finished_study.folder
    table = read_table(folder / "results/provenance.csv")
    counts = table.set_index(["result", "network"])[["chunks", "images"]]
    assert not counts.index.duplicated().any(), "all chunks of this study were made alike"
    assert counts.loc["attack"].to_dict("index") == {
        "lenet": {"chunks": 2, "images": 8},
        "resnet20": {"chunks": 1, "images": 4},
    }
    assert {"dataset", "network", "receptive fields", "propagation", "locality", "controls"} <= set(table["result"])
    assert table.loc[table["result"] == "dataset", "images"].tolist() == [100]
    of_stages = table[~table["result"].isin(["dataset", "network"])]
    assert set(of_stages["images_sha256"]) == {sha256(folder / "data/datasets/sample/images.npz")}
    for network, rows in table[table["network"].notna()].groupby("network"):
        assert set(rows["network_sha256"]) == {sha256(folder / f"data/networks/{network}/weights.safetensors")}
        assert set(rows["weights_sha256"]) == {sha256(folder / f"onepix/assets/{network}.safetensors")}
        assert set(rows["origin"]) == {"bundled"}
    assert set(table["torch"]) == {torch.__version__.partition("+")[0]}
    assert set(table["cuda"].dropna()) == ({torch.version.cuda} if torch.version.cuda else set())
    sources = table.groupby("result")["source_sha256"].agg(set)
    assert (sources.str.len() == 1).all(), "of the modules that make this result"
    settings = [json.loads(text) for text in table.loc[table["result"] == "attack", "settings"]]
    assert [part["attack"]["generations"] for part in settings] == [4, 4]
    assert not any("image_ids" in part for part in settings)


def manifests_of(study):
    fetched = (study.folder / "data").glob("*/*/manifest.json")
    return sorted([*fetched, *(study.folder / "results").glob("*/*/receptive_fields.json"), *chunks_of(study)])


def chunks_of(study):
    return [path for stage in STAGES for path in (study.folder / "results").glob(f"*/*/*/{stage}/*.json")]


def test_chunks_that_were_made_otherwise_have_a_row_of_their_own(study_copy, tmp_path):
    manifest = study_copy.folder / "results/sample/lenet/de/attack/000004-000007.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {"source": "0" * 64, "versions": facts["versions"] | {"zarr": "2.0"}}))
    provenance.run(manifests_of(study_copy), tmp_path / "table.csv")
    table = read_table(tmp_path / "table.csv")
    rows = table[(table["result"] == "attack") & (table["network"] == "lenet")]
    assert rows[["chunks", "images"]].to_numpy().tolist() == [[1, 4], [1, 4]]
    assert rows["source_sha256"].nunique() == 2
    assert "zarr 2.0" in rows["libraries"].iloc[1]


def test_the_page_runs_nothing(finished_study, tmp_path):
    """The report shows it; what it quotes is text, also where it looks like HTML."""
    assert (finished_study.folder / "results/provenance.html").is_file()
    facts = json.loads(manifests_of(finished_study)[0].read_text())
    other = tmp_path / "datasets" / HOSTILE.replace("/", "") / "manifest.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(facts | {"provenance": HOSTILE, "settings": {HOSTILE: HOSTILE}}))
    provenance.run([other], tmp_path / "provenance.csv")
    tags = Page(tmp_path / "provenance.html").tags
    assert not tags & {"script", "img"}
    assert {"table", "td", "details"} <= tags


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("attack/000000-000003.json", None, "not found; run the workflow to make it"),
        ("attack/000000-000003.json", "{}", "not a manifest"),
        ("elsewhere.json", '{"data": "x", "sha256": "0"}', "expected the manifest of a dataset, a network"),
    ],
)
def test_what_is_no_manifest(name, text, told, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if text is not None:
        path.write_text(text)
    with pytest.raises(OnepixError, match=told):
        provenance.run([path], tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()


@pytest.mark.slow
def test_two_runs_of_the_same_code_write_the_same_manifests(finished_study, tmp_path):
    for name in ("a", "b"):
        job = json.dumps({"attack": {"population": 4, "generations": 0}, "image_ids": [1], "engine": {}})
        inputs = ["--dataset", "data/datasets/sample/manifest.json", "--network", "data/networks/lenet/manifest.json"]
        output = tmp_path / name / "000000-000003.json"
        done = finished_study.command("onepix.jobs", "attack", "--settings", job, *inputs, "--output", str(output))
        assert done.returncode == 0, done.stderr
    first, second = (tmp_path / name / "000000-000003.json" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_the_digest_of_the_source_is_that_of_its_modules(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "onepix", tmp_path / "onepix")
    monkeypatch.setattr(onepix, "__file__", str(tmp_path / "onepix/__init__.py"))
    digests = [source_digest("onepix.jobs.attack")]
    (tmp_path / "onepix/assets/new.txt").write_text("no module")
    assert source_digest("onepix.jobs.attack") == digests[0]
    pixels = tmp_path / "onepix/pixels.py"
    pixels.write_text(pixels.read_text() + "\n")
    digests.append(source_digest("onepix.jobs.attack"))
    (tmp_path / "onepix/engine/gpus.py").unlink()
    digests.append(source_digest("onepix.jobs.attack"))
    assert len(set(digests)) == 3


def test_neither_job_imports_torch(finished_study, tmp_path):
    script = (
        "import sys; from pathlib import Path; from onepix.jobs import configuration, provenance;"
        "provenance.run([Path(path) for path in sys.argv[3:]], Path(sys.argv[1]));"
        "configuration.run(sys.argv[2], Path(sys.argv[1]).with_suffix('.yaml'));"
        "assert 'torch' not in sys.modules"
    )
    settings = canonical(parse(finished_study.CONFIG, "study").model_dump(mode="json"))
    arguments = [str(tmp_path / "t.csv"), settings, *map(str, manifests_of(finished_study))]
    subprocess.run([sys.executable, "-c", script, *arguments], cwd=finished_study.folder, check=True)


@pytest.mark.parametrize(
    ("said", "driver"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n", "535.183.01"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (root@build)\n",
            "570.124.06",
        ),
        (None, "unknown"),
    ],
)
def test_of_a_gpu_the_manifest_states_driver_and_cudnn(said, driver, tmp_path, monkeypatch):
    """Where there is no GPU, torch is made to name one: this shows what is written, not that a GPU says so."""
    if said is not None:
        (tmp_path / "version").write_text(said)
    monkeypatch.setattr(onepix.jobs.inputs, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    facts = onepix.jobs.inputs.provenance("cuda:1")
    assert facts["hardware"] == "GPU of cuda:1"
    assert facts["gpu"] == {"cudnn": str(torch.backends.cudnn.version()), "driver": driver}
    assert "gpu" not in onepix.jobs.inputs.provenance("cpu")


def test_results_link_to_files_that_are_there(finished_study):
    """The chain from a result to the bytes it was made from has no gap."""
    folder = finished_study.folder
    for manifest in chunks_of(finished_study):
        inputs = json.loads(manifest.read_text())["inputs"]
        assert {"dataset", "network"} <= inputs.keys()
        dataset, network = (part.name for part in list(Path(manifest).parents)[3:1:-1])
        assert inputs["dataset"] == sha256(folder / f"data/datasets/{dataset}/images.npz")
        assert inputs["network"] == sha256(folder / f"data/networks/{network}/weights.safetensors")
