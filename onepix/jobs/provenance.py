"""Record what each result was made from, by which code, and on which machine."""

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from onepix.config.reading import canonical
from onepix.files.layout import result_of
from onepix.files.manifests import read_manifest
from onepix.files.pages import write_page
from onepix.files.tables import write_csv
from onepix.jobs.inputs import Files, Output

COUNTS = ("chunks", "images")
SHOWN = ("onepix", "torch", "cuda")  # versions that have their own column
LONG = ("unfollowed", "libraries", "settings")  # columns that the page folds


def run(manifests: Files, output: Output) -> None:
    """Write what manifests say about the origin of their results, as CSV and as a page next to it.

    Parameters
    ----------
    manifests : list of Path
        Of datasets, networks, receptive fields and chunks.
    output : Path
        One row per result. Chunks that were made in the same way share one row, with the numbers of chunks and images.

    Raises
    ------
    OnepixError
        If a manifest is missing, not a manifest, or of an unknown kind.

    Notes
    -----
    The data themselves are not read.
    """
    table = pd.DataFrame([{**_result(path), **_origin(read_manifest(path))} for path in manifests])
    alike = [column for column in table.columns if column not in COUNTS]
    joined = table.groupby(alike, dropna=False, sort=False, as_index=False)[list(COUNTS)].sum(min_count=1)
    joined = joined[list(table.columns)].astype(dict.fromkeys([*COUNTS, "threads"], "Int64"))
    write_csv(joined, output)
    write_page(output, "Provenance", _as_html(joined))


def _result(path: Path) -> Mapping[str, Any]:
    """Return which result a manifest describes, by its path."""
    found = result_of(path)
    names = {"dataset": found.dataset, "network": found.network, "attack": found.attack}
    return {"result": found.kind.replace("_", " "), **names, "chunks": 1 if found.chunk else None}


def _origin(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a manifest says about the origin of its result, as one flat row; None if it does not say."""
    settings = dict(manifest["settings"])
    image_ids = manifest.get("image_ids", settings.pop("image_ids", None))
    versions = dict(manifest["versions"])
    inputs, network = manifest.get("inputs", {}), manifest.get("network", manifest.get("metadata", {}))
    weights = network.get("weights", {})
    return {
        "images": manifest.get("images") if image_ids is None else len(set(image_ids)),
        **{name: versions.pop(name, None) for name in SHOWN},
        **{name: manifest.get(name) for name in ("device", "hardware", "threads")},
        "precision": manifest.get("evaluation", {}).get("precision"),
        "images_sha256": inputs.get("dataset", manifest["sha256"] if "class_names" in manifest else None),
        "network_sha256": inputs.get("network", manifest["sha256"] if "metadata" in manifest else None),
        "weights_sha256": weights.get("sha256"),
        "source_sha256": manifest.get("source"),
        "own_code_sha256": network.get("code"),
        "origin": weights.get("origin", manifest.get("provenance")),
        "verified": weights.get("verified"),
        "unfollowed": "; ".join(manifest.get("unfollowed", [])) or None,
        "libraries": ", ".join(_libraries(versions | manifest.get("gpu", {}) | network.get("package", {}))),
        "settings": canonical(settings),
    }


def _libraries(versions: Mapping[str, Any]) -> Iterator[str]:
    for name, version in sorted(versions.items()):
        yield f"{name} {version}"


def _as_html(table: pd.DataFrame) -> str:
    """Return a table as HTML: digests are shortened, and long columns are folded."""
    head = "".join(f"<th>{html.escape(str(column)).replace('_', ' ')}</th>" for column in table.columns)
    rows = (
        "".join(f"<td>{_cell(column, value)}</td>" for column, value in zip(table.columns, row, strict=True))
        for row in table.itertuples(index=False)
    )
    return f"<table><tr>{head}</tr>\n{''.join(f'<tr>{row}</tr>' + chr(10) for row in rows)}</table>"


def _cell(column: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    text = html.escape(str(value))
    if column in LONG:
        return f"<details><summary>show</summary><code>{text}</code></details>"
    return f'<code title="{text}">{text[:12]}…</code>' if column.endswith("sha256") else text
