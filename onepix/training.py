"""Training a network on CIFAR-10 by a written recipe: same seed and machine, same weights."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onepix.config import Recipe
from onepix.errors import OnepixError
from onepix.images import ImageSet
from onepix.models import LENET
from onepix.models.classifier import Classifier
from onepix.progress import progress_bar
from onepix.store import replacing

WARM_UP = 0.25  # share of the steps in which the learning rate rises
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the CIFAR-10 training set, by channel
RECIPES = {
    "lenet": Recipe(epochs=60, peak_learning_rate=0.05, crop_padding=2),
    "resnet": Recipe(epochs=40, peak_learning_rate=0.2, precision="bfloat16"),
}


def recipe_for(architecture: str) -> Recipe:
    """Return the recipe of an architecture of ours; a ResNet's serves every depth and every other network."""
    return RECIPES["lenet" if LENET.fullmatch(architecture) else "resnet"]


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
        Freshly built; its parameters are initialised here from `seed`.
    training : ImageSet
        uint8 images and labels.
    recipe : Recipe
        Stochastic gradient descent with Nesterov momentum, the learning rate rising and then falling
        linearly, on randomly cropped and mirrored images.
    seed : int
        Fixes initial weights, order and augmentation.
    checkpoint : Path
        Written after each epoch.
    device : str
        A torch device.
    description : str
        Names the progress bar.

    Raises
    ------
    OnepixError
        If the loss is no longer finite, or the checkpoint is of another recipe.
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
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update()
    classifier.eval()


@torch.no_grad()
def accuracy(classifier: Classifier, images: ImageSet, device: str, batch_size: int = 500) -> float:
    """Return the share of images classified as labelled, in float32."""
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
    share = (step + 1) / summit if step + 1 < summit else (steps - step) / (steps - summit)
    return recipe.peak_learning_rate * min(share, 1.0)


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Crop each image at random after padding with the mean value of the batch, and mirror half of them.

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
    """Train one epoch, its randomness set by seed and epoch alone; return the mean loss."""
    losses = []
    steps_an_epoch = len(images) // recipe.batch_size
    for step, (batch, target) in enumerate(_batches(images, labels, recipe, seed, state.epoch)):
        rate = learning_rate(recipe, state.epoch * steps_an_epoch + step, recipe.epochs * steps_an_epoch)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = F.cross_entropy(state.classifier(batch).float(), target)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _batches(images: Tensor, labels: Tensor, recipe: Recipe, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    full = len(images) // recipe.batch_size * recipe.batch_size
    for index in torch.split(order[:full], recipe.batch_size):
        yield augment(images[index], recipe, generator), labels[index]


def _start_or_resume(classifier: Classifier, recipe: Recipe, seed: int, checkpoint: Path) -> _State:
    torch.manual_seed(seed)
    for module in classifier.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    optimiser = torch.optim.SGD(
        classifier.parameters(), lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    state = _State(classifier, optimiser, 0)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=classifier.mean.device)
        if (saved["recipe"], saved["seed"]) != (recipe.model_dump(), seed):
            raise OnepixError(f"{checkpoint}: made by another recipe or seed; delete it to train afresh")
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
