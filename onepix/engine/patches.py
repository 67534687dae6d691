"""Cuts patches out of clean feature maps, and puts recomputed windows into them."""

import dataclasses
import functools

import torch
from torch import Tensor

Pair = tuple[int, int]
Margins = tuple[Pair, Pair]
Pixel = tuple[Tensor, Tensor]
# Copying is done in units of this many bytes: PyTorch copies units one by one, however small they are.
CARRIERS = {16: torch.complex128, 8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


@dataclasses.dataclass(frozen=True)
class Span:
    """Where patches and windows lie along one axis of a map.

    A patch begins and ends so that the window always lies within it, which may take more positions than are wanted.

    Attributes
    ----------
    begins : Tensor
        int64, by pixel: the first position of the patch in the map.
    offsets : Tensor
        int64, by pixel: the first position of the window in the patch.
    length : int
        Positions of the patch.
    wanted : slice
        Those that are wanted of them.
    """

    begins: Tensor
    offsets: Tensor
    length: int
    wanted: slice

    @staticmethod
    def around(begins: Tensor, length: int, starts: Tensor, size: int) -> "Span":
        """Return the span for wanted positions and windows that begin there and are so long."""
        offsets = starts - begins
        before = max(-int(offsets.min()), 0)
        after = max(int(offsets.max()) + size - length, 0)
        return Span(begins - before, offsets + before, before + length + after, slice(before, before + length))

    def margins(self, extent: int) -> Pair:
        """Return how much padding of the map the patches need on both sides."""
        return max(-int(self.begins.min()), 0), max(int(self.begins.max()) + self.length - extent, 0)


class Cut:
    """Cuts patches out of a padded map.

    Parameters
    ----------
    rows, columns : Span
        Where.
    """

    def __init__(self, rows: Span, columns: Span) -> None:
        self.rows, self.columns = rows, columns
        self._tables = functools.cache(self._on)

    def margins(self, extents: Pair) -> Margins:
        """Return the padding that the whole map needs, of these extents without it."""
        return self.rows.margins(extents[0]), self.columns.margins(extents[1])

    def _on(self, device: torch.device, top: int, left: int, width: int, height: int) -> tuple[Tensor, ...]:
        """Return positions by pixel, and steps from row to row, for a padded map of this width and windows so high."""
        rows, columns = self.rows, self.columns
        return tuple(
            table.to(device)
            for table in (
                (rows.begins + top) * width,
                columns.begins + left,
                torch.arange(rows.length) * width,
                rows.offsets * columns.length,
                columns.offsets,
                torch.arange(height) * columns.length,
            )
        )

    def __call__(self, clean: Tensor, padding: Margins, owners: Tensor, pixel: Pixel, values: Tensor) -> Tensor:
        """Cut out patches, and put windows into them.

        Parameters
        ----------
        clean : Tensor
            Shape (B, H, W, C), contiguous, with padding.
        padding : tuple of tuple of int
            Of its rows and of its columns.
        owners : Tensor
            int64, shape (N,).
        pixel : tuple of Tensor
            Rows and columns, int64, shape (N,).
        values : Tensor
            The windows, shape (N, C, h, w).

        Returns
        -------
        Tensor
            Shape (N, C, height, width), channels last in memory.
        """
        _, height, width, channels = clean.shape
        count, _, rows, columns = values.shape
        tall, wide = self.rows.length, self.columns.length
        tables = self._tables(owners.device, padding[0][0], padding[1][0], width, rows)
        begins, offsets = (
            tables[first].index_select(0, pixel[0]) + tables[first + 1].index_select(0, pixel[1]) for first in (0, 3)
        )
        cells = (begins + owners * (height * width))[:, None] + tables[2]
        lines = clean.as_strided((clean.numel() // channels - wide + 1, wide * channels), (channels, 1))
        patch = lines.index_select(0, cells.flatten())
        targets = (offsets + torch.arange(0, count * tall * wide, tall * wide, device=owners.device))[:, None] + tables[
            5
        ]
        carrier = CARRIERS[_largest(channels * clean.element_size())]
        window = values.to(clean.dtype).permute(0, 2, 3, 1).reshape(count * rows, columns * channels).view(carrier)
        units = window.shape[1] // columns
        places = patch.view(carrier).as_strided((count * tall * wide - columns + 1, columns * units), (units, 1))
        places.index_copy_(0, targets.flatten(), window)
        whole = patch.view(count, tall, wide, channels)
        return whole[:, self.rows.wanted, self.columns.wanted].permute(0, 3, 1, 2)


def _largest(size: int) -> int:
    """Return the size of the largest carrier of which so many bytes are a multiple."""
    return next(carrier for carrier in CARRIERS if size % carrier == 0)
