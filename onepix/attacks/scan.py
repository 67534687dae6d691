"""The scan: every position × every colour of a set, in an order that tends to find a success early."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from onepix.attacks.order import NEAREST, FirstOrder, coarse_to_fine, expected_margins
from onepix.attacks.refine import ROUNDS, Descent
from onepix.config.attacks import Scan
from onepix.errors import OnepixError
from onepix.pixels import Perturbation

FIRST_ROUND, ROUND_SIZE = 32, 512  # candidates per image
PART = 4  # a round has a quarter of the candidates seen so far: little is known at first, and rounds cost time
MOST_CELLS = 1 << 22  # candidates of all active images, of which about a hundred bytes each are kept for a moment
REFINED_SHARE = 5  # refinement may take a fifth of a budget, unless the settings say how much
MOST_COLOURS = 4096
NOT_EVALUATED = -1


@dataclasses.dataclass(frozen=True)
class ScanMaps:
    """The effect of each of K colours at every position of B images.

    Attributes
    ----------
    colours : ndarray
        uint8, shape (B, K, C). A palette may have fewer than K colours; the rest are fillers, which are not evaluated.
    margins : ndarray
        float32, shape (B, K, H, W): the goal's logit margin, negative where it is reached; NaN where not evaluated.
    classes : ndarray
        int32, shape (B, K, H, W): the class seen; −1 where not evaluated.
    """

    colours: npt.NDArray[np.uint8]
    margins: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int32]

    @property
    def evaluated(self) -> npt.NDArray[np.bool_]:
        """Which candidates have been evaluated: shape (B, K, H, W)."""
        evaluated: npt.NDArray[np.bool_] = self.classes != NOT_EVALUATED
        return evaluated

    def fields(self) -> dict[str, Tensor]:
        """Return the arrays by name, without copying them; the first index is the number of the attack."""
        return {"margins": torch.from_numpy(self.margins), "classes": torch.from_numpy(self.classes)}


class Scanning:
    """Evaluate every position with every colour, on A images at once.

    Each round takes the candidates of least expected margin: see `onepix.attacks.order`. Locality analysis finds that
    neighbours share a vulnerability; where they do not, only the order is worse. If no colour of the set reaches the
    goal, `refine` tries other colours at the positions that came closest; the maps do not change.

    Parameters
    ----------
    settings : Scan
        Colour set, refinement, budget.
    pictures : Tensor
        uint8, shape (B, H, W, C).
    prior : callable
        What is known of attacks before any candidate is evaluated; takes their numbers and colours, int64, (A,), and
        uint8, (A, K, C).
    passes : int
        Backward passes per image that `prior` takes.
    keep_maps : bool
        Keep the position maps of all images, not only of active ones.

    Attributes
    ----------
    most : int
        Passes per image at most: candidates of the set and of refinement, and backward passes.

    Notes
    -----
    Vargas and Su (2019), locality analysis: why the order works.
    """

    def __init__(
        self,
        settings: Scan,
        pictures: Tensor,
        prior: Callable[[Tensor, Tensor], FirstOrder],
        passes: int,
        keep_maps: bool,
    ) -> None:
        self.colours, self.wanted = (
            torch.from_numpy(array).to(pictures.device) for array in colour_sets(settings, pictures.cpu().numpy())
        )
        self.prior, self.passes = prior, passes
        count, self.height, self.width, channels = pictures.shape
        self.positions = self.height * self.width
        self.per_image = self.colours.shape[1] * self.positions
        refined = _refined(settings, self.positions, channels)
        self.descent = Descent(count, refined, channels, pictures.device) if refined else None
        shape = (self.height, self.width, channels)
        self.rounds = _refinement(settings, shape) // max(refined * 2 * channels, 1)
        self.limit = _most_of_the_set(settings, self.per_image, passes, shape)
        self.most = self.limit + passes + _refinement(settings, shape)
        self.round_size = max(min(ROUND_SIZE, self.per_image), self.descent.round_size if self.descent else 0)
        self.spread = coarse_to_fine(self.colours.shape[1], self.height, self.width).to(pictures.device)
        self.active = torch.empty(0, dtype=torch.int64, device=pictures.device)
        self.margins = torch.empty(0, self.per_image, device=pictures.device)  # (A, K · H · W), NaN if not evaluated
        self.classes = torch.empty(0, self.per_image, dtype=torch.int32, device=pictures.device)
        self.pending = torch.empty(0, self.per_image, dtype=torch.bool, device=pictures.device)
        maps_shape = (self.colours.shape[1], self.height, self.width)
        self.known = FirstOrder(self.margins[:, 0], self.margins.reshape(0, *maps_shape))
        self.proposed, self.valid, self.refining = self.active[:, None], self.pending, self.pending.any(1)
        whole = (len(pictures) if keep_maps else 0, *maps_shape)
        self.maps = ScanMaps(
            self.colours.cpu().numpy(),
            np.full(whole, np.nan, np.float32),
            np.full(whole, NOT_EVALUATED, np.int32),
        )

    def room(self, candidates: int) -> int:
        """Return how many attacks may be admitted: as many as fill a round, and as memory allows."""
        fitting = max(MOST_CELLS // self.per_image, 1) - len(self.active)
        return min(math.ceil((candidates - int(self._sizes().sum())) / FIRST_ROUND), fitting)

    def admit(self, attacks: Sequence[int]) -> None:
        """Start blank maps."""
        if not attacks:
            return
        device = self.active.device
        new = torch.tensor(list(attacks), dtype=torch.int64, device=device)
        blank = torch.full((len(new), self.per_image), torch.nan, device=device)
        known = self.prior(new, self.colours[new])
        self.active = torch.cat([self.active, new])
        self.margins = torch.cat([self.margins, blank])
        self.classes = torch.cat([self.classes, torch.full_like(blank, NOT_EVALUATED, dtype=torch.int32)])
        self.pending = torch.cat([self.pending, self.wanted[new].repeat_interleave(self.positions, 1)])
        self.known = FirstOrder(
            torch.cat([self.known.clean, known.clean]), torch.cat([self.known.change, known.change])
        )

    def propose(self) -> tuple[Perturbation, Tensor]:
        """Propose the candidates of least expected margin; where several are equal, those on a coarser lattice."""
        maps = self.margins.reshape(self.known.change.shape)
        expected = expected_margins(maps, self.known).flatten(1).where(self.pending, torch.inf)[:, self.spread]
        order = self.spread[expected.argsort(dim=1, stable=True)]
        # A descent may take more candidates per round than a small set has: rows are filled up with some not evaluated.
        missing = max(self.round_size - self.per_image, 0)
        self.proposed = F.pad(order, (0, missing))[:, : self.round_size]
        self.valid = F.pad(self.pending.gather(1, order), (0, missing))[:, : self.round_size]
        self.valid &= torch.arange(self.round_size, device=order.device) < self._sizes()[:, None]
        colour, position = self.proposed // self.positions, self.proposed % self.positions
        values = self.colours[self.active[:, None].expand_as(colour), colour]
        valid = self.valid.clone()
        self.refining = self._through()
        if self.descent and self.refining.any():
            self._refine(self.descent, position, values, valid)
        rows, columns = position.flatten()[:, None] // self.width, position.flatten()[:, None] % self.width
        return Perturbation(rows, columns, values.flatten(0, 1)[:, None]), valid

    def _sizes(self) -> Tensor:
        """Return how many candidates of the set each image's next round has, int64, (A,)."""
        seen = self._seen()
        return (seen // PART).clamp(FIRST_ROUND, ROUND_SIZE).minimum(self.limit - seen)

    def _seen(self) -> Tensor:
        return (~self.margins.isnan()).sum(1)

    def _through(self) -> Tensor:
        """Return which images are through with the set of colours, or with their budget for it."""
        return ~self.pending.any(1) | (self._seen() >= self.limit)

    def _refine(self, descent: Descent, position: Tensor, values: Tensor, valid: Tensor) -> None:
        """Where a map is complete, put the proposals of the descent in place of its candidates."""
        attacks = self.active[self.refining]
        new = descent.rounds[attacks] == 0
        if new.any():
            margins = self.margins[self.refining][new].reshape(len(attacks[new]), -1, self.positions)
            descent.start(attacks[new], margins, self.colours[attacks[new]])
        size = descent.round_size
        position[self.refining, :size], values[self.refining, :size] = descent.propose(attacks)
        valid[self.refining, :size] = True

    def observe(self, fitness: Tensor, margins: Tensor, classes: Tensor) -> None:  # noqa: ARG002 (the protocol's)
        """Write the results into the maps."""
        index = (self.valid.nonzero()[:, 0], self.proposed[self.valid])
        self.margins[index] = margins[self.valid]
        self.classes[index] = classes[self.valid].to(torch.int32)
        self.pending &= self.margins.isnan()
        if self.descent and self.refining.any():
            self.descent.observe(self.active[self.refining], margins[self.refining, : self.descent.round_size])

    def exhausted(self) -> Tensor:
        """Return which attacks are through with their colours, and refined where that was needed."""
        whole = self._through()
        if self.descent is None:
            return whole
        return whole & ((self.margins < 0).any(1) | (self.descent.rounds[self.active] >= self.rounds))

    def keep(self, wanted: Tensor) -> None:
        """Drop maps; if the maps are wanted, copy the dropped ones first."""
        if len(self.maps.margins):
            for index, attack in zip(
                (~wanted).nonzero().squeeze(1).tolist(), self.active[~wanted].tolist(), strict=True
            ):
                shape = self.maps.margins.shape[1:]
                self.maps.margins[attack] = self.margins[index].cpu().numpy().reshape(shape)
                self.maps.classes[attack] = self.classes[index].cpu().numpy().reshape(shape)
        self.active, self.margins = self.active[wanted], self.margins[wanted]
        self.classes, self.pending = self.classes[wanted], self.pending[wanted]
        self.known = FirstOrder(self.known.clean[wanted], self.known.change[wanted])


def most_candidates(settings: Scan, shape: tuple[int, int, int]) -> int:
    """Return how many passes a scan of an image of this height, width and channels takes at most.

    Raises
    ------
    OnepixError
        If refinement leaves nothing of the budget, or its own is smaller than one of its rounds.
    """
    height, width, channels = shape
    passes = 0 if without_gradient(settings, NEAREST) else NEAREST
    whole = colour_count(settings, channels) * height * width
    return _most_of_the_set(settings, whole, passes, shape) + passes + _refinement(settings, shape)


def without_gradient(settings: Scan, passes: int) -> str:
    """Say why so many backward passes are left out by the settings; empty if they are not."""
    if not settings.gradient:
        return "not wanted"
    if settings.budget is not None and settings.budget <= passes:
        return f"not used: a budget of {settings.budget} has no room for {passes} backward passes and a candidate"
    return ""


def _most_of_the_set(settings: Scan, candidates: int, passes: int, shape: tuple[int, int, int]) -> int:
    """Return how many candidates of the set of colours are evaluated at most: the budget counts the other passes."""
    if settings.budget is None:
        return candidates
    refinement = _refinement(settings, shape)
    left = settings.budget - passes - refinement
    if left < 1:
        raise OnepixError(
            f"scan: of a budget of {settings.budget}, {passes} backward passes and {refinement} candidates of "
            "refinement leave nothing for the scan; expected a larger budget, or a smaller refine"
        )
    return min(left, candidates)


def _refinement(settings: Scan, shape: tuple[int, int, int]) -> int:
    """Return how many candidates refinement takes at most: whole rounds, at least one."""
    height, width, channels = shape
    a_round = _refined(settings, height * width, channels) * 2 * channels
    if not a_round:
        return 0
    if settings.refine_budget is not None and settings.refine_budget < a_round:
        raise OnepixError(
            f"scan: refine_budget {settings.refine_budget} is smaller than one round of refinement, which has "
            f"{a_round} candidates here: 2 for each of {channels} channels at each position"
        )
    given = settings.refine_budget or (settings.budget and settings.budget // REFINED_SHARE) or ROUNDS * a_round
    return min(max(given // a_round, 1), ROUNDS) * a_round


def colour_count(settings: Scan, channels: int) -> int:
    """Return how many colours a scan tries at each position; a palette may have fewer."""
    if settings.colours == "palette":
        return settings.palette_size
    return int((2 if settings.colours == "extremes" else settings.levels) ** channels)


def _refined(settings: Scan, positions: int, channels: int) -> int:
    """Return the number of positions at which a scan is refined."""
    return min(settings.refine, positions, ROUND_SIZE // (2 * channels))


def colour_sets(settings: Scan, pictures: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return the colours to be tried on each image, and which of them are not fillers.

    Parameters
    ----------
    settings : Scan
        Colour set.
    pictures : ndarray
        uint8, shape (B, H, W, C).

    Returns
    -------
    tuple of ndarray
        uint8, shape (B, K, C), and bool, shape (B, K).

    Raises
    ------
    OnepixError
        If the set is too large, or the images have no palette.
    """
    channels = pictures.shape[3]
    if settings.colours == "palette":
        return _palettes(pictures, settings.palette_size)
    levels = 2 if settings.colours == "extremes" else settings.levels
    if levels**channels > MOST_COLOURS:
        raise OnepixError(
            f"scan: {levels} levels of {channels} channels are {levels**channels} colours, more than {MOST_COLOURS}"
        )
    values = np.linspace(0, 255, levels).round().astype(np.uint8)
    colours = np.array(list(itertools.product(values, repeat=channels)), np.uint8)
    return np.tile(colours, (len(pictures), 1, 1)), np.ones((len(pictures), len(colours)), np.bool_)


def _palettes(pictures: npt.NDArray[np.uint8], size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Reduce each image to at most `size` colours of its own by median cut."""
    channels = pictures.shape[3]
    if channels not in (1, 3):
        raise OnepixError(f"scan: a palette needs images with 1 or 3 channels, got {channels}")
    colours = np.zeros((len(pictures), size, channels), np.uint8)
    wanted = np.zeros((len(pictures), size), np.bool_)
    for index, picture in enumerate(pictures):
        rgb = Image.fromarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
        reduced = rgb.quantize(size, Image.Quantize.MEDIANCUT)
        own = np.unique(np.array(reduced.convert("RGB")).reshape(-1, 3)[:, :channels], axis=0)
        colours[index, : len(own)], wanted[index, : len(own)] = own, True
    return colours, wanted
