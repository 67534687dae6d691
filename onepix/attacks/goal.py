"""The goal of an attack: any class but the true one, or one given class."""

import dataclasses
import math

import torch
from torch import Tensor

from onepix.config.attacks import AttackSettings, PixelSearch
from onepix.engine.evaluator import logit_margin
from onepix.files.targets import UNTARGETED, reached


@dataclasses.dataclass(frozen=True)
class Goal:
    """The goals of N attacks or candidates.

    Attributes
    ----------
    labels : Tensor
        int64, shape (N,): true classes.
    targets : Tensor
        int64, shape (N,): classes to be reached; −1: any class but the true one.
    """

    labels: Tensor
    targets: Tensor

    def __getitem__(self, index: Tensor) -> "Goal":
        return Goal(self.labels[index], self.targets[index])

    def reached(self, logits: Tensor) -> Tensor:
        """Return whether the class with the largest logit reaches the goal: bool, (N,)."""
        return self.reached_by(logits.argmax(1))

    def reached_by(self, classes: Tensor) -> Tensor:
        """Return whether predicted classes, int64, shape (N, …), reach the goal: bool, same shape."""
        shape = (-1, *(1 for _ in classes.shape[1:]))
        labels, targets = self.labels.reshape(shape), self.targets.reshape(shape)
        return reached(classes, labels, targets)

    def margin(self, logits: Tensor, settings: AttackSettings | None = None) -> Tensor:
        """Return how far each candidate is from its goal in logits, (N,): negative where it is reached.

        Untargeted: the true class's logit minus the best other one. Targeted: the best other one minus the target's.
        With settings, it is the smaller of the distances from the goal and from the threshold that is looked for.
        """
        margin = logit_margin(logits, self._index())
        margin = torch.where(self.targets == UNTARGETED, margin, -margin)
        if isinstance(settings, PixelSearch) and settings.looks_for_threshold:
            return torch.minimum(margin, self._threshold_margin(logits, settings))
        return margin

    def fitness(self, logits: Tensor, objective: str) -> Tensor:
        """Return what the searches minimise, (N,): see `objective` in the configuration."""
        if objective == "margin":
            return self.margin(logits)
        probability = logits.softmax(1).gather(1, self._index()[:, None]).squeeze(1)
        return torch.where(self.targets == UNTARGETED, probability, -probability)

    def done(self, logits: Tensor, settings: AttackSettings) -> Tensor:
        """Return which candidates end their search by the stop rule: bool, (N,)."""
        if settings.stop in ("flip", "first"):
            return self.reached(logits)
        if settings.stop == "threshold":
            return self.past(logits, settings)
        return torch.zeros_like(self.labels, dtype=torch.bool)

    def past(self, logits: Tensor, settings: AttackSettings) -> Tensor:
        """Return which candidates are past the threshold of probability, where that is looked for: bool, (N,)."""
        if isinstance(settings, PixelSearch) and settings.looks_for_threshold:
            return self._threshold_margin(logits, settings) < 0
        return torch.zeros_like(self.labels, dtype=torch.bool)

    def _threshold_margin(self, logits: Tensor, settings: PixelSearch) -> Tensor:
        """Return how far each candidate is from its probability threshold, (N,), in log-odds: negative beyond it."""
        index = self._index()[:, None]
        others = logits.scatter(1, index, -torch.inf)
        odds = logits.gather(1, index).squeeze(1) - others.logsumexp(1)
        true, target = (math.log(t / (1 - t)) for t in (settings.true_threshold, settings.target_threshold))
        return torch.where(self.targets == UNTARGETED, odds - true, target - odds)

    def _index(self) -> Tensor:
        """Return the class whose logit counts: the true one, or the target."""
        return torch.where(self.targets == UNTARGETED, self.labels, self.targets)
