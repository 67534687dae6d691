"""Axes: along which axes of a tensor the images of a batch lie, and the positions of an image.

No shape tells which is which: a ViT's tokens may be as many as its channels, and a mixer's channels may fill a square.
So the axes are followed through every call. Convolution, pooling, linear layers and normalisation leave them where they
are; any other call is tried on random numbers: what changes in its output if half of the rows of its input change?
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from onepix.layers.steps import ATTENTION, ELEMENTWISE, JOINING, MOVING, function_of, tensors

IMAGES = 2  # in the batch that is followed


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the positions of an image lie in a tensor.

    Attributes
    ----------
    y, x : int or None
        Axes of the rows and of the columns; equal where positions lie row by row along one axis, as tokens do. None:
        there is one row, or one column, and no axis for it.
    height, width : int
        Numbers of rows and columns.
    first : int
        Of tokens: how many others precede the grid.
    """

    y: int | None
    x: int | None
    height: int
    width: int
    first: int = 0

    @property
    def tokens(self) -> bool:
        """Whether the positions lie along one axis."""
        return self.y == self.x


@dataclasses.dataclass(frozen=True)
class Axes:
    """The axes of a tensor that depends on the image.

    Attributes
    ----------
    images : int or None
        The axis along which the images lie; None: unknown.
    each : int
        How many consecutive entries along that axis belong to one image: more than one for windows.
    grids : tuple of Grid
        Where positions may lie: none, one, or several, as in attention weights, whose rows and columns are tokens.
    """

    images: int | None = None
    each: int = 1
    grids: tuple[Grid, ...] = ()

    @property
    def own(self) -> int | None:
        """The axis that belongs to the images alone; None: there is none."""
        return self.images if self.each == 1 else None


UNKNOWN = Axes()


def axes_of_images(shape: Sequence[int]) -> Axes:
    """Return the axes of images, (N, C, H, W)."""
    return Axes(0, 1, _with_space(Grid(2, 3, shape[2], shape[3])))


def axes_after(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    outputs: Any,
    written: Sequence[Tensor],
    known: Mapping[Tensor, Axes] | WeakTensorKeyDictionary,
) -> list[tuple[Tensor, Axes]]:
    """Find the axes of what a call returns, and of what it has written to.

    Parameters
    ----------
    func, args, kwargs
        The call; it has been made already.
    outputs
        What it returned.
    written : sequence of Tensor
        Arguments that it changed.
    known : mapping
        The axes of all arguments that depend on the image, from before the call.
    """
    results = list({id(tensor): tensor for tensor in (*tensors(outputs), *written)}.values())
    followed = [tensor for tensor in tensors((args, kwargs)) if tensor in known]
    function = function_of(func)
    rule = _RULES.get(function) or next((rule for part, rule in _RULES_BY_PART.items() if part in function), None)
    given = args[0] if args else kwargs.get("input")
    if rule and isinstance(given, Tensor) and all(tensor is given for tensor in followed):
        found = rule(known[given], given, results[0])
        if found is not None:
            return [(result, found if result.ndim == given.ndim else UNKNOWN) for result in results]
    query = args[0] if args else kwargs.get("query")
    if function in ATTENTION and isinstance(query, Tensor) and query in known and _along_tokens(known[query], query):
        return [(results[0], known[query]), *((result, UNKNOWN) for result in results[1:])]
    axes = known[followed[0]]
    if function in ELEMENTWISE and all(known[one] == axes and one.shape == results[0].shape for one in followed):
        return [(result, axes) for result in results]
    grows = function not in MOVING - {"pad"} and function not in JOINING
    try:
        trial = _Trial(func, args, kwargs, written, known)
        found_by_trial = [trial.axes(index, grows) for index in range(len(results))]
    except Exception:  # a function may refuse random numbers in any way; nothing is known then
        return [(result, UNKNOWN) for result in results]
    return list(zip(results, found_by_trial, strict=True))


def _with_space(grid: Grid) -> tuple[Grid, ...]:
    return (grid,) if grid.height * grid.width > 1 else ()


def _sliding(axes: Axes, before: Tensor, after: Tensor) -> Axes | None:
    """Keep rows and columns on the last two axes, whatever their number after a convolution or pooling."""
    last = before.ndim - 2, before.ndim - 1
    if axes.images != 0 or any((grid.y, grid.x) != last for grid in axes.grids) or after.ndim != before.ndim:
        return None
    return Axes(
        0,
        axes.each,
        tuple(new for _ in axes.grids for new in _with_space(Grid(*last, after.shape[-2], after.shape[-1]))),
    )


def _pointwise_on_last(axes: Axes, before: Tensor, _after: Tensor) -> Axes | None:
    """Keep all axes but the last one, which a linear layer mixes."""
    last = before.ndim - 1
    if axes.images == last:
        return UNKNOWN
    return Axes(axes.images, axes.each, tuple(grid for grid in axes.grids if last not in (grid.y, grid.x)))


def _along_tokens(axes: Axes, query: Tensor) -> bool:
    """Tell whether attention keeps all axes of its query: not where it is over channels."""
    last = query.ndim - 1
    return axes.images != last and all(last not in (grid.y, grid.x) for grid in axes.grids)


def _unchanged(axes: Axes, before: Tensor, after: Tensor) -> Axes | None:
    """Keep all axes: a normalisation, or softmax, over positions changes each by a number that they share."""
    return axes if before.shape == after.shape else None


_Rule = Callable[[Axes, Tensor, Tensor], Axes | None]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("conv2d", "conv_transpose2d"), _sliding),
    "linear": _pointwise_on_last,
}
_RULES_BY_PART: dict[str, _Rule] = {"pool2d": _sliding, "norm": _unchanged, "softmax": _unchanged}


class _Trial:
    """A call on random numbers, and which elements of its results differ when parts of its arguments change."""

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        written: Sequence[Tensor],
        known: Mapping[Tensor, Axes] | WeakTensorKeyDictionary,
    ) -> None:
        self._func = func
        leaves, self._structure = tree_flatten((args, dict(kwargs)))
        self._draw = torch.Generator().manual_seed(0)
        self._axes = {
            index: known[leaf]
            for index, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and leaf in known and _drawable(leaf)
        }
        identities = {id(tensor) for tensor in written}
        self._written = [index for index, leaf in enumerate(leaves) if id(leaf) in identities]
        # Weights are drawn, too: those of a fresh network may be zero.
        self._leaves = [
            self._random(leaf, index in self._axes) if isinstance(leaf, Tensor) and _drawable(leaf) else leaf
            for index, leaf in enumerate(leaves)
        ]
        self._others = {index: _another(self._leaves[index]) for index in self._axes}
        self._before = self._run({})

    def _random(self, like: Tensor, signed: bool) -> Tensor:
        values = torch.rand(like.shape, generator=self._draw).to(like.device)
        if like.dtype == torch.bool:
            return values < 0.5
        if like.is_complex():
            return torch.complex(values, 1 - values).to(like.dtype)
        if signed:
            return (2 * values - 1).to(like.dtype)
        if like.ndim < 2:  # a variance, perhaps
            return (values + 0.5).to(like.dtype)
        # As weights are at first: with larger ones, attention would look at one token only, and others not matter.
        return ((2 * values - 1) * math.sqrt(3 * len(like) / max(like.numel(), 1))).to(like.dtype)

    def _run(self, changed: Mapping[int, Tensor]) -> list[Tensor]:
        """Call the function, where elements of some arguments are other ones: `changed` holds masks."""
        leaves = list(self._leaves)
        for index in {*self._axes, *self._written}:
            leaves[index] = leaves[index].clone()
        for index, mask in changed.items():
            leaves[index] = torch.where(mask, self._others[index], leaves[index])
        args, kwargs = tree_unflatten(leaves, self._structure)
        outputs = tensors(self._func(*args, **kwargs))
        return list({id(tensor): tensor for tensor in (*outputs, *(leaves[index] for index in self._written))}.values())

    def _reached(self, result: int, masks: Mapping[int, Tensor]) -> list[Tensor]:
        """Return for each axis of a result which of its indices a change of the arguments reaches."""
        before, after = self._before[result], self._run(masks)[result]
        same = (
            (before == after) | (before.isnan() & after.isnan()) if before.dtype.is_floating_point else before == after
        )
        axes = range(same.ndim)
        return [~same.all(dim=[other for other in axes if other != axis]) if same.ndim > 1 else ~same for axis in axes]

    def axes(self, result: int, grows: bool) -> Axes:
        """Return the axes of a result; the call may make more rows and columns if it `grows`."""
        if not self._axes or not self._before[result].ndim:
            return UNKNOWN
        images, each = self._images(result)
        together = self._grids(result, list(self._axes), grows) if len(self._axes) > 1 else []
        found = together or [grid for index in self._axes for grid in self._grids(result, [index], grows)]
        return Axes(images, each, tuple(dict.fromkeys(found)))

    def _images(self, result: int) -> tuple[int | None, int]:
        """Return the axis in which each image reaches its own share of a result, and how long a share is."""
        reached = []
        for image in range(IMAGES):
            masks = {
                index: _band(self._leaves[index], axes.images, slice(image * axes.each, (image + 1) * axes.each))
                for index, axes in self._axes.items()
                if axes.images is not None
            }
            if not masks:
                return None, 1
            reached.append([axis.tolist() for axis in self._reached(result, masks)])
        own = [axis for axis, found in enumerate(zip(*reached, strict=True)) if list(found) == _shares(len(found[0]))]
        return (own[0], len(reached[0][own[0]]) // IMAGES) if len(own) == 1 else (None, 1)

    def _grids(self, result: int, indices: Sequence[int], grows: bool) -> list[Grid]:
        """Return where positions of these arguments, all of which change together, lie in a result."""
        sizes = {(grid.height, grid.width) for index in indices for grid in self._axes[index].grids}
        if len(indices) > 1 and (len(sizes) != 1 or any(len(self._axes[index].grids) > 1 for index in indices)):
            return []
        choices = list(self._axes[indices[0]].grids) if len(indices) == 1 else [None]
        return [found for grid in choices if (found := self._grid(result, indices, grid, grows))]

    def _grid(self, result: int, indices: Sequence[int], only: Grid | None, grows: bool) -> Grid | None:
        grids = {index: only or grid for index in indices for grid in self._axes[index].grids[:1]}
        if not grids:
            return None
        grid = next(iter(grids.values()))
        rows, columns = (
            [
                self._reached(
                    result, {index: _half(self._leaves[index], of, axis, later) for index, of in grids.items()}
                )
                for later in (False, True)
            ]
            if extent > 1
            else None
            for axis, extent in enumerate((grid.height, grid.width))
        )
        return _found(self._before[result], grid, rows, columns, grows)


def _shares(size: int) -> list[list[bool]]:
    """Return for each image which entries along the images' axis belong to it; none if they cannot be shared out."""
    each = size // IMAGES if size % IMAGES == 0 else 0
    return [[image * each <= n < (image + 1) * each for n in range(size)] for image in range(IMAGES)]


def _another(tensor: Tensor) -> Tensor:
    """Return other values, so that a ReLU or a maximum shows the difference wherever it is."""
    if tensor.dtype == torch.bool:
        return ~tensor
    return tensor + 1 if tensor.is_complex() else (tensor.abs() + 1) / 2


def _drawable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool


def _band(tensor: Tensor, axis: int, indices: slice | Tensor) -> Tensor:
    """Return a mask of some indices along one axis, that broadcasts to the tensor."""
    mask = torch.zeros(tensor.shape[axis], dtype=torch.bool, device=tensor.device)
    mask[indices] = True
    return mask.reshape([-1 if other == axis else 1 for other in range(tensor.ndim)])


def _half(tensor: Tensor, grid: Grid, axis: int, later: bool) -> Tensor:
    """Return a mask of the first or the later half of the rows (axis 0) or columns (axis 1) of a tensor."""
    extent = (grid.height, grid.width)[axis]
    own = (grid.y, grid.x)[axis]
    chosen = (torch.arange(extent) >= extent // 2) == later
    if not grid.tokens:
        assert own is not None
        return _band(tensor, own, chosen)
    assert grid.y is not None
    mask = torch.zeros(tensor.shape[grid.y], dtype=torch.bool)
    cells = chosen[:, None].expand(-1, grid.width) if axis == 0 else chosen.expand(grid.height, -1)
    mask[grid.first : grid.first + cells.numel()] = cells.flatten()
    return _band(tensor, grid.y, mask)


_Halves = list[list[Tensor]] | None


def _found(result: Tensor, grid: Grid, rows: _Halves, columns: _Halves, grows: bool) -> Grid | None:
    """Return where the positions lie in a result, given what the halves of rows and of columns reach in it."""
    of_rows, of_columns = (
        [axis for axis, (one, other) in enumerate(zip(*halves, strict=True)) if not torch.equal(one, other)]
        if halves
        else []
        for halves in (rows, columns)
    )
    if rows and columns and of_rows == of_columns and len(of_rows) == 1:
        return _tokens(grid, of_rows[0], [[half[of_rows[0]] for half in halves] for halves in (rows, columns)])
    found: list[tuple[int | None, int]] = []
    for halves, changed, own, extent in (
        (rows, of_rows, grid.y, grid.height),
        (columns, of_columns, grid.x, grid.width),
    ):
        if halves is None:  # one row, or one column, and so no halves to compare
            kept = own is not None and own < result.ndim and result.shape[own] == 1
            found.append((own if kept else None, 1))
            continue
        if len(changed) != 1 or not _in_order(*(half[changed[0]] for half in halves)):
            return None
        size = result.shape[changed[0]]
        if size > extent and not grows:  # columns and channels along one axis, or two maps side by side
            return None
        found.append((changed[0], size))
    (y, height), (x, width) = found
    return Grid(y, x, height, width) if height * width > 1 and y != x else None


def _in_order(first: Tensor, later: Tensor) -> bool:
    """Tell whether what two halves reach are two runs of indices, the first of which begins and ends before."""
    runs = [half.nonzero().flatten().tolist() for half in (first, later)]
    if not all(run and run[-1] - run[0] + 1 == len(run) for run in runs):
        return False
    (start, *_), (begin, *_) = runs
    return bool(start <= begin and runs[0][-1] <= runs[1][-1])


def _tokens(grid: Grid, axis: int, halves: Sequence[Sequence[Tensor]]) -> Grid | None:
    """Return the grid whose tokens lie along an axis, if the halves reach just the tokens that they should."""
    reached = (halves[0][0] | halves[0][1]).nonzero().flatten().tolist()
    size, first = len(halves[0][0]), reached[0] if reached else 0
    if first + grid.height * grid.width > size:
        return None
    found = Grid(axis, axis, grid.height, grid.width, first)
    blank = torch.empty([1] * axis + [size])
    for of, pair in enumerate(halves):
        for later, half in zip((False, True), pair, strict=True):
            if not torch.equal(half.cpu(), _half(blank, found, of, later).flatten()):
                return None
    return found


def laid_out(output: Tensor, grid: Grid | None) -> tuple[Tensor, Tensor | None]:
    """Lay an output out as maps.

    Parameters
    ----------
    output : Tensor
        Images on its first axis.
    grid : Grid or None
        Where its positions lie; None: nowhere.

    Returns
    -------
    tuple of Tensor
        Maps of shape (N, C, y, x), 1 × 1 without positions; and of tokens those that do not belong to the grid, (N, C,
        1, tokens), or None.
    """
    if grid is None:
        return output.flatten(1)[:, :, None, None], None
    if not grid.tokens:
        axes = [axis for axis in (grid.y, grid.x) if axis is not None]
        moved = output.movedim(axes, list(range(-len(axes), 0)))
        return moved.reshape(len(output), -1, grid.height, grid.width), None
    assert grid.y is not None
    tokens = output.movedim(grid.y, -1)
    tokens = tokens.flatten(1, -2) if tokens.ndim > 2 else tokens[:, None]
    end = grid.first + grid.height * grid.width
    others = torch.cat([tokens[:, :, : grid.first], tokens[:, :, end:]], 2)
    maps = tokens[:, :, grid.first : end].reshape(*tokens.shape[:2], grid.height, grid.width)
    return maps, others[:, :, None] if others.shape[2] else None
