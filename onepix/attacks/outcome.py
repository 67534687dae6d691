"""What every attack returns."""

import dataclasses

import torch
from torch import Tensor

from onepix.pixels import Perturbation


@dataclasses.dataclass
class Outcome:
    """The end of a search on N images.

    Attributes
    ----------
    best : Perturbation
        For each image the change that flips the class, or the best one found.
    flipped : Tensor
        bool, shape (N,).
    queries : Tensor
        int64, shape (N,): candidates evaluated.
    queries_to_success : Tensor
        int64, shape (N,): up to and including the first candidate that flips; −1 where none does.
    generations : Tensor
        int64, shape (N,): generations after the initial population.
    """

    best: Perturbation
    flipped: Tensor
    queries: Tensor
    queries_to_success: Tensor
    generations: Tensor

    @staticmethod
    def empty(images: int, pixels: int, channels: int, device: torch.device) -> "Outcome":
        """Return the outcome of a search that has not begun."""

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(images, *shape, dtype=dtype, device=device)

        best = Perturbation(zeros(pixels), zeros(pixels), zeros(pixels, channels, dtype=torch.uint8))
        return Outcome(best, zeros(dtype=torch.bool), zeros(), zeros() - 1, zeros())
