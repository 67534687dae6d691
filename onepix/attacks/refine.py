"""Refines a scan: searches for better colours, starting from those that came closest to the goal."""

import torch
from torch import Tensor

ROUNDS = 16
FIRST_STEP = 64  # of 255


class Descent:
    """A pattern search over colours at the T most promising positions of each image.

    At each position, each round tries the current colour with one channel raised or lowered by a step. The best of
    these replaces it if it is better; if none is better, the step is halved.

    Parameters
    ----------
    attacks : int
        Number of attacks, B; each has its own state.
    positions : int
        T.
    channels : int
        C.
    device : torch.device
        Of the state.

    Notes
    -----
    Hooke and Jeeves, "Direct search solution of numerical and statistical problems" (1961).
    """

    def __init__(self, attacks: int, positions: int, channels: int, device: torch.device) -> None:
        self.moves = torch.cat([torch.eye(channels), -torch.eye(channels)]).long().to(device)  # (2 C, C)
        self.round_size = positions * len(self.moves)
        shape = (attacks, positions)
        self.positions = torch.zeros(shape, dtype=torch.int64, device=device)
        self.colours = torch.zeros(*shape, channels, dtype=torch.int64, device=device)
        self.margins = torch.full(shape, torch.inf, device=device)
        self.step = torch.full(shape, FIRST_STEP, device=device)
        self.rounds = torch.zeros(attacks, dtype=torch.int64, device=device)

    def start(self, attacks: Tensor, margins: Tensor, colours: Tensor) -> None:
        """Begin at the positions of least margin, each with its best colour.

        Parameters
        ----------
        attacks : Tensor
            int64, shape (A,): indices of attacks.
        margins : Tensor
            float32, shape (A, K, positions): of a scan; NaN where not evaluated.
        colours : Tensor
            uint8, shape (A, K, C).
        """
        best, colour = margins.nan_to_num(torch.inf).min(1)
        chosen = best.argsort(dim=1, stable=True)[:, : self.positions.shape[1]]
        image = torch.arange(len(attacks), device=attacks.device)[:, None]
        self.positions[attacks] = chosen
        self.margins[attacks] = best.gather(1, chosen)
        self.colours[attacks] = colours[image, colour.gather(1, chosen)].long()

    def propose(self, attacks: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions, (A, T · 2 C), and colours, uint8, (A, T · 2 C, C)."""
        return self.positions[attacks].repeat_interleave(len(self.moves), 1), self._trials(attacks).flatten(1, 2).byte()

    def observe(self, attacks: Tensor, margins: Tensor) -> None:
        """Learn the margins of what was proposed, (A, T · 2 C); NaN where not evaluated."""
        best, move = margins.nan_to_num(torch.inf).reshape(len(attacks), -1, len(self.moves)).min(2)
        index = move[:, :, None, None].expand(-1, -1, 1, self.colours.shape[2])
        better, trials = best < self.margins[attacks], self._trials(attacks).gather(2, index).squeeze(2)
        self.colours[attacks] = torch.where(better[:, :, None], trials, self.colours[attacks])
        self.margins[attacks] = torch.where(better, best, self.margins[attacks])
        self.step[attacks] = torch.where(better, self.step[attacks], (self.step[attacks] // 2).clamp(min=1))
        self.rounds[attacks] += 1

    def _trials(self, attacks: Tensor) -> Tensor:
        steps = self.step[attacks][:, :, None, None] * self.moves
        return (self.colours[attacks][:, :, None] + steps).clamp(0, 255)
