"""Every result can be traced: the recorded configuration, the manifests, and the table that is made of them."""

import hashlib
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from inside import plan
from snakemake.common.configfile import load_configfile
from studies import ROOT

import onepix.jobs.inputs
from onepix.config.reading import canonical
from onepix.config.study import load, parse
from onepix.errors import OnepixError
from onepix.files.layout import STAGES
from onepix.files.manifests import source_digest
from onepix.jobs import configuration, provenance

TEXT = ("dataset", "network", "attack", "source_sha256", "cuda")


def onepix_command(study, *arguments):
    command = [sys.executable, "-m", "onepix", *arguments]
    return subprocess.run(command, cwd=study.folder, text=True, capture_output=True, check=False)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_table(path):
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))


def recorded(config, tmp_path):
    configuration.run(canonical(config.model_dump(mode="json")), tmp_path / "configuration.yaml")
    return tmp_path / "configuration.yaml"


def test_the_configuration_is_recorded_whole(finished_study):
    path = finished_study.folder / "results/configuration.yaml"
    found, wanted = load(path), parse(finished_study.CONFIG, "study")
    assert found.model_copy(update={"runs": ()}) == wanted.model_copy(update={"runs": ()})
    assert sorted(found.runs, key=repr) == sorted(wanted.runs, key=repr), "their order means nothing"
    values = yaml.safe_load(path.read_text())
    assert values["attacks"]["de"]["generations"] == 4
    assert values["statistics"]["permutations"] == 999, "a default"
    assert plan(finished_study.folder, values) == {}, "Snakemake, too, reads it as the same configuration"


@pytest.mark.parametrize("name", ["config.yaml", "paper.yaml", "imagenet.yaml"])
def test_a_configuration_survives_the_round_trip(name, tmp_path):
    config = load(ROOT / "config/networks.yaml", ROOT / "config" / name)
    path = recorded(config, tmp_path)
    assert load(path) == config
    assert parse(json.loads(json.dumps(load_configfile(path))), "as Snakemake reads it") == config


def test_text_that_looks_like_something_else_survives(tmp_path):
    names = ["1e3", "1e5", "yes", "null", "~", "0x1f", "1:30", " a", "#x", "- x", "é", "2001-01-01", "!!python/name:os"]
    values = {
        "datasets": {"1e3": {"source": "arrays", "path": "012345678", "class_names": names}},
        "networks": {"0": {"architecture": "lenet", "weights": "1_0", "sha256": "12345678"}},
        "attacks": {"no": {}},
        "runs": [{"dataset": "1e3", "networks": ["0"], "attacks": ["no"], "images": 7}],
    }
    config = parse(values, "study")
    path = recorded(config, tmp_path)
    assert load(path) == config
    assert parse(load_configfile(path), "as Snakemake reads it") == config


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


class Page(HTMLParser):
    """The text of a page, and its elements."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tags = "", set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_pages_show_the_same_and_run_nothing(finished_study, tmp_path):
    """The report shows pages; what they quote is text, also where it looks like HTML."""
    results = finished_study.folder / "results"
    for name in ("configuration.yaml", "tables/provenance.csv"):
        assert (results / name).with_suffix(".html").is_file()
    assert (results / "configuration.yaml").read_text() in Page(results / "configuration.html").text
    hostile = '</pre></code><script>alert(1)</script><img src="x" onerror="alert(1)">'
    config = finished_study.changed("datasets", "other", to={"source": "arrays", "path": hostile})
    recorded(parse(config, "study"), tmp_path)
    page = Page(tmp_path / "configuration.html")
    assert hostile in page.text
    facts = json.loads(manifests_of(finished_study)[0].read_text())
    other = tmp_path / "datasets" / hostile.replace("/", "") / "manifest.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(facts | {"provenance": hostile, "settings": {hostile: hostile}}))
    provenance.run([other], tmp_path / "provenance.csv")
    tags = page.tags | Page(tmp_path / "provenance.html").tags
    assert not tags & {"script", "img"}
    assert {"table", "td", "details"} <= tags


def test_nothing_in_the_parameters_of_a_rule_ends_a_script(finished_study):
    """Snakemake's report puts them into a script of its page."""
    config = finished_study.changed("datasets", "other", to={"source": "arrays", "path": "</script><!--"})
    text = canonical(parse(config, "study").model_dump(mode="json"))
    assert "<" not in text
    assert parse(json.loads(text), "study") == parse(config, "study")


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


def test_two_runs_of_the_same_code_write_the_same_manifests(finished_study, tmp_path):
    for name in ("a", "b"):
        job = json.dumps({"attack": {"population": 4, "generations": 0}, "image_ids": [1], "engine": {}})
        inputs = ["--dataset", "data/datasets/sample/manifest.json", "--network", "data/networks/lenet/manifest.json"]
        output = tmp_path / name / "000000-000003.json"
        done = onepix_command(finished_study, "attack", "--settings", job, *inputs, "--output", str(output))
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
        "import sys; from pathlib import Path; from onepix.jobs.provenance import run_gather, run_record;"
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
