"""Position maps: whether a colour flips the class at each position of an image."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onepix.attacks.goal import Goal
from onepix.attacks.search import Task, run_search
from onepix.config.attacks import Scan
from onepix.engine.evaluator import Evaluator
from onepix.pixels import Perturbation
from onepix.progress import progress_bar

ROUND_SIZE = 4096  # positions per round: each round evaluates the clean images again


@dataclasses.dataclass(frozen=True)
class PositionMaps:
    """The effect of one colour at every position of each of N images.

    Attributes
    ----------
    flips : ndarray
        bool, shape (N, y, x): the goal is reached; untargeted, the class is no longer the label.
    margin : ndarray
        float32, shape (N, y, x): the goal's logit margin; untargeted, the true class's logit minus the best other one.
        Margins near a flip are float32's; others may carry the error of screening.
    """

    flips: npt.NDArray[np.bool_]
    margin: npt.NDArray[np.float32]


class _EveryPosition:
    """Proposes every position for each image's colour."""

    passes = 0

    def __init__(self, pictures: Tensor, colours: Tensor) -> None:
        count, self.height, self.width, _ = pictures.shape
        self.positions = self.height * self.width
        self.round_size = min(ROUND_SIZE, self.positions)
        self.colours = colours
        self.active = torch.empty(0, dtype=torch.int64, device=pictures.device)
        self.evaluated = torch.zeros(count, dtype=torch.int64, device=pictures.device)
        self.margins = torch.full((count, self.positions), torch.nan, device=pictures.device)
        self.classes = torch.full_like(self.margins, -1, dtype=torch.int64)

    def room(self, candidates: int) -> int:
        return math.ceil(candidates / self.round_size) - len(self.active)

    def admit(self, attacks: Sequence[int]) -> None:
        new = torch.tensor(list(attacks), dtype=torch.int64, device=self.active.device)
        self.active = torch.cat([self.active, new])

    def propose(self) -> tuple[Perturbation, Tensor]:
        indices, valid = self._next()
        position = indices.flatten()[:, None]
        values = self.colours[self.active].repeat_interleave(self.round_size, 0)[:, None]
        return Perturbation(position // self.width, position % self.width, values), valid

    def observe(self, fitness: Tensor, margins: Tensor, classes: Tensor) -> None:  # noqa: ARG002 (the protocol's)
        indices, valid = self._next()
        image = self.active[:, None].expand_as(indices)[valid]
        self.margins[image, indices[valid]] = margins[valid]
        self.classes[image, indices[valid]] = classes[valid]
        self.evaluated[self.active] += valid.sum(1)

    def exhausted(self) -> Tensor:
        return self.evaluated[self.active] >= self.positions

    def keep(self, wanted: Tensor) -> None:
        self.active = self.active[wanted]

    def _next(self) -> tuple[Tensor, Tensor]:
        """Return the next positions, and which of them exist, (A, N)."""
        indices = self.evaluated[self.active][:, None] + torch.arange(self.round_size, device=self.active.device)
        return indices.clamp(max=self.positions - 1), indices < self.positions


def position_maps(
    evaluator: Evaluator, images: Tensor, goal: Goal, colours: Tensor, description: str = "locality"
) -> PositionMaps:
    """Move each image's colour to every position.

    Parameters
    ----------
    evaluator : Evaluator
        Screens the candidates, and evaluates those near a flip again in float32.
    images : Tensor
        uint8, shape (N, H, W, C), on the evaluator's device.
    goal : Goal
        Of the N images.
    colours : Tensor
        uint8, shape (N, C).
    description : str
        Names the progress bar.

    Returns
    -------
    PositionMaps
        The exact answer for these colours: H · W candidates per image. Margins away from a flip carry the error of
        screening.
    """
    if not len(images):
        blank = np.empty((0, *images.shape[1:3]))
        return PositionMaps(blank.astype(np.bool_), blank.astype(np.float32))
    method = _EveryPosition(images, colours)
    task = Task(evaluator, images, goal, evaluator.classify(images), Scan(method="scan"))
    with progress_bar(len(images) * method.positions, description, "pass") as bar:

        def report(evaluated: int, _left: int, _reached: int) -> None:
            bar.update(evaluated)

        run_search(task, method, method.positions, report)
    shape = (len(images), method.height, method.width)
    flips, margins = (part.reshape(shape).cpu().numpy() for part in (goal.reached_by(method.classes), method.margins))
    return PositionMaps(flips, margins)
