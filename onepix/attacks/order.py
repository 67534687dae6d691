"""The order in which a scan takes its candidates: what gradients say of them, and what has been seen near them."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from onepix.attacks.goal import Goal
from onepix.engine.gradients import pixel_gradients
from onepix.files.targets import UNTARGETED
from onepix.networks.classifier import Classifier

NEAREST = 2  # classes whose margins are differentiated: those nearest to the true class, or to the target
SLOPE, SLOPE_WEIGHT = 0.5, 8.0  # expected slope of a margin against its first-order change; worth so many candidates
LEAST_SLOPE = 0.05  # so that gradients are never taken for their opposite
MEAN_WEIGHT = 32.0  # candidates that the expectation of no mean residual is worth
RADIUS_SHARE = 32  # neighbours lie within two boxes that reach 1/32 of the image's smaller extent to each side
SHARED = 0.05  # part of a residual that is taken from the other colours at the same positions
PRIOR_WEIGHT = 0.3  # of a residual of zero, beside the weights of evaluated neighbours; the candidate's own would be 1
OPTIMISM = 0.7  # standard deviations that are taken off where little is known


@dataclasses.dataclass(frozen=True)
class FirstOrder:
    """What gradients say of the candidates of A images.

    Attributes
    ----------
    clean : Tensor
        float32, shape (A,): the goal's margin of the unchanged image.
    change : Tensor
        float32, shape (A, K, H, W): how the margin changes to first order, for each of K colours at each position.
    """

    clean: Tensor
    change: Tensor


def backward_passes(classes: int) -> int:
    """Return the number of backward passes that `first_order` takes for each image."""
    return min(NEAREST, classes - 1)


def first_order(classifier: Classifier, images: Tensor, goal: Goal, colours: Tensor) -> FirstOrder:
    """Estimate the margins of all candidates of a scan to first order in the colour of the pixel.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    images : Tensor
        uint8, shape (A, H, W, C).
    goal : Goal
        Of the A images.
    colours : Tensor
        uint8, shape (A, K, C).

    Returns
    -------
    FirstOrder
        No change where gradients are not finite.

    Raises
    ------
    OnepixError
        If the network has no gradient.

    Notes
    -----
    The margin is the least of m_j, the own logit minus that of another class j; targeted, with the target's as the own
    one, minus that. Of the nearest classes, m_j + ∂m_j/∂x · (colour − x) is computed; their least is the estimate.
    """
    untargeted = goal.targets == UNTARGETED
    index = torch.where(untargeted, goal.labels, goal.targets)

    def forms(logits: Tensor, which: Tensor) -> Tensor:
        own = F.one_hot(index[which], logits.shape[1]).to(logits)
        nearest = logits.masked_fill(own.bool(), -torch.inf).topk(backward_passes(logits.shape[1]), dim=1).indices
        return own[:, None] - F.one_hot(nearest, logits.shape[1]).to(logits)

    values, gradients = pixel_gradients(classifier, images, forms)
    sign = torch.where(untargeted, 1.0, -1.0).double()  # a targeted margin is how far the target is below the best
    clean = sign * values.amin(1)
    estimate = sign[:, None, None, None] * _least(values, gradients, images, colours)
    usable = gradients.isfinite().flatten(1).all(1)[:, None, None, None]
    return FirstOrder(clean.float(), (estimate - clean[:, None, None, None]).where(usable, 0.0).float())


def _least(values: Tensor, gradients: Tensor, images: Tensor, colours: Tensor) -> Tensor:
    """Return the least of M first-order estimates, (A, K, H, W)."""
    pixels, wanted = images.permute(0, 3, 1, 2).double(), colours.double()
    estimates = []
    for value, gradient in zip(values.unbind(1), gradients.unbind(1), strict=True):
        constant = value[:, None, None] - (gradient * pixels).sum(1)
        # Sums over channels one by one have a fixed order of additions.
        along = [wanted[:, :, c, None, None] * gradient[:, None, c] for c in range(pixels.shape[1])]
        estimates.append(sum(along, constant[:, None]))
    return torch.stack(estimates).amin(0)


def expected_margins(margins: Tensor, known: FirstOrder) -> Tensor:
    """Return a low estimate of each candidate's margin, from gradients and from the candidates evaluated so far.

    Parameters
    ----------
    margins : Tensor
        float32, shape (A, K, H, W): NaN where not evaluated.
    known : FirstOrder
        What gradients say; without gradients, a change of zero everywhere.

    Returns
    -------
    Tensor
        float64, same shape: clean margin + slope · first-order change + mean residual + residual of evaluated
        neighbours, less one standard deviation where there are none.

    Notes
    -----
    The slope is fitted by ridge regression. Residuals are averaged over neighbours by a triangular kernel along both
    axes, as in kernel regression (Nadaraya 1964, Watson 1964), with a prior weight. The deviation that is taken off
    lets a scan look where it knows nothing (the lower confidence bound of Cox and John 1992). All sums have a fixed
    order of additions, so that no image influences another.
    """
    seen = ~margins.isnan()
    weight, change = seen.double(), known.change.double()
    clean = known.clean.double()[:, None, None, None]
    risen = (margins.double() - clean).where(seen, 0.0)
    count, scale = total(weight), total(change.square()) / change[0].numel()
    prior = SLOPE_WEIGHT * scale
    slope = (total(risen * change) + prior * SLOPE) / (total(weight * change.square()) + prior)
    line = slope.where(scale > 0, 1.0).clamp(min=LEAST_SLOPE) * change
    residual = (risen - line) * weight
    mean = total(residual) / (count + MEAN_WEIGHT)
    residual = (residual - mean) * weight
    deviation = (total(residual.square()) / count.clamp(min=1)).sqrt()
    near, weights = (_of_neighbours(part) for part in (residual, weight))
    doubt = PRIOR_WEIGHT / (weights + PRIOR_WEIGHT)
    return clean + line + mean + near / (weights + PRIOR_WEIGHT) - OPTIMISM * deviation * doubt.sqrt()


def total(values: Tensor) -> Tensor:
    """Return the sum for each image, shape (A, 1, 1, 1), with an order of additions that depends on the shape only."""
    flat = values.flatten(1)
    flat = F.pad(flat, (0, (1 << (flat.shape[1] - 1).bit_length()) - flat.shape[1]))
    while flat.shape[1] > 1:
        half = flat.shape[1] // 2
        flat = flat[:, :half] + flat[:, half:]
    return flat[:, :, None, None]


def _of_neighbours(values: Tensor) -> Tensor:
    """Sum values over neighbouring positions with weights that fall from 1, and partly over colours."""
    radius = max(round(min(values.shape[2:]) / RADIUS_SHARE), 1)
    box = 2 * radius + 1
    padded = values
    for _ in range(2):  # two boxes make a triangle
        padded = F.avg_pool2d(padded, box, stride=1, padding=radius)
    near = padded * box**2
    colours = near[:, :1]
    for colour in range(1, near.shape[1]):
        colours = colours + near[:, colour : colour + 1]
    return (1 - SHARED) * near + SHARED * colours


def coarse_to_fine(colours: int, height: int, width: int) -> Tensor:
    """Return the order in which candidates are taken of which nothing is known, int64, shape (K · H · W,).

    Positions on a coarse lattice come first, then ever finer ones. Each position gets all its colours one by one, one
    for each turn through all positions; a candidate is colour · H · W + row · W + column.
    """
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    key = torch.zeros(height, width, dtype=torch.int64)
    for bit in range(max(height - 1, width - 1, 1).bit_length()):  # the finest bit weighs most
        key = 4 * key + (2 * (row >> bit & 1) ^ 3 * (column >> bit & 1))
    positions = key.flatten().argsort(stable=True)
    # The sum of a rank's digits spreads the colours evenly over each of the lattices.
    rank, first = torch.arange(height * width), torch.zeros(height * width, dtype=torch.int64)
    while colours > 1 and rank.any():
        first, rank = first + rank % colours, rank // colours
    colour = (first[None] + torch.arange(colours)[:, None]) % colours
    return (colour * (height * width) + positions[None]).flatten()
