"""Runs a search on many images at once: shared micro-batches, refilling, checks in float32, stop rules."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from scipy.stats import qmc
from torch import Tensor

from onepix.attacks.goal import Goal
from onepix.config.attacks import AttackSettings, PixelSearch
from onepix.engine.evaluator import Evaluator
from onepix.errors import OnepixError
from onepix.pixels import FULL, Perturbation, from_genes

PASSES_PER_ROUND = 16  # micro-batches; the last one is filled up, so that more of them waste less
# Candidates per image that are evaluated both ways, to measure the error of screening. On 20 images with a ResNet-20
# and 30 with LeNet, 1,024 others each had errors of at most 0.58 of the bound; 64 would lower that by 0.03 at most.
CALIBRATION = 16
SAFETY = 4  # times the largest error of a logit that was measured
ROUNDINGS = 8  # of an image's largest logit: the least error that screening is assumed to make
NOT_FINITE = "the network gives logits that are not finite on changed images"
EPSILON = {"float32": 2**-23, "bfloat16": 2**-8}


class Method(Protocol):
    """A search method: proposes N candidates per round for each active attack, and learns their results.

    Attacks have numbers; active attacks are in the order of their admission.
    """

    round_size: int  # N
    passes: int  # backward passes per attack; they count as queries

    def room(self, candidates: int) -> int:
        """Return how many more attacks may be active, if a round shall have so many candidates; 0 or less: none."""

    def admit(self, attacks: Sequence[int]) -> None:
        """Add attacks, at the end."""

    def propose(self) -> tuple[Perturbation, Tensor]:
        """Return A · N candidates, and which are to be evaluated: bool, (A, N), in each row the first ones."""

    def observe(self, fitness: Tensor, margins: Tensor, classes: Tensor) -> None:
        """Learn the results of the proposed candidates: each (A, N); inf, NaN and −1 where not evaluated."""

    def exhausted(self) -> Tensor:
        """Return which active attacks have nothing more to propose: bool, (A,)."""

    def keep(self, wanted: Tensor) -> None:
        """Keep only these active attacks: bool, (A,)."""


@dataclasses.dataclass
class Outcome:
    """The outcome of B attacks.

    Attributes
    ----------
    best : Perturbation
        For each attack the change that reaches the goal, or the best one found.
    fitness : Tensor
        float32, shape (B,): of `best`.
    flip, past : Perturbation
        For each attack the first candidate that reaches the goal, and the first past the threshold of probability;
        zeros where there is none.
    reached : Tensor
        bool, shape (B,).
    queries : Tensor
        int64, shape (B,): candidates evaluated, and backward passes.
    queries_to_success, queries_to_threshold : Tensor
        int64, shape (B,): up to and including `flip` and `past`; −1 where there is none.
    rechecked : Tensor
        int64, shape (B,): candidates evaluated again in float32.
    rounds : Tensor
        int64, shape (B,).
    screening_error : Tensor
        float32, shape (B,): the largest error of a screened margin that was seen, over the bound below which candidates
        are evaluated again.
    """

    best: Perturbation
    flip: Perturbation
    past: Perturbation
    fitness: Tensor
    reached: Tensor
    queries: Tensor
    queries_to_success: Tensor
    queries_to_threshold: Tensor
    rechecked: Tensor
    rounds: Tensor
    screening_error: Tensor

    @staticmethod
    def empty(attacks: int, pixels: int, channels: int, device: torch.device) -> "Outcome":
        """Return the outcome of attacks that have not begun."""

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(attacks, *shape, dtype=dtype, device=device)

        best, flip, past = (
            Perturbation(zeros(pixels), zeros(pixels), zeros(pixels, channels, dtype=torch.uint8)) for _ in range(3)
        )
        return Outcome(
            best,
            flip,
            past,
            fitness=zeros(dtype=torch.float32) + torch.inf,
            reached=zeros(dtype=torch.bool),
            queries=zeros(),
            queries_to_success=zeros() - 1,
            queries_to_threshold=zeros() - 1,
            rechecked=zeros(),
            rounds=zeros(),
            screening_error=zeros(dtype=torch.float32),
        )

    def fields(self) -> dict[str, Tensor]:
        """Return all tensors by name, without copying them; the first index is the number of the attack."""
        fields: dict[str, Tensor] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Perturbation):
                fields |= {f"{field.name}_{part}": tensor for part, tensor in vars(value).items()}
            else:
                fields[field.name] = value
        return fields


@dataclasses.dataclass(frozen=True)
class _Round:
    """The results of one round: A active attacks, N candidates each."""

    fitness: Tensor  # (A, N), inf where not evaluated
    margins: Tensor  # (A, N), NaN where not evaluated
    classes: Tensor  # (A, N), −1 where not evaluated
    reached: Tensor  # (A, N)
    past: Tensor  # (A, N)
    done: Tensor  # (A,)
    evaluated: Tensor  # (A,)
    rechecked: Tensor  # (A,)
    errors: Tensor  # (A,), the largest of screening over the bound; NaN where the bound is 0 and nothing was wrong


@dataclasses.dataclass(frozen=True)
class Task:
    """What stays the same through a search.

    Attributes
    ----------
    evaluator : Evaluator
        Evaluates candidates.
    pictures : Tensor
        uint8, shape (B, H, W, C): one image per attack.
    goal : Goal
        Of the B attacks.
    clean : Tensor
        float32, shape (B, classes): logits of the unchanged images.
    settings : AttackSettings
        Stop rule, objective.
    """

    evaluator: Evaluator
    pictures: Tensor
    goal: Goal
    clean: Tensor
    settings: AttackSettings


def begin(task: Task) -> Outcome:
    """Return the outcome of a task that has not begun."""
    pixels = task.settings.pixels if isinstance(task.settings, PixelSearch) else 1
    return Outcome.empty(len(task.pictures), pixels, task.pictures.shape[3], task.pictures.device)


@torch.inference_mode()
def run_search(
    task: Task,
    method: Method,
    budget: int,
    report: Callable[[int, int, int], None],
    begun: tuple[Outcome, Sequence[int]] | None = None,
    finish: Callable[[list[int]], None] | None = None,
) -> Outcome:
    """Search until every attack is done.

    So many attacks are active at once that they fill the micro-batches; when one ends, a waiting one takes its place.

    Parameters
    ----------
    task : Task
        Images, goals, evaluation.
    method : Method
        Proposes candidates.
    budget : int
        At most so many candidates per attack.
    report : callable
        Called after each round with three numbers: candidates evaluated in it, attacks not done, goals reached.
    begun : tuple of Outcome and sequence of int, optional
        The outcome so far, which is completed, and which attacks are still to be done. Default: all.
    finish : callable, optional
        Called with the numbers of attacks as soon as these are done.

    Returns
    -------
    Outcome
        The outcome of one attack does not depend on the other attacks.
    """
    count, device = len(task.pictures), task.pictures.device
    outcome, waiting = begun or (begin(task), range(count))
    bounds = torch.full((count,), task.evaluator.bound, device=device)
    active = torch.empty(0, dtype=torch.int64, device=device)
    while len(waiting) or len(active):
        free = max(method.room(PASSES_PER_ROUND * task.evaluator.micro_batch), 0 if len(active) else 1)
        new = torch.tensor(waiting[:free], dtype=torch.int64, device=device)
        waiting = waiting[free:]
        method.admit(new.tolist())
        active = torch.cat([active, new])
        _calibrate(task, outcome, active, len(new), bounds)
        outcome.queries[new] = method.passes
        candidates, valid = method.propose()
        left = budget - outcome.queries[active]
        valid &= torch.arange(method.round_size, device=device) < left[:, None]
        found = _evaluate(task, active, candidates, valid, bounds)
        method.observe(found.fitness, found.margins, found.classes)
        _note(outcome, active, candidates, found)
        over = found.done | method.exhausted() | (outcome.queries[active] >= budget)
        method.keep(~over)
        if finish and over.any():
            finish(active[over].tolist())
        active = active[~over]
        report(int(found.evaluated.sum()), len(waiting) + len(active), int(outcome.reached.sum()))
    return outcome


def _evaluate(task: Task, active: Tensor, candidates: Perturbation, valid: Tensor, bounds: Tensor) -> _Round:
    """Evaluate the candidates of a round: screen all, and evaluate those that count again in float32."""
    size = valid.shape[1]
    which = valid.flatten().nonzero().squeeze(1)
    owners = torch.div(which, size, rounding_mode="floor")
    candidates, pictures, goal = candidates[which], task.pictures[active], task.goal[active[owners]]
    logits = task.evaluator.screen(pictures, owners, candidates)
    rechecked, errors = torch.zeros_like(active), torch.zeros(len(active), device=active.device)
    limits = bounds[active]
    screened = goal.margin(logits, task.settings)
    doubtful = ((screened <= limits[owners]) | ~logits.isfinite().all(1)).nonzero().squeeze(1)
    if len(doubtful):
        logits[doubtful] = task.evaluator.exact(pictures, owners[doubtful], candidates[doubtful])
        rechecked += torch.bincount(owners[doubtful], minlength=len(active))
        error = (goal[doubtful].margin(logits[doubtful], task.settings) - screened[doubtful]).abs()
        errors.scatter_reduce_(0, owners[doubtful], error, "amax")
    if not logits.isfinite().all():
        raise OnepixError(NOT_FINITE)
    return _gathered(task, goal, logits, owners, which, valid, rechecked, errors / limits)


def _calibrate(task: Task, outcome: Outcome, active: Tensor, count: int, bounds: Tensor) -> None:
    """Find the margins below which candidates are evaluated in float32, from a sample, for the last active attacks.

    The sample is the same for each image and each order of candidates, spread over positions and colours, and no search
    learns of it. The error of a margin is at most twice that of its logits; the rest of the factor is for other
    candidates.
    """
    new = active[len(active) - count :]
    if not count or not bounds[new].isnan().all():
        return
    sample = calibration_sample(task.pictures.shape[1:], outcome.best.rows.shape[1], new.device)
    # All active images are given, since the evaluator forgets the clean maps of those that are not.
    owners = torch.arange(len(active) - count, len(active), device=new.device).repeat_interleave(len(sample))
    candidates = sample[torch.arange(len(sample), device=new.device).repeat(count)]
    pictures, goal = task.pictures[active], task.goal[active[owners]]
    screened, exact = (
        evaluate(pictures, owners, candidates) for evaluate in (task.evaluator.screen, task.evaluator.exact)
    )
    if not exact.isfinite().all():
        raise OnepixError(NOT_FINITE)
    error = (exact - screened).abs().nan_to_num(torch.inf).reshape(count, -1).amax(1)
    rounding = ROUNDINGS * EPSILON[task.evaluator.precision] * task.clean[new].abs().amax(1)
    bounds[new] = torch.maximum(SAFETY * error, rounding)
    of_margins = (goal.margin(exact, task.settings) - goal.margin(screened, task.settings)).abs()
    outcome.screening_error[new] = (of_margins.reshape(count, -1).amax(1) / bounds[new]).nan_to_num(0.0)


def calibration_sample(shape: Sequence[int], pixels: int, device: torch.device) -> Perturbation:
    """Return candidates spread evenly over an image's positions and colours.

    Parameters
    ----------
    shape : sequence of int
        Height, width and channels.
    pixels : int
        P, of each candidate.
    device : torch.device
        Of the result.

    Returns
    -------
    Perturbation
        16 candidates: one in each cell of 4 × 4, by a Sobol sequence. Every second one has extreme colours, as attacks
        find them, where errors are largest.
    """
    height, width, channels = shape
    uniform = qmc.Sobol(pixels * (2 + channels), scramble=True, rng=0).random(CALIBRATION)
    genes = torch.from_numpy(uniform).reshape(CALIBRATION, pixels, -1)
    genes[::2, :, 2:] = genes[::2, :, 2:].round()
    upper = torch.tensor([height, width, *[FULL] * channels])
    return from_genes((genes * upper).to(device), height, width)


def _gathered(
    task: Task,
    goal: Goal,
    logits: Tensor,
    owners: Tensor,
    which: Tensor,
    valid: Tensor,
    rechecked: Tensor,
    errors: Tensor,
) -> _Round:
    """Arrange the results by attack and candidate."""

    def laid_out(values: Tensor, default: float) -> Tensor:
        whole = torch.full((valid.numel(),), default, dtype=values.dtype, device=values.device)
        whole[which] = values
        return whole.reshape(valid.shape)

    return _Round(
        fitness=laid_out(goal.fitness(logits, task.settings.objective), torch.inf),
        margins=laid_out(goal.margin(logits), torch.nan),
        classes=laid_out(logits.argmax(1), -1),
        reached=laid_out(goal.reached(logits), False),
        past=laid_out(goal.past(logits, task.settings), False),
        done=laid_out(goal.done(logits, task.settings), False).any(1),
        evaluated=torch.bincount(owners, minlength=len(valid)),
        rechecked=rechecked,
        errors=errors,
    )


def _note(outcome: Outcome, active: Tensor, candidates: Perturbation, found: _Round) -> None:
    """Note each attack's first and best candidates so far: one that reaches the goal wins over one that does not."""
    size = found.fitness.shape[1]
    reached = found.reached.any(1)
    fitness, rank = found.fitness.where(~reached[:, None] | found.reached, torch.inf).min(1)
    before = outcome.reached[active]
    better = (reached & ~before) | ((reached == before) & (fitness < outcome.fitness[active]))
    images, index = active[better], (torch.arange(len(active), device=active.device) * size + rank)[better]
    _store(outcome.best, images, candidates, index)
    outcome.fitness[images] = fitness[better]
    for which, first, queries in (
        (found.reached, outcome.flip, outcome.queries_to_success),
        (found.past, outcome.past, outcome.queries_to_threshold),
    ):
        new = which.any(1) & (queries[active] < 0)
        images, rank = active[new], which.int().argmax(1)[new]
        queries[images] = outcome.queries[images] + rank + 1
        _store(first, images, candidates, new.nonzero().squeeze(1) * size + rank)
    outcome.reached[active] = reached | before
    outcome.queries[active] += found.evaluated
    outcome.rechecked[active] += found.rechecked
    outcome.rounds[active] += 1
    outcome.screening_error[active] = outcome.screening_error[active].fmax(found.errors)


def _store(kept: Perturbation, images: Tensor, candidates: Perturbation, index: Tensor) -> None:
    """Store the candidates at `index` as those of `images`."""
    kept.rows[images] = candidates.rows[index]
    kept.columns[images] = candidates.columns[index]
    kept.values[images] = candidates.values[index]
