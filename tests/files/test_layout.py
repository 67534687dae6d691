"""Paths of a study, spelled by hand here and compared; and back from a path to what it is of."""

import re
from pathlib import Path

import pytest
from studies import ROOT

from onepix.config.study import TAKEN, parse
from onepix.errors import OnepixError
from onepix.files.layout import (
    STAGES,
    Chunk,
    Layout,
    Result,
    block,
    by_stage,
    journal_of,
    log,
    name_of,
    result_of,
)

LAYOUT = Layout(Path("data"), Path("out/results"))
RUN = ("sample", "lenet", "de")
CHUNK = "000025-000049"
PATHS = {
    "data/cifar10.json": LAYOUT.cifar10(),
    "data/torchvision": LAYOUT.downloads(),
    "data/datasets/sample/manifest.json": LAYOUT.dataset("sample"),
    "data/networks/lenet/manifest.json": LAYOUT.network("lenet"),
    "data/training/lenet.safetensors": LAYOUT.trained("lenet"),
    "data/selection/sample/first-9.txt": LAYOUT.selection("sample", "first-9"),
    "out/results/sample/lenet/de/attack/000025-000049.json": LAYOUT.chunk("attack", RUN, CHUNK),
    "out/results/sample/lenet/receptive_fields.json": LAYOUT.receptive_fields("sample", "lenet"),
    "out/results/sample/lenet/receptive_fields.csv": LAYOUT.receptive_fields("sample", "lenet", "csv"),
    "out/results/sample/lenet/de/transfer.csv": LAYOUT.transfer(RUN),
    "out/results/sample/lenet/de/summary/success.csv": LAYOUT.summary(RUN, "success.csv"),
    "out/results/sample/lenet/de/figures/comparison.pdf": LAYOUT.figure(RUN, "comparison", "pdf"),
    "out/results/tables/success.csv": LAYOUT.table("success.csv"),
    "out/results/charts/distance_profile.png": LAYOUT.chart("distance_profile", "png"),
    "out/results/sharing/sample/de.csv": LAYOUT.sharing("sample", "de"),
    "out/results/sharing_figures/sample/de.png": LAYOUT.sharing_figure("sample", "de", "png"),
    "out/results/configuration.yaml": LAYOUT.configuration("yaml"),
    "out/results/provenance.html": LAYOUT.provenance("html"),
    "out/results/{dataset}/{network}/{attack}/locality/{chunk}.json": LAYOUT.chunk(
        "locality", ("{dataset}", "{network}", "{attack}"), "{chunk}"
    ),
    "logs/cifar10.log": log("cifar10"),
    "logs/tables/success.csv.log": log("tables", "success.csv"),
    "logs/attack/{dataset}/{chunk}.log": log("attack", "{dataset}", "{chunk}"),
    "out/results/sample/lenet/de/journal": journal_of(LAYOUT.chunk("attack", RUN, CHUNK)),
}


@pytest.mark.parametrize("expected", PATHS)
def test_where_things_lie(expected):
    assert PATHS[expected].as_posix() == expected


@pytest.mark.parametrize(
    ("manifest", "result"),
    [
        (LAYOUT.dataset("attack"), Result("dataset", dataset="attack")),
        (LAYOUT.network("datasets"), Result("network", network="datasets")),
        (LAYOUT.receptive_fields("sample", "lenet"), Result("receptive_fields", "sample", "lenet")),
        *((LAYOUT.chunk(stage, RUN, CHUNK), Result(stage, *RUN, CHUNK)) for stage in STAGES),
        (
            LAYOUT.chunk("controls", ("locality", "attack", "propagation"), CHUNK),
            Result("controls", "locality", "attack", "propagation", CHUNK),
        ),
    ],
)
def test_a_path_tells_what_it_is_of(manifest, result):
    assert result_of(manifest) == result
    assert result_of(Path("/elsewhere") / manifest) == result


@pytest.mark.parametrize(
    "path", ["x.json", "manifest.json", "a/manifest.json", "results/sample/lenet/de/journal/1.npz", "results/x/y.json"]
)
def test_a_path_of_something_else(path):
    with pytest.raises(OnepixError, match=rf"^{path}: expected the manifest of a dataset, a network"):
        result_of(Path(path))


def test_names_and_stages():
    assert name_of(LAYOUT.dataset("sample")) == "sample"
    attacks = [LAYOUT.chunk("attack", RUN, name) for name in ("000000-000024", CHUNK)]
    maps = [LAYOUT.chunk("locality", RUN, CHUNK)]
    stages = by_stage([attacks[0], *maps, attacks[1]])
    assert (stages["attack"], stages["locality"], stages["controls"]) == (attacks, maps, [])


@pytest.mark.parametrize(
    ("image_id", "size", "name"),
    [
        (0, 25, "000000-000024"),
        (24, 25, "000000-000024"),
        (25, 25, CHUNK),
        (7, 1, "000007-000007"),
        (999_999, 4, "999996-999999"),
    ],
)
def test_the_block_of_an_image(image_id, size, name):
    assert block(image_id, size) == name
    assert image_id in Chunk(LAYOUT, RUN, name).ids
    assert len(Chunk(LAYOUT, RUN, name).ids) == size


def test_chunks_on_disk_of_whatever_stage_in_order(tmp_path):
    layout = Layout(tmp_path / "data", tmp_path / "results")
    other = ("sample", "lenet", "aa")
    written = [
        layout.chunk("attack", RUN, CHUNK),
        layout.chunk("locality", RUN, CHUNK),
        layout.chunk("controls", RUN, "000000-000024"),
        layout.chunk("propagation", other, CHUNK),
        layout.receptive_fields("sample", "lenet"),
        layout.summary(RUN, "not.json"),
    ]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    chunks = layout.chunks()
    assert [(chunk.run, chunk.name) for chunk in chunks] == [(other, CHUNK), (RUN, "000000-000024"), (RUN, CHUNK)]
    assert chunks[2].manifest("attack") == written[0]
    assert chunks[2].manifest("dataset") == layout.dataset("sample")
    assert chunks[2].manifest("network") == layout.network("lenet")
    assert chunks[2].manifest("receptive_fields") == written[4]


def test_no_chunk_is_there(tmp_path):
    expected = re.escape(
        f"{tmp_path}: no results; expected files such as DATASET/NETWORK/ATTACK/attack/000000-000024.json"
    )
    with pytest.raises(OnepixError, match=expected):
        Layout(tmp_path, tmp_path).chunks()


def test_each_stage_is_made_from_earlier_ones():
    known = {"dataset", "network"}
    for stage, parts in STAGES.items():
        assert set(parts) <= known
        known.add(stage)


def test_the_names_that_are_taken():
    pages = {"configuration.html", "configuration.yaml", "provenance.csv", "provenance.html"}
    assert {
        "datasets": pages | {"charts", "sharing", "sharing_figures", "tables"},
        "attacks": {"receptive_fields.csv", "receptive_fields.json", "receptive_fields.zarr"},
    } == TAKEN


@pytest.mark.parametrize("name", sorted(TAKEN["datasets"]))
def test_a_dataset_of_a_name_that_is_taken(name):
    values = {
        "datasets": {name: {"source": "bundled"}},
        "networks": {"n": {"architecture": "lenet"}},
        "attacks": {"a": {}},
        "runs": [{"dataset": name, "networks": ["n"], "attacks": ["a"], "images": 0}],
    }
    with pytest.raises(OnepixError, match=rf"datasets\.{name}: the results have a file or folder of this name"):
        parse(values, "study")


SPELLED = re.compile(
    r"manifest\.json|receptive_fields\.(json|csv)|cifar10\.json|\"(training|selection|summary)\" */|logs/"
)


@pytest.mark.parametrize(
    "file",
    [
        *(ROOT / "onepix/jobs").glob("*.py"),
        *(ROOT / "onepix/study" / name for name in ("verify.py", "runs.py")),
        *(ROOT / "workflow/rules").glob("*.smk"),
        ROOT / "Snakefile",
    ],
    ids=lambda file: file.name,
)
def test_no_path_is_spelled_elsewhere(file):
    code = re.sub(r'""".*?"""', "", file.read_text(), flags=re.DOTALL)
    code = code.replace('FIELD_TABLE = "receptive_fields.csv"', "")  # a table's name, which a user may ask for
    assert not SPELLED.search(code)
