"""The pixel change: what it is, and how it is applied to 8-bit images."""

import dataclasses

import torch
from torch import Tensor

FULL = 255  # the largest value of a colour


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """A change of P pixels for each of N candidates.

    Attributes
    ----------
    rows, columns : Tensor
        int64, shape (N, P).
    values : Tensor
        uint8, shape (N, P, C): the new colours of the pixels.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice) -> "Perturbation":
        return Perturbation(self.rows[index], self.columns[index], self.values[index])

    def apply(self, images: Tensor) -> Tensor:
        """Return copies of the images with their pixels changed.

        Parameters
        ----------
        images : Tensor
            uint8, shape (N, H, W, C), one image per candidate.

        Returns
        -------
        Tensor
            uint8, same shape. Where a candidate names one pixel twice, its last colour counts.
        """
        changed = images.clone()
        index = torch.arange(len(images), device=images.device)
        for pixel in range(self.rows.shape[1]):
            changed[index, self.rows[:, pixel], self.columns[:, pixel]] = self.values[:, pixel]
        return changed


def from_genes(genes: Tensor, height: int, width: int) -> Perturbation:
    """Read real-valued candidates as pixel changes.

    Parameters
    ----------
    genes : Tensor
        Float, shape (N, P, 2 + C): row in [0, height], column in [0, width], colours in [0, 255].
        Pixel r owns the rows [r, r + 1); the upper bound itself belongs to the last pixel, so that every
        row, column and colour (255 too) can be reached.

    Returns
    -------
    Perturbation
        Whole pixels and 8-bit colours, rounded to the nearest.
    """
    rows = genes[..., 0].floor().clamp(0, height - 1).long()
    columns = genes[..., 1].floor().clamp(0, width - 1).long()
    values = genes[..., 2:].round().clamp(0, FULL).to(torch.uint8)
    return Perturbation(rows, columns, values)
