"""Trains a network on CIFAR-10 by a recipe: the same seed and machine give the same weights."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onepix.config.networks import Recipe
from onepix.errors import OnepixError
from onepix.files.atomic import replacing
from onepix.images import ImageSet
from onepix.networks.build import family_of
from onepix.networks.classifier import Classifier
from onepix.progress import progress_bar

WARM_UP = 0.25  # of the steps: the learning rate rises
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the CIFAR-10 training set, by channel
# By family. From nin on, batch size, weight decay and epochs are those of the named sources. Their learning rate falls
# in steps; the peak here is their first rate, or half of it where our larger initial weights need care.
RECIPES = {
    "lenet": Recipe(epochs=60, peak_learning_rate=0.05, crop_padding=2),
    "resnet": Recipe(epochs=40, peak_learning_rate=0.2, precision="bfloat16"),
    # The solver file of Lin et al. (2014): 120,000 steps of 128 images, first rate 0.1.
    "nin": Recipe(epochs=307, peak_learning_rate=0.05, weight_decay=1e-4, precision="bfloat16"),
    # Springenberg et al. (2015), section 3: first rate 0.25, 0.1, 0.05 or 0.01; they do not state the batch size.
    "allconv": Recipe(epochs=350, peak_learning_rate=0.05, weight_decay=1e-3, precision="bfloat16"),
    # Zagoruyko (2015), whom Li et al. (2017) follow; their first rate is 1, ours that of a ResNet.
    "vgg": Recipe(epochs=300, peak_learning_rate=0.1, precision="bfloat16"),
    # Zagoruyko and Komodakis (2016), section 3.
    "wrn": Recipe(epochs=200, peak_learning_rate=0.1, precision="bfloat16"),
    # Huang et al. (2017), section 4.2.
    "densenet": Recipe(epochs=300, batch_size=64, peak_learning_rate=0.1, weight_decay=1e-4, precision="bfloat16"),
    # The training example of Hassani et al. (2021), without AutoAugment and label smoothing.
    "vit": Recipe(
        epochs=200,
        optimiser="adamw",
        initialisation="own",
        peak_learning_rate=5e-4,
        weight_decay=3e-2,
        precision="bfloat16",
    ),
}


def recipe_for(architecture: str) -> Recipe:
    """Return the recipe of an architecture's family; by default that of a ResNet."""
    return RECIPES.get(family_of(architecture) or "", RECIPES["resnet"])


@dataclasses.dataclass
class _State:
    classifier: Classifier
    optimiser: torch.optim.Optimizer
    epoch: int


def train(
    classifier: Classifier,
    training: ImageSet,
    recipe: Recipe,
    seed: int,
    checkpoint: Path,
    device: str,
    description: str = "train",
) -> None:
    """Train a classifier in place; resume from `checkpoint` if it belongs to the same recipe and seed.

    Parameters
    ----------
    classifier : Classifier
        Newly built. Its convolutions and linear layers are initialised here from `seed`, unless the recipe keeps the
        initial weights of the architecture: then seed PyTorch before you build it.
    training : ImageSet
        uint8 images and labels.
    recipe : Recipe
        Stochastic gradient descent with Nesterov momentum, or AdamW, on randomly cropped and mirrored images; the
        learning rate rises linearly, then falls linearly.
    seed : int
        Sets initial weights, order of images, augmentation and dropout.
    checkpoint : Path
        Written after each epoch.
    device : str
        A torch device.
    description : str
        Names the progress bar.

    Raises
    ------
    OnepixError
        If the loss is no longer finite, or the checkpoint belongs to another recipe or seed.
    """
    images = torch.from_numpy(training.images).to(device)
    labels = torch.from_numpy(training.labels).to(device)
    state = _start_or_resume(classifier.to(device), recipe, seed, checkpoint)
    classifier.train()
    with progress_bar(recipe.epochs, description, "epoch", initial=state.epoch) as bar:
        while state.epoch < recipe.epochs:
            loss = _train_epoch(state, images, labels, recipe, seed)
            if not math.isfinite(loss):
                raise OnepixError(f"training: the loss is {loss} in epoch {state.epoch}; lower peak_learning_rate")
            state.epoch += 1
            _save(state, recipe, seed, checkpoint)
            bar.update(loss=f"{loss:.4f}")
    classifier.eval()


@torch.no_grad()
def accuracy(classifier: Classifier, images: ImageSet, device: str, batch_size: int = 500) -> float:
    """Return the proportion of images that are classified as labelled, in float32."""
    classifier.to(device).eval()
    correct = 0
    for start in range(0, len(images.ids), batch_size):
        batch = torch.from_numpy(images.images[start : start + batch_size]).to(device)
        predicted = classifier(batch).argmax(1).cpu()
        correct += int((predicted == torch.from_numpy(images.labels[start : start + batch_size])).sum())
    return correct / len(images.ids)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear rise from zero to the peak, then a linear fall to zero."""
    summit = WARM_UP * steps
    fraction = (step + 1) / summit if step + 1 < summit else (steps - step) / (steps - summit)
    return recipe.peak_learning_rate * min(fraction, 1.0)


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Pad each image with the mean value of the batch, crop it at random, and mirror half of the images.

    Parameters
    ----------
    images : Tensor
        uint8, shape (N, H, W, C).

    Returns
    -------
    Tensor
        uint8, same shape.
    """
    count, height, width, _ = images.shape
    pad = recipe.crop_padding
    padded = F.pad(images, (0, 0, pad, pad, pad, pad), value=int(images.float().mean()))
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < (0.5 if recipe.mirror else 0.0)
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(mirrored, columns.flip(1), columns) + left
    rows = torch.arange(height).expand(count, height) + top
    index = torch.arange(count)[:, None, None]
    rows, columns, index = (t.to(images.device) for t in (rows[:, :, None], columns[:, None, :], index))
    return padded[index, rows, columns]


def _train_epoch(state: _State, images: Tensor, labels: Tensor, recipe: Recipe, seed: int) -> float:
    """Train one epoch, whose randomness depends only on seed and epoch; return the mean loss."""
    torch.manual_seed(_seed_of(seed, state.epoch))  # for dropout
    losses = []
    steps_per_epoch = len(images) // recipe.batch_size
    for step, (batch, target) in enumerate(_batches(images, labels, recipe, seed, state.epoch)):
        rate = learning_rate(recipe, state.epoch * steps_per_epoch + step, recipe.epochs * steps_per_epoch)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = F.cross_entropy(state.classifier(batch).float(), target)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _seed_of(seed: int, epoch: int) -> int:
    return seed * 100_003 + epoch


def _batches(images: Tensor, labels: Tensor, recipe: Recipe, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(_seed_of(seed, epoch))
    order = torch.randperm(len(images), generator=generator).to(images.device)
    full = len(images) // recipe.batch_size * recipe.batch_size
    for index in torch.split(order[:full], recipe.batch_size):
        yield augment(images[index], recipe, generator), labels[index]


def _initialise(classifier: Classifier, seed: int) -> None:
    torch.manual_seed(seed)
    for module in classifier.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _optimiser(classifier: Classifier, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; the learning rate is set at every step."""
    parameters, decay = classifier.parameters(), recipe.weight_decay
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=0.0, betas=(recipe.momentum, 0.999), weight_decay=decay)
    return torch.optim.SGD(parameters, lr=0.0, momentum=recipe.momentum, weight_decay=decay, nesterov=True)


def _start_or_resume(classifier: Classifier, recipe: Recipe, seed: int, checkpoint: Path) -> _State:
    if recipe.initialisation == "he":
        _initialise(classifier, seed)
    optimiser = _optimiser(classifier, recipe)
    state = _State(classifier, optimiser, 0)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=classifier.mean.device)
        if (saved["recipe"], saved["seed"]) != (recipe.model_dump(), seed):
            raise OnepixError(f"{checkpoint}: made by another recipe or seed; delete it to train from the beginning")
        classifier.load_state_dict(saved["classifier"])
        optimiser.load_state_dict(saved["optimiser"])
        state.epoch = saved["epoch"]
    return state


def _save(state: _State, recipe: Recipe, seed: int, checkpoint: Path) -> None:
    contents = {
        "classifier": state.classifier.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "epoch": state.epoch,
        "recipe": recipe.model_dump(),
        "seed": seed,
    }
    with replacing(checkpoint) as temporary:
        torch.save(contents, temporary)
