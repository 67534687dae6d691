"""The command line: one subcommand a rule of the workflow, and a few for people."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from onepix.errors import OnepixError

# Jobs are imported inside their commands: a command should not wait for what it does not use.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One-pixel attacks, propagation maps and locality analysis.",
)

Settings = Annotated[str, typer.Option(help="The job's settings as JSON.")]
Manifest = Annotated[Path, typer.Option(help="Manifest of a fetched dataset or network, or of attack records.")]
Chunks = Annotated[list[Path], typer.Argument(help="Manifests of a run's chunks; their folders name the stages.")]
Table = Annotated[Path, typer.Option(help="A gathered table, CSV.")]
Output = Annotated[Path, typer.Option(help="What to write.")]
Figure = Annotated[Path, typer.Option(help="The PNG to write; a PDF goes beside it.")]
Cifar10 = Annotated[Path, typer.Option(help="The folder that fetch-cifar10 made, or its manifest.")]


@app.command()
def fetch_cifar10(
    folder: Annotated[Path | None, typer.Argument(help="Where the six official binary files go.")] = None,
    existing: Annotated[Path | None, typer.Option(help="A folder with a copy, instead of downloading.")] = None,
    output: Annotated[Path | None, typer.Option(help="A manifest; the folder then goes beside it.")] = None,
    settings: Annotated[str | None, typer.Option(help="Settings as JSON, in place of existing.")] = None,
) -> None:
    """Fetch CIFAR-10 and compare each file with its published MD5."""
    from onepix.datasets.cifar10 import fetch_cifar10 as fetch
    from onepix.jobs import cifar10 as fetch_cifar10

    if (folder is None) == (output is None):
        raise OnepixError("fetch-cifar10: name either the folder where the files go, or --output")
    if output:
        settings = settings or json.dumps({"existing": existing and str(existing)})
        source, folder = fetch_cifar10.run(settings, output), output.with_suffix("")
    elif folder:
        source = fetch(folder, existing)
    typer.echo(f"CIFAR-10 from {source}: six files in {folder}, all as published")


@app.command()
def fetch_dataset(
    settings: Settings,
    output: Output,
    cifar10: Annotated[Path | None, typer.Argument(help="For CIFAR-10, what fetch-cifar10 wrote: a manifest.")] = None,
) -> None:
    """Fetch one dataset."""
    from onepix.jobs import datasets as fetch_dataset

    fetch_dataset.run(settings, cifar10, output)


@app.command()
def select(settings: Settings, dataset: Manifest, output: Output) -> None:
    """List the images that a rule chooses from a dataset."""
    from onepix.jobs import selection as select

    select.run(settings, dataset, output)


@app.command()
def train(
    cifar10: Cifar10,
    output: Output,
    architecture: Annotated[str | None, typer.Argument(help="lenet, resnet20, nin, wrn-16-8, vit-lite-7-4, …")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    settings: Annotated[str | None, typer.Option(help="Settings as JSON, in place of architecture and seed.")] = None,
) -> None:
    """Train a network on CIFAR-10 by its recipe; a second call resumes."""
    from onepix.jobs import training as train

    if settings is None and architecture is None:
        raise OnepixError("train: name an architecture, such as lenet or resnet20")
    network = {"architecture": architecture, "weights": "train", "seed": seed}
    reached = train.run(settings or json.dumps({"network": network}), cifar10, output)
    typer.echo(f"{output}: {reached:.2%} of the 10,000 test images are classified correctly")


@app.command()
def evaluate(
    networks: Annotated[list[str], typer.Argument(help="Names of bundled networks, or safetensors files.")],
    cifar10: Cifar10,
) -> None:
    """Print the accuracy of networks on CIFAR-10's 10,000 test images."""
    from onepix.datasets.cifar10 import read_cifar10
    from onepix.engine.devices import choose_device
    from onepix.networks.training import accuracy
    from onepix.networks.weights import bundled, load_network_file

    test = read_cifar10(cifar10, "test")
    for name in networks:
        path = bundled().get(name, Path(name))
        device = choose_device("auto")
        typer.echo(f"{name}: {accuracy(load_network_file(path, device), test, device):.2%}")


@app.command()
def fetch_network(
    settings: Settings,
    output: Output,
    trained: Annotated[Path | None, typer.Argument(help="For weights: train, what train wrote.")] = None,
) -> None:
    """Fetch one network and check its weights."""
    from onepix.jobs import networks as fetch_network

    typer.echo(f"weights of {output.parent.name}: {fetch_network.run(settings, trained, output)}")


@app.command()
def attack(settings: Settings, dataset: Manifest, network: Manifest, output: Output) -> None:
    """Attack one chunk of images."""
    from onepix.jobs import attack

    attack.run(settings, dataset, network, output)


@app.command()
def propagate(settings: Settings, dataset: Manifest, network: Manifest, attack: Manifest, output: Output) -> None:
    """Follow the pixel changes of one chunk through every layer."""
    from onepix.jobs import propagation as propagate

    propagate.run(settings, dataset, network, attack, output)


@app.command()
def locality(settings: Settings, dataset: Manifest, network: Manifest, attack: Manifest, output: Output) -> None:
    """Move the colours of one chunk's successes to every position."""
    from onepix.jobs import locality

    locality.run(settings, dataset, network, attack, output)


@app.command()
def propagate_controls(
    settings: Settings, dataset: Manifest, network: Manifest, locality: Manifest, output: Output
) -> None:
    """Follow the matched controls of one chunk's successes through every layer."""
    from onepix.jobs import controls

    controls.run(settings, dataset, network, locality, output)


@app.command()
def find_receptive_fields(settings: Settings, dataset: Manifest, network: Manifest, output: Output) -> None:
    """Find the receptive fields of one network, by its geometry and by gradient."""
    from onepix.jobs import receptive_fields as fields

    fields.run(settings, dataset, network, output)


@app.command()
def transfer(
    settings: Settings,
    dataset: Manifest,
    network: Manifest,
    output: Output,
    attacks: Annotated[list[Path], typer.Argument(help="Manifests of attack records of other networks.")],
) -> None:
    """Try the successes of other networks on one network."""
    from onepix.jobs import transfer

    transfer.run(settings, dataset, network, attacks, output)


@app.command()
def share(
    settings: Settings,
    output: Output,
    files: Annotated[
        list[Path], typer.Argument(help="CSV that transfer wrote; manifests of position maps, or of whole scans.")
    ],
) -> None:
    """Write the table of what networks share."""
    from onepix.jobs import sharing as share

    share.run(settings, files, output)


@app.command()
def summarise(
    settings: Settings,
    output: Annotated[Path, typer.Option(help="The Parquet file to write; tables go beside it.")],
    manifests: Chunks,
) -> None:
    """Write the attack records and the tables of one run."""
    from onepix.jobs import summary as summarise

    summarise.run(settings, manifests, output)


@app.command()
def draw(
    settings: Settings,
    dataset: Manifest,
    records: Annotated[Path, typer.Option(help="The Parquet file that summarise wrote; tables lie beside it.")],
    output: Annotated[Path, typer.Option(help="One of the figures; all go into its folder.")],
    manifests: Chunks,
) -> None:
    """Draw the figures of one run."""
    from onepix.jobs import figures as draw

    draw.run(settings, dataset, records, manifests, output)


@app.command()
def gather_tables(output: Output, tables: Annotated[list[Path], typer.Argument(help="CSV.")]) -> None:
    """Write the tables of all runs one below the other."""
    from onepix.jobs import tables as gather

    gather.run(tables, output)


@app.command()
def draw_locality_chart(settings: Settings, table: Table, output: Figure) -> None:
    """Draw the locality chart of all runs."""
    from onepix.jobs import charts as draw_all

    draw_all.run_chart(settings, table, output)


@app.command()
def draw_distance_profile(settings: Settings, table: Table, output: Figure) -> None:
    """Draw the distance profiles of all runs."""
    from onepix.jobs import charts as draw_all

    draw_all.run_profile(settings, table, output)


@app.command()
def draw_receptive_fields(
    settings: Settings,
    table: Table,
    neighbourhood: Annotated[Path, typer.Option(help="The gathered neighbourhood table.")],
    output: Figure,
) -> None:
    """Draw the receptive fields of all networks beside the length scale of their weakness."""
    from onepix.jobs import charts as draw_all

    draw_all.run_receptive_fields(settings, table, neighbourhood, output)


@app.command()
def draw_sharing(settings: Settings, table: Table, output: Figure) -> None:
    """Draw what networks share."""
    from onepix.jobs import sharing_figures as draw_sharing

    draw_sharing.run(settings, table, output)


@app.command()
def record_configuration(settings: Settings, output: Output) -> None:
    """Write the whole configuration, defaults included, as YAML."""
    from onepix.jobs import provenance as trace

    trace.run_record(settings, output)


@app.command()
def gather_provenance(
    output: Output,
    manifests: Annotated[list[Path], typer.Argument(help="Of datasets, networks, receptive fields and chunks.")],
) -> None:
    """Write the table of what each result was made from, by what and on what."""
    from onepix.jobs import provenance as trace

    trace.run_gather(manifests, output)


@app.command()
def check(
    config: Annotated[list[Path], typer.Argument(help="A configuration; of several files, later ones add to earlier.")],
    sample: Annotated[int, typer.Option(help="Images on which accuracy is measured.", min=1)] = 100,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch what is not at hand.")] = False,
) -> None:
    """Try every network and dataset of a configuration before it runs."""
    from onepix.config.study import load
    from onepix.study.check import check
    from onepix.study.check_table import show

    study = load(*config)
    if faults := show(study, check(study, sample, fetch)):
        raise OnepixError(f"{faults} of the rows above would stop the run")


@app.command()
def plan(
    config: Annotated[list[Path], typer.Argument(help="A configuration; of several files, later ones add to earlier.")],
    trial: Annotated[bool, typer.Option(help="Try out what finished jobs do not tell the speed of.")] = True,
) -> None:
    """Say what a run of the workflow would do in this folder, why, and how much that is."""
    from onepix.config.study import load
    from onepix.study.estimates import estimate
    from onepix.study.plan import ask_snakemake
    from onepix.study.plan_table import show

    study = load(*config)
    workflow = ask_snakemake(study, config)
    show(workflow, estimate(study, workflow, trial))


@app.command()
def verify(
    results: Annotated[Path, typer.Argument(help="The folder of results.")],
    data: Annotated[Path, typer.Option(help="The folder of fetched datasets and networks.")] = Path("data"),
    sample: Annotated[int, typer.Option(help="Attacked images of each run that are classified again.", min=0)] = 8,
) -> None:
    """Check what a study has left on disk, and do a sample of it again."""
    from onepix.engine.devices import choose_device
    from onepix.study.verify import chunks_in, verify

    chunks = chunks_in(results, data)
    faults = list(verify(results, data, sample, choose_device("auto")))
    for fault in faults:
        typer.echo(f"{fault.what}\n  to repair: snakemake --cores all --force {fault.target}")
    if faults:
        raise OnepixError(f"{results}: {len(faults)} faults in {len(chunks)} chunks")
    typer.echo(f"{results}: {len(chunks)} chunks, all as they were written")


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    from onepix.config.study import json_schema

    typer.echo(json_schema(), nl=False)


def _keep_to_threads() -> None:
    """Let dask and zarr start no more threads than OMP_NUM_THREADS, which PyTorch, NumPy and Arrow heed by themselves.

    Snakemake sets it to a job's threads. Where it is not set, all of them use all cores.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads):
        for name in ("DASK_NUM_WORKERS", "ZARR_THREADING__MAX_WORKERS"):
            os.environ.setdefault(name, threads)


def main() -> None:
    """Run a command; a user's mistake or a full disk ends in one line, not in a traceback."""
    # A scheduler's SIGTERM would end Python on the spot, and leave temporary files behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("onepix: stopped by SIGTERM"))
    _keep_to_threads()
    try:
        app()
    except OnepixError as error:
        sys.exit(f"onepix: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"onepix: {where}{error.strerror or error}")
