"""Cuts patches out of clean feature maps, and puts recomputed windows into them."""

import dataclasses
import functools
from collections.abc import Sequence

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
    """Cuts patches out of a padded map, and puts windows into them.

    Parameters
    ----------
    rows, columns : Span
        Where.
    """

    def __init__(self, rows: Span, columns: Span) -> None:
        self.rows, self.columns = rows, columns
        self._is_wanted = all(span.wanted == slice(0, span.length) for span in (rows, columns))
        self._steps = functools.cache(_steps)

    def margins(self, extents: Pair) -> Margins:
        """Return the padding that the whole map needs, of these extents without it."""
        return self.rows.margins(extents[0]), self.columns.margins(extents[1])

    def __call__(self, clean: Tensor, begins: Tensor, targets: Tensor, values: Tensor) -> Tensor:
        """Cut out patches, and put windows into them.

        Parameters
        ----------
        clean : Tensor
            Shape (B, H, W, C), contiguous, with padding.
        begins, targets : Tensor
            int64, shape (N, 1): from `Places`.
        values : Tensor
            The windows, shape (N, C, h, w).

        Returns
        -------
        Tensor
            Shape (N, C, height, width), channels last in memory.
        """
        width, channels = clean.shape[2:]
        count, _, rows, columns = values.shape
        tall, wide = self.rows.length, self.columns.length
        cells = begins + self._steps(tall, width, begins.device)
        lines = clean.as_strided((clean.numel() // channels - wide + 1, wide * channels), (channels, 1))
        patch = lines.index_select(0, cells.view(-1))
        values = values if values.dtype == clean.dtype else values.to(clean.dtype)
        carrier = CARRIERS[_largest(channels * clean.element_size())]
        window = values.permute(0, 2, 3, 1).reshape(count * rows, columns * channels).view(carrier)
        units = window.shape[1] // columns
        lines = patch.view(carrier).as_strided((count * tall * wide - columns + 1, columns * units), (units, 1))
        lines.index_copy_(0, (targets + self._steps(rows, wide, begins.device)).view(-1), window)
        whole = patch.view(count, tall, wide, channels).permute(0, 3, 1, 2)
        return whole if self._is_wanted else whole[:, :, self.rows.wanted, self.columns.wanted]


class Places:
    """Finds where patches begin and where windows go, for all cuts at once: many small calls would take longer.

    Parameters
    ----------
    cuts : sequence of tuple
        K times a cut, and extents and padding of its map.
    """

    def __init__(self, cuts: Sequence[tuple[Cut, Pair, Margins]]) -> None:
        self.tables: list[Tensor] = []
        if cuts:
            paddings = [margins for _, _, margins in cuts]
            heights, widths = (
                [extents[along] + sum(margins[along]) for _, extents, margins in cuts] for along in range(2)
            )
            each = list(zip(cuts, paddings, widths, strict=True))
            columns = (
                [(cut.rows.begins + padding[0][0]) * width for (cut, *_), padding, width in each],
                [cut.columns.begins + padding[1][0] for (cut, *_), padding, _ in each],
                [torch.tensor([height * width]) for height, width in zip(heights, widths, strict=True)],
                [cut.rows.offsets * cut.columns.length for cut, *_ in cuts],
                [cut.columns.offsets for cut, *_ in cuts],
                [torch.tensor([cut.rows.length * cut.columns.length]) for cut, *_ in cuts],
            )
            self.tables = [torch.stack(column) for column in columns]

    def __call__(self, owners: Tensor, pixel: Pixel, size: int) -> list[list[tuple[Tensor, Tensor]]]:
        """Find places for candidates.

        Parameters
        ----------
        owners : Tensor
            int64, shape (N,): the image of each candidate.
        pixel : tuple of Tensor
            Rows and columns, int64, shape (N,).
        size : int
            Candidates that are evaluated together; N is a multiple of it.

        Returns
        -------
        list of list of tuple
            For each `size` candidates, by cut: begins and targets, int64, shape (size, 1), for `Cut`.
        """
        if not self.tables:
            return [[] for _ in range(len(owners) // size)]
        self.tables = [table.to(owners.device) for table in self.tables]
        rows, columns, areas, offset_rows, offset_columns, patches = self.tables
        index = torch.arange(len(owners), device=owners.device) % size
        begins = rows.index_select(1, pixel[0]) + columns.index_select(1, pixel[1]) + owners * areas
        targets = offset_rows.index_select(1, pixel[0]) + offset_columns.index_select(1, pixel[1]) + index * patches
        parts = (torch.split(places[:, :, None], size, 1) for places in (begins, targets))
        return [list(zip(*(part.unbind() for part in both), strict=True)) for both in zip(*parts, strict=True)]


def _steps(count: int, step: int, device: torch.device) -> Tensor:
    return torch.arange(0, count * step, step, device=device)


def _largest(size: int) -> int:
    """Return the size of the largest carrier of which so many bytes are a multiple."""
    return next(carrier for carrier in CARRIERS if size % carrier == 0)
