"""Random search: the baseline that a better attack has to beat."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from onepix.config.attacks import RandomSearch
from onepix.pixels import Perturbation

ROUND_SIZE = 400


class RandomDraws:
    """Draw positions and colours uniformly, P pixels per candidate.

    Parameters
    ----------
    settings : RandomSearch
        Number of pixels.
    streams : sequence of Generator
        One random stream per attack.
    shape : tuple of int
        Height, width and channels of the images.
    device : torch.device
        Of the candidates.
    """

    round_size = ROUND_SIZE
    passes = 0

    def __init__(
        self,
        settings: RandomSearch,
        streams: Sequence[np.random.Generator],
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        self.pixels, self.streams, self.shape, self.device = settings.pixels, streams, shape, device
        self.active: list[int] = []

    def room(self, candidates: int) -> int:
        """Return how many attacks fill a round, less the active ones."""
        return math.ceil(candidates / self.round_size) - len(self.active)

    def admit(self, attacks: Sequence[int]) -> None:
        """Take up attacks."""
        self.active += attacks

    def propose(self) -> tuple[Perturbation, Tensor]:
        """Draw new candidates."""
        height, width, channels = self.shape
        high = [height, width, *[256] * channels]
        size = (self.round_size, self.pixels, len(high))
        drawn = np.concatenate([self.streams[attack].integers(high, size=size) for attack in self.active])
        genes = torch.from_numpy(drawn).to(self.device)
        valid = torch.ones(len(self.active), self.round_size, dtype=torch.bool, device=self.device)
        return Perturbation(genes[..., 0], genes[..., 1], genes[..., 2:].to(torch.uint8)), valid

    def observe(self, fitness: Tensor, margins: Tensor, classes: Tensor) -> None:
        """Learn nothing."""

    def exhausted(self) -> Tensor:
        """Return False for all: only the budget ends this search."""
        return torch.zeros(len(self.active), dtype=torch.bool, device=self.device)

    def keep(self, wanted: Tensor) -> None:
        """Drop attacks."""
        self.active = [attack for attack, kept in zip(self.active, wanted.tolist(), strict=True) if kept]
