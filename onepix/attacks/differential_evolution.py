"""The one-pixel attack of Su, Vargas and Sakurai (2017) by differential evolution."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onepix.attacks.outcome import Outcome
from onepix.config import DifferentialEvolution
from onepix.pixels import Perturbation, from_genes

Floats = npt.NDArray[np.float64]
Evaluate = Callable[[Tensor, Perturbation], Tensor]


@dataclasses.dataclass
class _Search:
    """The images still searched: B of them, with N candidates of one pixel and G = 2 + C genes each."""

    images: Tensor  # (B,) which image
    genes: Tensor  # (B, N, 1, G)
    fitness: Tensor  # (B, N) probability of the true class

    def keep(self, wanted: Tensor) -> "_Search":
        return _Search(self.images[wanted], self.genes[wanted], self.fitness[wanted])


def differential_evolution(
    evaluate: Evaluate,
    labels: Tensor,
    ids: Sequence[int],
    shape: tuple[int, int, int],
    settings: DifferentialEvolution,
    report: Callable[[int, int, int], None],
) -> Outcome:
    """Search for the pixel whose change flips the class, on all images at once.

    The true class's probability is minimised. A child x1 + F (x2 − x3) has no crossover and competes with
    its own parent; every candidate of every generation, the first included, is checked for a flip, and an
    image leaves the search with the flip of least true-class probability in its generation. Genes that
    leave their range are set to the bound, a point on which the paper is silent.

    Parameters
    ----------
    evaluate : callable
        Takes which image each candidate changes (int64, shape (M,)) and M candidates; returns their
        logits, float32, shape (M, classes).
    labels : Tensor
        int64, shape (B,): true classes.
    ids : sequence of int
        Of the images; with the seed, each sets its image's own random stream.
    shape : tuple of int
        Height, width and channels of the images.
    settings : DifferentialEvolution
        Population, generations, differential weight, distribution of initial colours, seed.
    report : callable
        Called after each generation with the numbers of generations done, images active and images flipped.

    Returns
    -------
    Outcome
        For each image the flip, or the candidate of least true-class probability if there is none.

    Notes
    -----
    Su, Vargas and Sakurai, "One Pixel Attack for Fooling Deep Neural Networks" (2017), section III.
    """
    streams = [np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(image,))) for image in ids]
    outcome = Outcome.empty(len(ids), pixels=1, channels=shape[2], device=labels.device)
    upper = torch.tensor([shape[0], shape[1], *[255] * shape[2]], dtype=torch.float64, device=labels.device)
    lower = torch.zeros_like(upper)
    genes = _stack([_initial(stream, shape, settings) for stream in streams], labels.device).clamp(lower, upper)
    search = _Search(torch.arange(len(ids), device=labels.device), genes, torch.empty(0))
    for generation in range(settings.generations + 1):
        if generation > 0:
            parents = _stack([_parents(streams[i], settings.population) for i in search.images.tolist()], labels.device)
            genes = _children(search.genes, parents, settings.differential_weight).clamp(lower, upper)
        logits = _logits(evaluate, search.images, genes, shape)
        search = _selected(search, genes, _probability(logits, labels[search.images]), first=generation == 0)
        flips = logits.argmax(-1) != labels[search.images, None]
        _note(outcome, search, genes, flips, logits, labels, generation, shape)
        search = search.keep(~flips.any(1))
        report(generation, len(search.images), int(outcome.flipped.sum()))
        if len(search.images) == 0:
            break
    return outcome


def _initial(stream: np.random.Generator, shape: tuple[int, int, int], settings: DifferentialEvolution) -> Floats:
    """Draw the first population, (N, 1, G): positions uniform, colours normal."""
    height, width, channels = shape
    positions = stream.uniform(0, (height, width), size=(settings.population, 2))
    colours = stream.normal(settings.colour_mean, settings.colour_std, size=(settings.population, channels))
    return np.concatenate([positions, colours], axis=1)[:, None, :]


def _parents(stream: np.random.Generator, population: int) -> npt.NDArray[np.int64]:
    """Draw r1, r2 and r3 for each child, (N, 3): uniform among the triples of distinct members."""
    first, second, third = (stream.integers(population - k, size=population) for k in range(3))
    second += second >= first
    low, high = np.minimum(first, second), np.maximum(first, second)
    third += third >= low
    third += third >= high
    return np.stack([first, second, third], axis=1)


def _children(genes: Tensor, parents: Tensor, weight: float) -> Tensor:
    """Return x_r1 + F (x_r2 − x_r3)."""
    index = torch.arange(len(genes), device=genes.device)[:, None]
    first, second, third = (genes[index, parents[:, :, k]] for k in range(3))
    return first + weight * (second - third)


def _logits(evaluate: Evaluate, images: Tensor, genes: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Evaluate (B, N) candidates; return logits (B, N, classes)."""
    count, population = genes.shape[:2]
    candidates = from_genes(genes.flatten(0, 1), shape[0], shape[1])
    return evaluate(images.repeat_interleave(population), candidates).reshape(count, population, -1)


def _probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of the true class, (B, N)."""
    index = labels[:, None, None].expand(*logits.shape[:2], 1)
    return logits.softmax(-1).gather(2, index).squeeze(2)


def _selected(search: _Search, genes: Tensor, fitness: Tensor, first: bool) -> _Search:
    """Let each child take its own parent's place where it is better."""
    if first:
        return _Search(search.images, genes, fitness)
    better = fitness < search.fitness
    return _Search(
        search.images,
        torch.where(better[:, :, None, None], genes, search.genes),
        torch.where(better, fitness, search.fitness),
    )


def _note(
    outcome: Outcome,
    search: _Search,
    genes: Tensor,
    flips: Tensor,
    logits: Tensor,
    labels: Tensor,
    generation: int,
    shape: tuple[int, int, int],
) -> None:
    """Write down each image's best candidate so far, and its flip if this generation has one."""
    images, population = search.images, genes.shape[1]
    flipped = flips.any(1)
    fitness_of_flips = _probability(logits, labels[images]).where(flips, torch.inf)
    index = torch.arange(len(images), device=images.device)
    chosen = torch.where(
        flipped[:, None, None], genes[index, fitness_of_flips.argmin(1)], search.genes[index, search.fitness.argmin(1)]
    )
    outcome.best.rows[images], outcome.best.columns[images], outcome.best.values[images] = dataclasses.astuple(
        from_genes(chosen, shape[0], shape[1])
    )
    outcome.flipped[images] = flipped
    outcome.queries[images] = (generation + 1) * population
    first_flip = flips.int().argmax(1) + 1
    outcome.queries_to_success[images] = torch.where(flipped, generation * population + first_flip, -1)
    outcome.generations[images] = generation


def _stack(arrays: Sequence[npt.NDArray[np.generic]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)
