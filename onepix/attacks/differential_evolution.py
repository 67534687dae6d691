"""Differential evolution: the one of Su, Vargas and Sakurai (2017), and the variant that attack libraries use."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import qmc
from torch import Tensor

from onepix.config.attacks import DifferentialEvolution
from onepix.pixels import FULL, Perturbation, from_genes

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Weight = float | tuple[float, float] | None


class Evolution:
    """Differential evolution on A images at once: N candidates per image, P pixels each, G = 2 + C genes per pixel.

    A child competes with its own parent and replaces it if it is better. `paper`: x1 + F (x2 − x3), F = 0.5, no
    crossover; positions start uniform, colours normal; genes that leave their range are set to the bound (the paper
    does not say). `best1bin`: best + F (x1 − x2), F drawn for each generation, crossover 1, a Latin hypercube to
    start, genes that leave their range drawn again. That is scipy's optimiser with the settings that attack libraries
    give it, except that whole generations are evaluated together.

    Parameters
    ----------
    settings : DifferentialEvolution
        Variant, population, generations and the like.
    streams : sequence of Generator
        One random stream per attack.
    shape : tuple of int
        Height, width and channels of the images.
    device : torch.device
        Of the populations.

    Notes
    -----
    Su, Vargas and Sakurai, "One Pixel Attack for Fooling Deep Neural Networks" (2017), section III; Storn and Price,
    "Differential Evolution" (1997).
    """

    passes = 0

    def __init__(
        self,
        settings: DifferentialEvolution,
        streams: Sequence[np.random.Generator],
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        height, width, channels = shape
        self.settings, self.streams, self.shape, self.device = settings, streams, shape, device
        self.round_size = settings.population
        self.upper = torch.tensor([height, width, *[FULL] * channels], dtype=torch.float64, device=device)
        self.active: list[int] = []
        self.generation = torch.empty(0, dtype=torch.int64, device=device)  # (A,)
        self.genes = torch.empty(0, self.round_size, settings.pixels, 2 + channels, dtype=torch.float64, device=device)
        self.fitness = torch.empty(0, self.round_size, device=device)  # (A, N)
        self.trials = self.genes

    def room(self, candidates: int) -> int:
        """Return how many attacks fill a round, less the active ones."""
        return math.ceil(candidates / self.round_size) - len(self.active)

    def admit(self, attacks: Sequence[int]) -> None:
        """Draw first populations."""
        if not attacks:
            return
        self.active += attacks
        first = _stack([self._first(self.streams[attack]) for attack in attacks], self.device)
        self.genes = torch.cat([self.genes, first.clamp(torch.zeros_like(self.upper), self.upper)])
        self.fitness = torch.cat([self.fitness, torch.full(first.shape[:2], torch.inf, device=self.device)])
        self.generation = torch.cat([self.generation, torch.zeros(len(attacks), dtype=torch.int64, device=self.device)])

    def propose(self) -> tuple[Perturbation, Tensor]:
        """Propose first populations as they are, and a child of each member of the others."""
        started = self.generation > 0
        self.trials = self.genes.clone()
        if started.any():
            streams = [self.streams[a] for a, s in zip(self.active, started.tolist(), strict=True) if s]
            children = _paper_children if self.settings.variant == "paper" else _best_children
            weight = self.settings.differential_weight
            self.trials[started] = children(self.genes[started], self.fitness[started], streams, weight, self.upper)
        height, width, _ = self.shape
        return from_genes(self.trials.flatten(0, 1), height, width), torch.ones_like(self.fitness, dtype=torch.bool)

    def observe(self, fitness: Tensor, margins: Tensor, classes: Tensor) -> None:  # noqa: ARG002 (the protocol's)
        """Replace each parent by its own child where the child is better."""
        better = fitness < self.fitness
        self.genes = torch.where(better[:, :, None, None], self.trials, self.genes)
        self.fitness = torch.where(better, fitness, self.fitness)
        self.generation = self.generation + 1

    def exhausted(self) -> Tensor:
        """Return which attacks have used all their generations."""
        return self.generation > self.settings.generations

    def keep(self, wanted: Tensor) -> None:
        """Drop populations."""
        self.active = [attack for attack, kept in zip(self.active, wanted.tolist(), strict=True) if kept]
        self.generation, self.genes, self.fitness = self.generation[wanted], self.genes[wanted], self.fitness[wanted]

    def _first(self, stream: np.random.Generator) -> Floats:
        """Draw a first population, (N, P, G)."""
        population, pixels, genes = self.genes.shape[1:]
        if self.settings.variant == "best1bin":
            cube: Floats = qmc.LatinHypercube(pixels * genes, rng=stream).random(population)
            spread: Floats = cube.reshape(population, pixels, genes) * self.upper.cpu().numpy()
            return spread
        positions: Floats = stream.uniform(0, self.shape[:2], size=(population, pixels, 2))
        normal = stream.normal(
            self.settings.colour_mean, self.settings.colour_std, size=(population, pixels, genes - 2)
        )
        return np.concatenate([positions, normal], axis=2)


def _paper_children(
    genes: Tensor,
    _fitness: Tensor,
    streams: Sequence[np.random.Generator],
    weight: Weight,
    upper: Tensor,
) -> Tensor:
    """Return x_r1 + F (x_r2 − x_r3), clamped to the bounds."""
    population = genes.shape[1]
    draws = [(_drawn(stream, weight), _distinct(stream, population, population, 3)) for stream in streams]
    weights = torch.tensor([w for w, _ in draws], dtype=genes.dtype, device=genes.device)[:, None, None, None]
    first, second, third = _members(genes, _stack([parents for _, parents in draws], genes.device))
    return (first + weights * (second - third)).clamp(torch.zeros_like(upper), upper)


def _best_children(
    genes: Tensor, fitness: Tensor, streams: Sequence[np.random.Generator], weight: Weight, upper: Tensor
) -> Tensor:
    """Return best + F (x_r1 − x_r2), r1 and r2 other than the parent; genes outside their range are drawn again."""
    shape = genes.shape[1:]
    draws = [(_drawn(stream, weight), _others(stream, shape[0]), stream.uniform(size=shape)) for stream in streams]
    weights = torch.tensor([w for w, _, _ in draws], dtype=genes.dtype, device=genes.device)[:, None, None, None]
    first, second = _members(genes, _stack([parents for _, parents, _ in draws], genes.device))
    best = genes[torch.arange(len(genes), device=genes.device), fitness.argmin(1)][:, None]
    children = best + weights * (first - second)
    anew = _stack([uniform for _, _, uniform in draws], genes.device) * upper
    return torch.where((children < 0) | (children > upper), anew, children)


def _drawn(stream: np.random.Generator, weight: Weight) -> float:
    """Return F; an interval is drawn from."""
    assert weight is not None
    return stream.uniform(*weight) if isinstance(weight, tuple) else weight


def _distinct(stream: np.random.Generator, children: int, members: int, count: int) -> Integers:
    """Draw `count` distinct members for each child, (children, count): each choice is equally likely."""
    chosen = np.empty((children, 0), dtype=np.int64)
    for k in range(count):
        drawn = stream.integers(members - k, size=children)
        for taken in np.sort(chosen, axis=1).T:
            drawn += drawn >= taken
        chosen = np.column_stack([chosen, drawn])
    return chosen


def _others(stream: np.random.Generator, population: int) -> Integers:
    """Draw two distinct members for each child, (N, 2); neither is its parent."""
    drawn = _distinct(stream, population, population - 1, 2)
    return drawn + (drawn >= np.arange(population)[:, None])


def _members(genes: Tensor, parents: Tensor) -> list[Tensor]:
    """Return the chosen members, each (A, N, P, G)."""
    index = torch.arange(len(genes), device=genes.device)[:, None]
    return [genes[index, parents[:, :, k]] for k in range(parents.shape[2])]


def _stack(arrays: Sequence[npt.NDArray[np.generic]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)
