"""The summary of a run: each stored array is read once, and the tables have the names that the workflow asks for."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from onepix.analysis.maps import COMPARED, MAPS
from onepix.analysis.positions import POSITIONS
from onepix.errors import OnepixError
from onepix.files.layout import Layout
from onepix.files.manifests import write_manifest
from onepix.files.records import RECORDS, SCHEMA, write_records
from onepix.files.trees import write_tree
from onepix.jobs import summary
from onepix.study.runs import RUN_TABLES

RUN = ("sample", "lenet", "de")
SETTINGS = dict(zip(("dataset", "network", "attack"), RUN, strict=True)) | {"statistics": {"resamples": 100}}
MEASURES = {"clean_peak", "delta_peak", "clean_energy", "delta_energy", *COMPARED[1:-1], "outside_cone"}


def records(ids):
    return pd.DataFrame(
        {
            **{"image_id": ids, "label": 0, "classes": 2, "clean_class": 0, "clean_confidence": 0.9, "eligible": True},
            **{"method": "differential_evolution", "target": pd.array([None] * len(ids), dtype="Int64")},
            **{"success": [n % 2 == 0 for n in ids], "rows": [[1]] * len(ids), "columns": [[2]] * len(ids)},
            **{"values": [[[1, 2, 3]]] * len(ids), "adversarial_class": [1 - n % 2 for n in ids]},
            **{"true_probability_before": 0.9, "true_probability_after": 0.2, "target_probability_after": np.nan},
            **{"adversarial_confidence": 0.8, "queries": 400, "queries_to_success": 100, "rechecked": 64},
            **{
                "generations": 0,
                "seed": 0,
                "stop": "flip",
                "budget": 400,
                "backward_passes": 0,
                "queries_to_threshold": np.nan,
            },
            **{"probability_classes": [[0, 1]] * len(ids), "probabilities_before": [[0.9, 0.1]] * len(ids)},
            **{"probabilities_after": [[0.2, 0.8]] * len(ids)},
            **{name: None for name in SCHEMA.names if name.startswith(("flip_", "threshold_"))},
        }
    )


def maps(ids, **root):
    """Return propagation maps of two layers."""
    stream = np.random.default_rng(ids[0])
    layers = np.array(["conv1", "fc"], dtype=object)
    measures = {name: (("layer", "image"), stream.uniform(0.1, 1, (2, len(ids)))) for name in MEASURES}
    whole = {"target": ("image", [-1] * len(ids)), **{name: ("image", values) for name, values in root.items()}}
    groups = {"/": xr.Dataset(whole, {"image": ids}), "/measures": xr.Dataset(measures, {"layer": layers})}
    for depth, name in enumerate(layers):
        attributes = {"layer": name, "operator": "convolution", "depth": depth, "spatial": True}
        attributes |= {"stride": [1, 1], "receptive_field": [3, 3]}
        groups[f"/{depth:03d}_{name}"] = xr.Dataset({"max": ("image", np.zeros(len(ids)))}, attrs=attributes)
    return xr.DataTree.from_dict(groups)


def places(ids):
    """Return position maps of 3 × 4 positions."""
    flips = np.random.default_rng(ids[0]).uniform(size=(len(ids), 3, 4)) < 0.5
    data = {
        "flips": (("image", "y", "x"), flips),
        "margin": (("image", "y", "x"), np.where(flips, -1, 1).astype(np.float32)),
        **{name: ("image", [value] * len(ids)) for name, value in (("target", -1), ("row", 1), ("column", 2))},
        "colour": (("image", "channel"), np.zeros((len(ids), 3), np.uint8)),
    }
    return xr.DataTree(xr.Dataset(data, {"image": ids}))


@pytest.fixture
def manifests(tmp_path):
    """Write two chunks of four images, the even ones of which fall, and return the manifests of all stages."""
    layout, written = Layout(tmp_path / "data", tmp_path / "results"), []
    for first in (0, 4):
        ids, even = list(range(first, first + 4)), [first, first + 2]
        attack = layout.chunk("attack", RUN, f"{first:06d}-{first + 3:06d}")
        write_records(records(ids), attack.with_suffix(".parquet"))
        write_manifest(attack, attack.with_suffix(".parquet"), {}, "onepix.jobs.attack", RECORDS)
        written.append(attack)
        trees = {
            "propagation": (maps(ids, success=[n % 2 == 0 for n in ids]), MAPS),
            "locality": (places(even), POSITIONS),
            "controls": (maps(even), MAPS),
        }
        for stage, (tree, form) in trees.items():
            manifest = layout.chunk(stage, RUN, attack.stem)
            write_tree(tree, manifest.with_suffix(".zarr"))
            write_manifest(manifest, manifest.with_suffix(".zarr"), {}, f"onepix.jobs.{stage}", form)
            written.append(manifest)
    return written


def test_each_stored_array_is_read_once(manifests, tmp_path, monkeypatch):
    """Counted where zarr fetches the bytes of chunks of arrays."""
    from zarr.storage import LocalStore

    fetched = Counter()
    get = LocalStore.get

    async def counted(store, key, *arguments, **options):
        found = await get(store, key, *arguments, **options)
        if "/c/" in f"/{key}" and found is not None:
            fetched[f"{store.root}/{key}"] += 1
        return found

    monkeypatch.setattr(LocalStore, "get", counted)
    output = tmp_path / "summary" / "attacks.parquet"
    summary.run(json.dumps(SETTINGS), manifests, output)
    assert sum("/flips/" in key for key in fetched) == sum("/margin/" in key for key in fetched) == 2
    assert sum("/measures/clean_peak/" in key for key in fetched) == 4, "of attacks and controls"
    # Small coordinates may be read by xarray, too, when it opens a store.
    repeated = {key for key, count in fetched.items() if count > 1 and not key.endswith(("/image/c/0", "/layer/c/0"))}
    assert repeated == set()


def test_the_tables_are_those_that_the_workflow_asks_for(manifests, tmp_path):
    output = tmp_path / "summary" / "attacks.parquet"
    summary.run(json.dumps(SETTINGS), manifests[::-1], output)
    assert {file.name for file in output.parent.glob("*.csv")} == set(RUN_TABLES)
    success = pd.read_csv(output.with_name("success.csv")).iloc[0]
    assert (success["attacks"], success["successes"]) == (8, 4)
    comparison = pd.read_csv(output.with_name("comparison.csv"))
    assert set(comparison["images"]) == {4}
    layers = pd.read_csv(output.with_name("layers.csv"))
    assert layers.groupby("outcome")["images"].first().to_dict() == {"success": 4, "failure": 4, "control": 4}


def test_there_is_nothing_to_summarise(manifests, tmp_path):
    of_attacks = [manifest for manifest in manifests if manifest.parent.name == "attack"]
    with pytest.raises(OnepixError, match=r"attacks\.parquet: no propagation maps to summarise$"):
        summary.run(json.dumps(SETTINGS), of_attacks, tmp_path / "attacks.parquet")
