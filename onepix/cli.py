"""The commands that a person types. The workflow calls `python -m onepix.jobs` instead."""

import json
from pathlib import Path
from typing import Annotated

import typer

from onepix.errors import OnepixError
from onepix.process import well_behaved

# Modules are imported inside their commands: a command should not wait for what it does not use.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One-pixel attacks, propagation maps and locality analysis.",
)

Cifar10 = Annotated[Path, typer.Option(help="The folder that fetch-cifar10 made.")]
Configurations = Annotated[
    list[Path], typer.Argument(help="One or more configuration files; later files add to earlier ones.")
]


@app.command()
def attack(
    network: Annotated[
        str, typer.Argument(help="A bundled network (lenet, resnet20), a safetensors file, or a name in --config.")
    ],
    pictures: Annotated[list[Path], typer.Argument(help="Files such as PNG or JPEG.")],
    config: Annotated[
        list[Path] | None, typer.Option(help="A configuration with the network; repeat for further files.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="True class, by name or number: one, or one per picture; default: what the network sees."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the images that the network takes, in pixels.", min=1)
    ] = None,
    method: Annotated[str, typer.Option(help="scan, differential_evolution or random_search.")] = "scan",
    budget: Annotated[
        int | None, typer.Option(help="Candidates per picture; default: about a minute of work in all.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of methods that draw at random.", min=0)] = 0,
    output: Annotated[Path, typer.Option(help="Folder that gets one new folder per picture.")] = Path("onepix-attack"),
) -> None:
    """Look for one pixel of each picture that flips its class, and draw its effect in each layer."""
    from onepix.study.attack_pictures import attack_pictures
    from onepix.study.attack_table import say, show
    from onepix.study.subject import find_subject

    subject = find_subject(network, config or (), size)
    labels = label or ()
    show(attack_pictures(subject, pictures, labels, say, method=method, budget=budget, seed=seed, output=output))


@app.command()
def check(
    config: Configurations,
    sample: Annotated[int, typer.Option(help="Images on which accuracy is measured.", min=1)] = 100,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is missing.")] = False,
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
    config: Configurations,
    trial: Annotated[bool, typer.Option(help="Measure how fast the networks are.")] = True,
) -> None:
    """Say which jobs the workflow would run in this folder, why, and how long the attacks take at most."""
    from onepix.config.study import load
    from onepix.study.plan import ask_snakemake, estimates
    from onepix.study.plan_table import show

    study = load(*config)
    workflow = ask_snakemake(study, config)
    show(workflow, estimates(study, workflow, trial))


@app.command()
def verify(
    results: Annotated[Path, typer.Argument(help="The folder of results.")],
    data: Annotated[Path, typer.Option(help="The folder of fetched datasets and networks.")] = Path("data"),
    sample: Annotated[int, typer.Option(help="Attacked images per run that are classified again.", min=0)] = 8,
) -> None:
    """Compare the results of a study with their digests, and classify a sample of attacked images again."""
    from onepix.study.verify import lines

    for line in lines(results, data, sample):
        typer.echo(line)


@app.command()
def evaluate(
    networks: Annotated[list[str], typer.Argument(help="Names of bundled networks, or safetensors files.")],
    cifar10: Cifar10,
) -> None:
    """Print the accuracy of networks on CIFAR-10's 10,000 test images."""
    from onepix.study.evaluate import accuracies

    for name, accuracy in accuracies(networks, cifar10):
        typer.echo(f"{name}: {accuracy:.2%}")


@app.command()
def train(
    architecture: Annotated[str, typer.Argument(help="lenet, resnet20, nin, wrn-16-8, vit-lite-7-4, …")],
    cifar10: Cifar10,
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    seed: Annotated[int, typer.Option(help="Seed of initial weights, order of images and augmentation.")] = 0,
) -> None:
    """Train a network on CIFAR-10 by its recipe; a second call resumes."""
    from onepix.jobs import training

    network = {"architecture": architecture, "weights": "train", "seed": seed}
    training.run(json.dumps({"network": network}), cifar10, output)


@app.command()
def fetch_cifar10(
    folder: Annotated[Path, typer.Argument(help="Where the six official binary files go.")],
    existing: Annotated[Path | None, typer.Option(help="A folder with a copy, instead of a download.")] = None,
) -> None:
    """Fetch CIFAR-10 and compare each file with its published MD5."""
    from onepix.datasets.cifar10 import fetch_cifar10 as fetch

    source = fetch(folder, existing)
    typer.echo(f"CIFAR-10 from {source}: six files in {folder}, all as published")


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    from onepix.config.study import json_schema

    typer.echo(json_schema(), nl=False)


def main() -> None:
    """Run a command; a user's mistake or a full disk ends in one line, not in a traceback."""
    with well_behaved():
        app()
