"""Writes the tables of a finished study into results.md, between two marks: python docs/results.py RESULTS."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from onepix.files.tables import read_csv

PAGE = Path(__file__).with_name("results.md")
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
CHANGES = {
    "original attack": "attack",
    "one neighbour": "moved to one neighbour, drawn",
    "neighbours": "to each neighbour",
    "one position": "to one position, drawn",
    "random position": "to each other position",
}


def main(results: Annotated[Path, typer.Argument(help="The folder of the study's results.")]) -> None:
    """Replace what stands between the marks."""
    tables = {path.stem: read_csv(path) for path in sorted((results / "tables").glob("*.csv"))}
    shared = pd.concat([read_csv(path) for path in sorted((results / "sharing").glob("*/*.csv"))])
    parts = [
        machine(results),
        "### Success",
        success(tables["success"]),
        "### Locality",
        locality(tables["locality"]),
        "### The claims",
        claims(tables["claims"]),
        "### From which layer on successes can be told apart",
        separation(tables["separation"]),
        "### How far the weakness reaches, and receptive fields",
        reach(tables["neighbourhood"], tables["receptive_fields"]),
        "### Sharing between networks",
        sharing(shared),
    ]
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(before + "\n\n".join([BEGIN, *parts, END]) + after, encoding="utf-8")


def machine(results: Path) -> str:
    """Say what the study was run with, as its manifests do."""
    manifests = [json.loads(path.read_text()) for path in sorted(results.glob("*/*/*/attack/*.json"))]
    versions = sorted({", ".join(f"{k} {v}" for k, v in sorted(m["versions"].items())) for m in manifests})
    devices = sorted({f"{m['device']} ({m['hardware']}, {m['threads']} threads per job)" for m in manifests})
    return f"Attacks made with {'; '.join(versions)}, on {'; '.join(devices)}."


def success(table: pd.DataFrame) -> str:
    """Show how often attacks find a success within their budget."""
    rows = (
        [
            *run(row),
            row["images"],
            percent(row["accuracy"]),
            row["attacks"],
            f"{row['stop']}, {number(row['budget'])}",
            row["successes"],
            proportion(row, "success_rate"),
            proportion(row, "threshold_rate"),
            number(row["queries_to_success_median"]),
            number(row["queries_mean"]),
            number(row["queries_total"]),
        ]
        for _, row in table.iterrows()
    )
    heads = ["network", "attack", "images", "correct", "attacked", "stop, budget", "found within it", "success rate"]
    return markdown([*heads, "past the threshold", "median queries to success", "mean queries", "queries"], rows)


def locality(table: pd.DataFrame) -> str:
    """Show the paper's comparison."""
    rows = []
    for names, part in table.groupby(["network", "attack"], sort=False):
        by_change = part.set_index("change")
        cells = [proportion(by_change.loc[change], "rate", "low", "high") for change in CHANGES]
        rows.append([*names, *cells, by_change.loc["neighbours", "images"]])
    return markdown(["network", "attack", *CHANGES.values(), "successes"], rows)


def claims(table: pd.DataFrame) -> str:
    """Show each claim with its number and verdict."""
    rows = (
        [
            row["claim"],
            *run(row),
            row["images"],
            proportion(row, "estimate", "low", "high"),
            percent(row["bound"]),
            f"**{row['verdict']}**",
        ]
        for _, row in table.sort_values("claim", key=lambda c: c.map(order(c)), kind="stable").iterrows()
    )
    legend = [f"- *{claim}*: {part['measure'].iloc[0]}" for claim, part in table.groupby("claim", sort=False)]
    heads = ["claim", "network", "attack", "n", "estimate", "bound", "verdict"]
    return markdown(heads, rows) + "\n\nWhat each number is, for the first network:\n\n" + "\n".join(legend)


def separation(table: pd.DataFrame) -> str:
    """Show the first layer of separation, by measure."""
    measures = list(dict.fromkeys(table["measure"]))
    rows = []
    for names, part in table.groupby(["network", "attack", "against"], sort=False):
        found = part.set_index("measure")
        rows.append([*names, *(layer(found.loc[measure]) for measure in measures)])
    return markdown(["network", "attack", "successes against", *(m.replace("_", " ") for m in measures)], rows)


def reach(neighbourhood: pd.DataFrame, fields: pd.DataFrame) -> str:
    """Show the length scale beside the receptive fields of some layers."""
    rows = []
    for _, row in neighbourhood.iterrows():
        own = fields[(fields["network"] == row["network"]) & (fields["dataset"] == row["dataset"])]
        width = 2 * row["half_distance"] + 1
        wider = own[own["effective"] >= width]
        first = f"{wider.iloc[0]['layer']} ({wider.iloc[0]['effective']:.1f})" if len(wider) else "none"
        rows.append(
            [
                *run(row),
                row["images"],
                interval(row, "half_distance", ".1f"),
                f"{width:.1f}",
                first,
                interval(row, "moran_flips", ".2f"),
                f"{percent(row['moran_significant'])} of {row['tested']}",
            ]
        )
    heads = ["network", "attack", "successes", "half distance (pixels)", "width, 2 × it + 1"]
    last = ["first layer whose effective field is as wide", "Moran's I of flips", "maps that cluster"]
    return markdown([*heads, *last], rows)


def sharing(table: pd.DataFrame) -> str:
    """Show what networks share."""
    rows = (
        [
            *(row[name] for name in ("attack", "source", "target", "successes")),
            proportion(row, "transfer"),
            proportion(row, "moved"),
            row["images"],
            proportion(row, "jaccard"),
            proportion(row, "chance"),
        ]
        for _, row in table.iterrows()
    )
    heads = ["attack", "attacked network", "shown to", "successes", "flips it too", "same colour elsewhere"]
    return markdown([*heads, "images", "Jaccard index of positions", "by chance"], rows)


def run(row: pd.Series) -> list[str]:
    """Name a run."""
    return [row["network"], row["attack"]]


def layer(row: pd.Series) -> str:
    """Name a layer and its position in the network."""
    return "–" if pd.isna(row["layer"]) else f"{row['layer']} ({row['depth'] + 1:.0f} of {row['layers']})"


def order(names: pd.Series) -> dict[str, int]:
    """Return the position at which each name comes first."""
    return {name: position for position, name in enumerate(dict.fromkeys(names))}


def proportion(row: pd.Series, name: str, low: str | None = None, high: str | None = None) -> str:
    """Write a proportion and its interval in per cent."""
    bounds = row[low or f"{name}_low"], row[high or f"{name}_high"]
    if pd.isna(row[name]):
        return "–"
    return percent(row[name]) + ("" if pd.isna(bounds[0]) else f" ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})")


def interval(row: pd.Series, name: str, digits: str) -> str:
    """Write a number and its interval."""
    if pd.isna(row[name]):
        return "–"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:{digits}}" + ("" if pd.isna(low) else f" ({low:{digits}} to {high:{digits}})")


def percent(value: float) -> str:
    """Write a proportion in per cent."""
    return "–" if pd.isna(value) else f"{100 * value:.1f} %"


def number(value: float) -> str:
    """Write a count."""
    return "–" if pd.isna(value) else f"{value:,.0f}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    typer.run(main)
