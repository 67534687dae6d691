"""Results of another version are told in a line, by who reads them and for the whole study; nothing is deleted."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from onepix.analysis import positions
from onepix.analysis.maps import MAPS, read_maps
from onepix.analysis.positions import PART, POSITIONS, SCAN, read_positions, vulnerable
from onepix.errors import OnepixError
from onepix.files.layout import STAGES, Layout
from onepix.files.manifests import Format, described, read_manifest, write_manifest
from onepix.files.records import RECORDS, SCHEMA, stored_records, write_records
from onepix.files.trees import write_tree
from onepix.study.versions import FORMATS, outdated

RUN = ("sample", "lenet", "scan")


def rewritten(manifest, *path, **values):
    """Change what a manifest states; None removes it."""
    whole = json.loads(manifest.read_text())
    part = whole
    for key in path:
        part = part[key]
    for key, value in values.items():
        if value is None:
            del part[key]
        else:
            part[key] = value
    manifest.write_text(json.dumps(whole))


@pytest.fixture
def layout(tmp_path):
    """One chunk of a scan at the stages that have a format of their own."""
    layout = Layout(tmp_path / "data", tmp_path / "results")
    attack, maps, where = (layout.chunk(stage, RUN, "000000-000003") for stage in ("attack", "propagation", "locality"))
    write_records(pd.DataFrame({field.name: [] for field in SCHEMA}), attack.with_suffix(".parquet"))
    flips = xr.Dataset({"flips": (("image", "colour", "y", "x"), np.array([[[[1, 0]], [[0, 0]]]], bool))})
    write_tree(xr.DataTree(flips), attack.with_suffix(".zarr"))
    parts = {PART: described(attack.with_suffix(".zarr"), SCAN)}
    write_manifest(attack, attack.with_suffix(".parquet"), {}, "onepix.jobs.attack", RECORDS, **parts)
    data = {
        "flips": (("image", "y", "x"), np.array([[[True, False]]])),
        "margin": (("image", "y", "x"), np.array([[[-1, 1]]], np.float32)),
        **{name: ("image", [value]) for name, value in (("target", -1), ("row", 0), ("column", 1))},
        "colour": (("image", "channel"), np.array([[1, 2, 3]], np.uint8)),
    }
    for manifest, form in ((maps, MAPS), (where, POSITIONS)):
        tree = xr.DataTree(xr.Dataset(data, {"image": [3]}))
        write_tree(tree, manifest.with_suffix(".zarr"))
        write_manifest(manifest, manifest.with_suffix(".zarr"), {}, "onepix.jobs.locality", form)
    return layout


def read_all(layout):
    """Read every chunk as jobs do."""
    attack, maps, where = (layout.chunk(stage, RUN, "000000-000003") for stage in ("attack", "propagation", "locality"))
    return {
        "attack": lambda: stored_records([attack]),
        PART: lambda: vulnerable(attack, scanned=True),
        "propagation": lambda: read_maps([maps]),
        "locality": lambda: read_positions([where]),
    }


def test_manifests_state_format_and_version(layout):
    stated = {path.parent.name: read_manifest(path) for path in layout.manifests()}
    for stage, manifest in stated.items():
        assert (manifest["format"], manifest["version"]) == (FORMATS[stage].name, FORMATS[stage].version)
    assert stated["attack"][PART]["format"] == "position maps of a scan"
    assert set(FORMATS) == {*STAGES, "receptive_fields"}


def test_what_is_written_is_read(layout):
    read = {name: reader() for name, reader in read_all(layout).items()}
    assert len(read["attack"]) == 0
    assert read[PART].values.tolist() == [[[True, False]]]
    found = read["locality"]
    assert (found.image.tolist(), found.target.tolist(), found.rows.tolist(), found.columns.tolist()) == (
        [3],
        [-1],
        [0],
        [1],
    )
    assert found.colours.tolist() == [[1, 2, 3]]
    assert found.flips.tolist() == [[[True, False]]]
    assert found.margin.tolist() == [[[-1, 1]]]
    assert list(outdated(layout.manifests())) == []


def test_no_more_maps_than_are_wanted(layout):
    where = layout.chunk("locality", RUN, "000000-000003")
    assert len(read_positions([where, where], most=0).image) == 0
    assert len(read_positions([where, where], most=1).image) == 2, "of each chunk"
    assert read_positions([]) is None
    assert positions.positions([]) is None


def test_what_was_written_before_versions_were_stated_is_of_the_first(layout):
    for manifest in layout.manifests():
        rewritten(manifest, format=None, version=None)
    rewritten(layout.chunk("attack", RUN, "000000-000003"), PART, format=None, version=None)
    readers = read_all(layout)
    for name, now in (("attack", 3), (PART, 2)):  # these have had further versions since
        with pytest.raises(OnepixError, match=f"of version 1, expected version {now}"):
            readers.pop(name)()
    for reader in readers.values():
        reader()
    assert any("attack records of version 1, expected version 3" in line for line in outdated(layout.manifests()))


@pytest.mark.parametrize("name", ["attack", PART, "propagation", "locality"])
def test_another_version_is_told_in_one_line_and_nothing_is_deleted(layout, name):
    manifest = layout.chunk("attack" if name == PART else name, RUN, "000000-000003")
    rewritten(manifest, *([PART] if name == PART else []), version=0)
    before = sorted(layout.results.rglob("*"))
    form = SCAN if name == PART else FORMATS[name]
    with pytest.raises(OnepixError) as caught:
        read_all(layout)[name]()
    assert str(caught.value) == (
        f"{manifest}: {form.name} of version 0, expected version {form.version}; "
        f"snakemake --cores all --force {manifest} makes them again"
    )
    (line,) = outdated(layout.manifests())
    assert line == (
        f"1 result holds {form.name} of version 0, expected version {form.version}: "
        "these and all results made from them will be made again"
    )
    assert sorted(layout.results.rglob("*")) == before


def test_results_of_one_kind_are_told_together(layout):
    first = layout.chunk("propagation", RUN, "000000-000003")
    for stage, chunk in (("propagation", "000004-000007"), ("controls", "000000-000003")):
        copy = layout.chunk(stage, RUN, chunk)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(first.read_text())
        rewritten(copy, version=3)
    (line,) = outdated(layout.manifests())
    assert line.startswith("2 results hold propagation maps of version 3, expected version 1")


def test_what_is_no_manifest_is_passed_over(layout):
    layout.chunk("locality", RUN, "000000-000003").write_text("torn")
    assert list(outdated([*layout.manifests(), layout.chunk("controls", RUN, "000000-000003")])) == []


def test_formats_are_told_apart():
    forms = {RECORDS, MAPS, POSITIONS, SCAN, FORMATS["receptive_fields"]}
    assert len({form.name for form in forms}) == 5
    assert all(isinstance(form, Format) for form in forms)
