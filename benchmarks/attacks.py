"""Compares onepix with attack libraries and with the bare network; writes the table in benchmarks/README.md."""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).resolve().parent
README, RAW = HERE / "README.md", HERE / "raw.json"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEADER = (
    "| contender | precision, batch | passes per second | of the dense ceiling | × torchattacks | all images: passes; "
    "seconds | resisting ones: passes; seconds | success | peak memory, MB (once loaded) |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)
NONE = "–"
LIBRARIES = ("torchattacks", "Pixle", "ART")
Result = dict[str, Any]


def main(
    images: Annotated[int, typer.Option(min=1, help="Number of images; they must be classified correctly.")] = 6,
    quick: Annotated[bool, typer.Option(help="One image, a tiny budget; README.md is not changed.")] = False,
    libraries: Annotated[Path | None, typer.Option(help="Where requirements.txt is installed.")] = None,
) -> None:
    """Run all contenders one after the other and write the table."""
    libraries = libraries or Path(sys.prefix) / "bench"
    if not (quick or is_installed(libraries)):
        raise SystemExit(f"{libraries}: torchattacks is not installed there; `make bench` does that")
    common: Result = {"network": "resnet20", "images": 1 if quick else images, "jobs": 1, "again": True}
    common |= {"repetitions": 1 if quick else 5, "seconds": 0.05 if quick else 0.4}
    results: list[Result] = []
    for task in tasks(quick):
        if task["kind"] == "compiled":  # at the best batch size of the folded network, measured just before
            task["batch"] = results[-1]["batch"]
        typer.echo(f"{task['label']}, {task['precision']} …", err=True)
        results.append({**task, **run({**common, **task}, libraries)})
    RAW.write_text(json.dumps(results, indent=1))
    text = written(results, facts(results[0]["machine"], libraries))
    if quick:
        typer.echo(text)
        return
    README.write_text(replaced(README.read_text(encoding="utf-8"), text, BEGIN, END), encoding="utf-8")
    typer.echo("\n".join(settled(results)))
    typer.echo(f"The table is in {README}, raw results are in {RAW}.")


def tasks(quick: bool) -> list[Result]:
    """Return the contenders."""
    generations = 2 if quick else 100
    evolution = {"population": 20 if quick else 400, "generations": generations}
    size = f"{evolution['population']} × {generations}"
    budget = {"budget": 500} if quick else {}
    dense = [
        {"label": label, "kind": kind, "precision": precision, "folded": folded}
        for precision in ("float32", "bfloat16")
        for label, kind, folded in (
            ("dense, plain", "dense", False),
            ("dense, folded, channels_last", "dense", True),
            ("dense, folded, channels_last, compiled", "compiled", True),
        )
    ]
    engine = [
        {"label": label, "kind": "engine", "exact": exact, "precision": precision, "engine": settings}
        for precision, windows, exact, label in (
            ("float32", False, False, "onepix `Evaluator.screen`, whole images"),
            ("float32", True, False, "onepix `Evaluator.screen`, windows"),
            ("bfloat16", False, False, "onepix `Evaluator.screen`, whole images"),
            ("bfloat16", True, False, "onepix `Evaluator.screen`, windows"),
            ("float32", False, True, "onepix `Evaluator.exact`"),
        )
        for settings in [{"precision": precision, "windows": windows}]
    ]
    attacks: list[Result] = [
        {"label": f"onepix {label}", "kind": "onepix", "precision": "auto", "method": method, "settings": settings}
        for label, method, settings in (
            (f"differential evolution of the paper, {size}", "differential_evolution", evolution),
            (
                f"differential evolution best1bin, {size}",
                "differential_evolution",
                {"variant": "best1bin", **evolution},
            ),
            ("scan, to the first flip", "scan", {"stop": "first", **budget}),
            ("scan, whole", "scan", {"stop": "all", **budget}),
            ("random search", "random_search", budget or {"budget": 40_400}),
        )
    ]
    together = {"jobs": 2, "label": "onepix scan, to the first flip, two jobs of one thread"}
    attacks.append({**next(task for task in attacks if task["settings"].get("stop") == "first"), **together})
    libraries = [
        {"label": f"torchattacks OnePixel, {size}", "kind": "torchattacks", "precision": "float32", **evolution},
        {"label": f"ART PixelAttack, 400 × {generations}", "kind": "ART", "precision": "float32", **evolution},
    ]
    return [*dense, *engine, *attacks, *libraries]


def run(task: Result, libraries: Path) -> Result:
    """Run a contender in its own process, or in several at the same time, of one thread each."""
    if task["kind"] in LIBRARIES and not is_installed(libraries):
        return {"missing": f"not installed in {libraries}"}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{index}.json" for index in range(task["jobs"])]
        jobs = [start({**task, "meeting": folder}, file, libraries) for file in files]
        codes = [job.wait() for job in jobs]
        if any(codes):
            return {"missing": f"failed with exit status {max(codes, key=abs)}"}
        return together([json.loads(file.read_text()) for file in files])


def is_installed(libraries: Path) -> bool:
    """Tell whether the attack libraries are there."""
    return (libraries / "torchattacks").is_dir()


def start(task: Result, file: Path, libraries: Path) -> subprocess.Popen[bytes]:
    """Start a contender; only attack libraries can import the attack libraries."""
    paths = [str(libraries)] * (task["kind"] in LIBRARIES) + [os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"OMP_NUM_THREADS": "1"} if task["jobs"] > 1 else {}
    command = [sys.executable, str(HERE / "contender.py"), json.dumps(task), str(file)]
    return subprocess.Popen(command, env=environment)


def together(results: list[Result]) -> Result:
    """Join the results of jobs that did the same side by side: their passes add up, and so do their images."""
    first, jobs = results[0], len(results)
    if jobs == 1:
        return first
    shared = {"rate": sum(result["rate"] for result in results)}
    for name in ("all", "resisting"):
        means = [result[name] for result in results if result[name]]
        shared[name] = [means[0][0], max(seconds for _, seconds in means) / jobs] if means else None
    memory = {name: sum(result["memory"][name] for result in results) for name in first["memory"]}
    return {**first, **shared, "memory": memory}


def written(results: list[Result], facts: str) -> str:
    """Return the tables and their notes, as Markdown."""
    dense = [r for r in results if r["kind"] == "dense"]
    ceiling = {p: max(r["rate"] for r in dense if r["precision"] == p) for p in ("float32", "bfloat16")}
    reference = next(r.get("rate") for r in results if r["kind"] == "torchattacks")
    by_batch = "\n".join(
        f"| {batch} | " + " | ".join(f"{r['rates'][batch]:,.0f}" for r in dense) + " |" for batch in dense[0]["rates"]
    )
    columns = " | ".join(f"{r['label'].removeprefix('dense, ')}, {r['precision']}" for r in dense)
    lines = "\n".join(row(result, ceiling, reference) for result in results)
    return (
        f"{facts}\n\n{HEADER}\n{lines}\n\n"
        + "\n".join([*settled(results), *notes(results)])
        + "\n\nDense passes per second by batch size:\n\n"
        f"| batch | {columns} |\n| ---: |{' ---: |' * len(dense)}\n{by_batch}"
    )


def row(result: Result, ceiling: dict[str, float], reference: float | None) -> str:
    """Return a contender's line of the table."""
    rate, memory = result.get("rate"), result.get("memory")
    share = rate and result["kind"] not in LIBRARIES and f"{rate / ceiling[result['precision']]:.0%}"
    cells = [
        result["label"],
        f"{result['precision']}, {result.get('batch', NONE)}",
        rate and f"{rate:,.0f}",
        share,
        rate and reference and f"{rate / reference:.2f}",
        *(result.get(name) and "{:,.0f}; {:.2f}".format(*result[name]) for name in ("all", "resisting")),
        "survived" in result and f"{sum(result['survived'])} of {len(result['survived'])}",
        memory and f"{memory['peak']} ({memory['loaded']})" + f", GPU {memory['gpu']}" * (memory["gpu"] > 0),
    ]
    return "| " + " | ".join(cell or NONE for cell in cells) + " |"


def settled(results: list[Result]) -> list[str]:
    """Say how much sooner each scan settles a resisting image than torchattacks does, in this run."""
    other = next(result for result in results if result["kind"] == "torchattacks")
    scans = [result for result in results if result.get("method") == "scan"]
    if not other.get("resisting"):
        return []
    return [
        f"- {scan['label']}: a resisting image is settled {other['resisting'][1] / scan['resisting'][1]:.1f} times as "
        f"soon as by {other['label']}."
        for scan in scans
        if scan.get("resisting")
    ]


def notes(results: list[Result]) -> list[str]:
    """Return notes for which the table has no column."""
    said = []
    for result in results:
        label = f"- {result['label']}, {result['precision']}:"
        if "missing" in result:
            said.append(f"{label} {result['missing']}.")
        if "compiling" in result:
            said.append(f"{label} compiling took {result['compiling']:.0f} s.")
        if "rechecked" in result:
            said.append(f"{label} {result['rechecked']:.1%} of the candidates evaluated once more in float32.")
        pairs = zip(result.get("claimed", []), result.get("survived", []), strict=True)
        if lost := sum(claimed and not survived for claimed, survived in pairs):
            said.append(
                f"{label} {lost} of {sum(result['claimed'])} returned images flip only before rounding to 8 bits."
            )
    return said


def facts(machine: Result, libraries: Path) -> str:
    """Return one line about what the numbers depend on."""
    named = [
        path.name for name in ("torchattacks", "adversarial_rob*") for path in libraries.glob(f"{name}-*.dist-info")
    ]
    packages = [f"{name} {version(name)}" for name in ("torch", "numpy")]
    packages += [name.removesuffix(".dist-info").replace("-", " ").replace("_", "-") for name in named]
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "no commit known"
    return (
        f"{datetime.date.today()}; {processor()}, {os.cpu_count()} cores, {machine['threads']} threads, GPU: "
        f"{machine['gpu']}; {platform.system()} {platform.release()}; Python {platform.python_version()}, "
        f"{', '.join(packages)}, onepix {version('onepix')} ({commit}); "
        f"n = {len(machine['ids'])} (bundled images {', '.join(map(str, machine['ids']))})."
    )


def processor() -> str:
    """Return the processor's name."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    return next((li.partition(":")[2].strip() for li in lines if li.startswith("model name")), platform.processor())


def replaced(page: str, text: str, begin: str, end: str) -> str:
    """Return the page with another text between the markers."""
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    typer.run(main)
