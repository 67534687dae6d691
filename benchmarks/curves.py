"""Compares which share of the vulnerable images attacks find, against queries and against seconds.

It draws docs/benchmark.png, and writes the table in benchmarks/README.md and the picture's caption in README.md.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from attacks import HERE, NONE, Result, facts, is_installed, replaced, run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from onepix.figures.style import (
    BLUE,
    DOUBLE,
    GREEN,
    GREY,
    SKY_BLUE,
    VERMILLION,
    add_axes,
    paper_style,
    save,
)

README, FRONT, RAW = HERE / "README.md", HERE.parent / "README.md", HERE / "raw_curves.json"
PICTURE = HERE.parent / "docs" / "benchmark"
BEGIN, END = "<!-- curves: begin -->", "<!-- curves: end -->"
NETWORKS = {"lenet": "LeNet", "resnet20": "ResNet-20"}
BUDGET = 8192  # candidates: 8 colours at each of 1,024 positions
POPULATION, GENERATIONS = 400, 20  # of differential evolution: 8,400 candidates
WITHIN = (100, 512)  # queries, for the table
ORANGE, PURPLE, BLACK = "#E69F00", "#CC79A7", "#000000"  # Okabe and Ito's, as the others in onepix.figures.style
LOOKS: dict[str, tuple[str, str]] = {  # colour and line of a contender; the lines of other libraries are dashed
    "onepix scan": (BLUE, "-"),
    "onepix scan, black box": (SKY_BLUE, "-"),
    "onepix DE of the paper": (GREEN, "-"),
    "onepix DE best1bin": (BLACK, "-"),
    "onepix random search": (GREY, "-"),
    "torchattacks OnePixel": (VERMILLION, "--"),
    "torchattacks Pixle": (ORANGE, "--"),
    "ART PixelAttack": (PURPLE, "--"),
}
HEADER = (
    "| contender | flipped | within {} queries | within {} | in all | median queries to the flip | queries in all | "
    "whole job, s | half of what it finds, s |\n| --- |" + " ---: |" * 8
).format(*WITHIN)


def main(
    images: Annotated[int, typer.Option(min=1, help="Number of images; they must be classified correctly.")] = 30,
    quick: Annotated[bool, typer.Option(help="Two images, a tiny budget; nothing is written.")] = False,
    libraries: Annotated[Path | None, typer.Option(help="Where requirements.txt is installed.")] = None,
) -> None:
    """Run all contenders one after the other, draw the picture and write the table."""
    libraries = libraries or Path(sys.prefix) / "bench"
    if not (quick or is_installed(libraries)):
        raise SystemExit(f"{libraries}: torchattacks is not installed there; `make bench` does that")
    results: dict[str, list[Result]] = {}
    for network in list(NETWORKS)[: 1 if quick else None]:
        common = {"images": 2 if quick else images, "network": network, "jobs": 1, "again": False}
        results[network] = []
        for task in tasks(quick):
            typer.echo(f"{NETWORKS[network]}, {task['label']} …", err=True)
            results[network].append({**task, **run({**common, **task}, libraries)})
    texts = [written(network, results[network], libraries) for network in results]
    figure = drawn(results)
    if quick:
        typer.echo("\n\n".join(texts))
        return
    RAW.write_text(json.dumps(results, indent=1))
    save(figure, PICTURE, dpi=200, formats=["png"])
    for page, text in ((README, "\n\n".join(texts)), (FRONT, shown(results))):
        page.write_text(replaced(page.read_text(encoding="utf-8"), text, BEGIN, END), encoding="utf-8")
    typer.echo(f"The picture is {PICTURE}.png; the tables are in {README}, raw results in {RAW}.")


def tasks(quick: bool) -> list[Result]:
    """Return the contenders; all have about the same budget."""
    evolution = {"population": 20 if quick else POPULATION, "generations": 2 if quick else GENERATIONS}
    most = 60 if quick else BUDGET
    # The scan ends by itself, after all its candidates.
    first = {"stop": "first", **({"budget": 600} if quick else {})}
    orders = [("scan", {"gradient": True}), ("scan, black box", {"gradient": False})]
    onepix = [
        *((label, "scan", {**first, **order}) for label, order in orders),
        ("DE of the paper", "differential_evolution", evolution),
        ("DE best1bin", "differential_evolution", {"variant": "best1bin", **evolution}),
        ("random search", "random_search", {"budget": most}),
    ]
    return [
        *({"label": f"onepix {label}", "kind": "onepix", "method": m, "settings": s} for label, m, s in onepix),
        {"label": "torchattacks OnePixel", "kind": "torchattacks", **evolution},
        {"label": "torchattacks Pixle", "kind": "Pixle", "budget": most},
        {"label": "ART PixelAttack", "kind": "ART", **evolution},
    ]


def vulnerable(results: list[Result]) -> int:
    """Return how many images are flipped by at least one contender."""
    return int(np.any([result["survived"] for result in results if "survived" in result], axis=0).sum())


def reached(values: list[float | None], of: int) -> tuple[list[float], list[float]]:
    """Return where a curve rises, and to which share; `values` are None for images that did not flip."""
    known = sorted(value for value in values if value is not None)
    return known, [(index + 1) / of for index in range(len(known))]


def written(network: str, results: list[Result], libraries: Path) -> str:
    """Return a network's table, as Markdown."""
    machine = next((result["machine"] for result in results if "machine" in result), None)
    if machine is None:
        return f"{NETWORKS[network]}: every contender failed."
    among = vulnerable(results)
    lines = "\n".join(row(result, among) for result in results)
    return (
        f"{NETWORKS[network]}: {among} of {len(machine['ids'])} images are vulnerable. {facts(machine, libraries)}\n\n"
        f"{HEADER}\n{lines}\n" + "".join(f"\n{note}" for note in notes(results))
    ).rstrip()


def row(result: Result, among: int) -> str:
    """Return a contender's line of the table; shares are of the vulnerable images."""
    if "missing" in result:
        return f"| {result['label']} |" + f" {NONE} |" * 8
    queries, _ = reached(result["queries"], among)
    known, _ = reached(result["known"], among)
    counts = [sum(count <= most for count in queries) for most in WITHIN]
    cells = [
        result["label"],
        f"{len(queries)} of {among}",
        *(f"{count / among:.0%}" if among else NONE for count in [*counts, len(queries)]),
        f"{statistics.median(queries):,.0f}" if queries else NONE,
        f"{sum(result['passes']):,}",
        f"{result['seconds']:.3g}",
        f"{known[(len(known) - 1) // 2]:.3g}" if known else NONE,
    ]
    return "| " + " | ".join(cells) + " |"


def notes(results: list[Result]) -> list[str]:
    """Say what the table has no column for."""
    said = [f"- {result['label']}: {result['missing']}." for result in results if "missing" in result]
    for result in results:
        pairs = zip(result.get("claimed", []), result.get("survived", []), strict=True)
        if lost := sum(claimed and not survived for claimed, survived in pairs):
            said.append(f"- {result['label']}: {lost} returned images flip only before rounding to 8 bits.")
    return said


@paper_style()
def drawn(results: dict[str, list[Result]]) -> Figure:
    """Return the picture: one row per network, shares against queries and against seconds."""
    wide, high, left, top = 2.72, 1.55, 0.62, 0.28
    step, foot = high + 0.66, 0.32
    figure = Figure((DOUBLE, top + step * len(results) + foot))
    lines: dict[str, Line2D] = {}
    for index, (network, found) in enumerate(results.items()):
        among = vulnerable(found)
        panels = [add_axes(figure, left + k * (wide + 0.62), top + index * step, wide, high) for k in range(2)]
        for panel, name, unit in zip(panels, ("queries", "known"), ("queries per image", "seconds"), strict=True):
            for result in found:
                if name in result:
                    lines[result["label"]] = curve(panel, result, name, among)
            count = len(next(result["survived"] for result in found if "survived" in result))
            said = "candidates tried until an image flips" if name == "queries" else f"the whole job of {count} images"
            panel.set_title(f"{NETWORKS[network]}: {said}", loc="left")
            finished(panel, unit, f"found, of {among} vulnerable" if name == "queries" else "")
    figure.legend(lines.values(), lines.keys(), ncols=4, loc="lower center", frameon=False, handlelength=2.6)
    return figure


def curve(panel: Axes, result: Result, name: str, among: int) -> Line2D:
    """Draw one contender; a dot marks the end of its attacks."""
    colour, line = LOOKS[result["label"]]
    rises, shares = reached(result[name], max(among, 1))
    end = max(result["passes"]) if name == "queries" else result["seconds"]
    rises, shares = [*rises, max(end, *rises, 1e-3)], [*shares, shares[-1] if shares else 0.0]
    width = 1.6 if result["label"].startswith("onepix scan") else 1.1
    (drawn,) = panel.step(
        [rises[0], *rises], [0.0, *shares], where="post", color=colour, linestyle=line, linewidth=width,
        label=result["label"], clip_on=False, zorder=3,
    )  # fmt: skip
    panel.plot(rises[-1], shares[-1], "o", color=colour, markersize=2.6, clip_on=False, zorder=3)
    return drawn


def finished(panel: Axes, unit: str, share: str) -> None:
    """Set scales and labels."""
    panel.set_xscale("log")
    if unit != "seconds":
        panel.set_xlim(0.8, 12_000)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    panel.set_ylim(0, 1.02)
    panel.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    panel.grid(color="#DDDDDD", linewidth=0.4)
    panel.set_axisbelow(True)
    panel.set_xlabel(unit)
    panel.set_ylabel(share)


def shown(results: dict[str, list[Result]]) -> str:
    """Return the picture and its caption for the front page."""
    told = []
    for network, found in results.items():
        machine = next(result["machine"] for result in found if "machine" in result)
        told.append(f"{NETWORKS[network]}, {vulnerable(found)} of {len(machine['ids'])} images")
    return (
        "![Share of the vulnerable images found, against queries and against seconds](docs/benchmark.png)\n\n"
        "*Which share of the vulnerable images each attack finds, with about 8,192 candidates per image: left after so "
        "many candidates (a backward pass of the gradient counts, too), right after so many seconds for all images. "
        f"Vulnerable are those that any of the attacks flips ({'; '.join(told)}). Dashed: other libraries; a dot: the "
        "end of the attacks. [How it is measured](benchmarks/README.md).*"
    )


if __name__ == "__main__":
    typer.run(main)
