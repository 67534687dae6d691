"""Noticing what is not whole."""

import json

import pytest

from onepix.errors import OnepixError
from onepix.files.manifests import checked_data, read_manifest, write_manifest


@pytest.fixture
def chunk(tmp_path):
    data = tmp_path / "000000-000024.parquet"
    data.write_bytes(b"records")
    manifest = tmp_path / "000000-000024.json"
    write_manifest(manifest, data, {"attack": 1}, "onepix.jobs.attack", image_ids=[1, 2])
    return manifest, data


def test_a_manifest_says_what_its_data_are(chunk):
    manifest, data = chunk
    contents = read_manifest(manifest)
    assert contents["settings"] == {"attack": 1}
    assert contents["image_ids"] == [1, 2]
    assert set(contents["versions"]) >= {"onepix", "torch", "zarr"}
    assert checked_data(manifest) == data


def test_data_that_are_truncated_altered_or_missing(chunk):
    manifest, data = chunk
    for content in (b"record", b"recorts"):
        data.write_bytes(content)
        with pytest.raises(OnepixError, match=r"parquet: truncated or altered .* delete .*json and run the workflow"):
            checked_data(manifest)
    data.unlink()
    with pytest.raises(OnepixError, match="parquet: the data are missing; delete"):
        checked_data(manifest)


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"data": "x"})])
def test_what_is_no_manifest(tmp_path, content):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(OnepixError, match=r"m\.json: not a manifest"):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(OnepixError, match=r"none\.json: not found"):
        read_manifest(tmp_path / "none.json")
