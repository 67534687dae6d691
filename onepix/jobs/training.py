"""Train one network on CIFAR-10."""

import hashlib

import torch
import typer

from onepix.config.base import Settings
from onepix.config.networks import NetworkSettings, factory_of
from onepix.config.reading import canonical
from onepix.datasets.cifar10 import read_cifar10
from onepix.engine.devices import claimed_device
from onepix.errors import OnepixError
from onepix.jobs.inputs import JsonText, Manifest, Output, cifar10_folder, read_settings
from onepix.networks.build import DEFAULT_CHANNELS, build, default_classes
from onepix.networks.classifier import Classifier
from onepix.networks.factories import origin_of
from onepix.networks.training import MEAN, STD, accuracy, recipe_for, train
from onepix.networks.weights import save_classifier

CLASSES = 10


class TrainingJob(Settings):
    """Settings of the job."""

    network: NetworkSettings
    device: str = "auto"


def run(settings: JsonText, cifar10: Manifest, output: Output) -> float:
    """Write trained weights to `output`, resuming from a checkpoint next to it; print and return the test accuracy.

    `cifar10` is the folder of CIFAR-10, or its manifest.
    """
    job, cifar10 = read_settings(TrainingJob, settings), cifar10_folder(cifar10)
    network = job.network
    classes = network.classes or default_classes(network.architecture)
    channels = network.channels or DEFAULT_CHANNELS
    if (classes, channels) != (CLASSES, DEFAULT_CHANNELS):
        raise OnepixError(
            f"network {network.architecture}: CIFAR-10 has {CLASSES} classes and 3 channels, "
            f"got {classes} and {channels}"
        )
    recipe = network.recipe or recipe_for(network.architecture)
    torch.manual_seed(network.seed)  # for a recipe that keeps the initial weights of the architecture
    built = build(network.architecture, classes, arguments=network.arguments)
    mean, std = (value * (channels // len(value)) for value in (network.mean or MEAN, network.std or STD))
    classifier = Classifier(built, mean, std)
    device = claimed_device(job.device)
    identity = canonical(
        {
            "architecture": network.architecture,
            "arguments": network.arguments,
            "code": origin_of(factory[0]) if (factory := factory_of(network.architecture)) else None,
            "recipe": recipe,
            "seed": network.seed,
        }
    )
    name = f".{output.name}.{hashlib.sha256(identity.encode()).hexdigest()[:12]}.checkpoint"
    checkpoint = output.parent / name
    training = read_cifar10(cifar10, "train")
    train(classifier, training, recipe, network.seed, checkpoint, device, f"train {network.architecture}")
    reached = accuracy(classifier, read_cifar10(cifar10, "test"), device)
    metadata = {
        "architecture": network.architecture,
        "classes": classes,
        "channels": channels,
        "recipe": recipe.model_dump(),
        "seed": network.seed,
        "training_data": "CIFAR-10, 50,000 training images",
        "test_accuracy": reached,
    }
    save_classifier(classifier, output, metadata)
    checkpoint.unlink()
    typer.echo(f"{output}: {reached:.2%} of the 10,000 test images are classified correctly")
    return reached
