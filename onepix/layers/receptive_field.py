"""Theoretical receptive fields: which pixels a position of a layer can see, and which positions a pixel can reach."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from onepix.errors import OnepixError
from onepix.layers.steps import (
    NEW,
    Key,
    Steps,
    function_of,
    has_numbers,
    made_up_images,
    observed,
    operator_of_call,
    tensors,
    trial_run,
    version,
)


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The theoretical receptive field of one layer's output, in pixels of the input image.

    Along each axis, output position i sees no pixel outside
    ``start + i · jump`` to ``start + i · jump + size − 1``. The field is not clipped: it may begin
    before the image's first pixel (0) and end after its last. Dilation leaves holes in a field;
    the field is then the smallest interval around what is seen.

    Attributes
    ----------
    size : tuple of int
        Height and width of the field.
    jump : tuple of int
        Distance between the fields of neighbouring output positions (y, x): the layer's total stride.
    start : tuple of int
        First pixel (y, x) of the field of output position (0, 0); negative where there is padding.
        The field's centre lies at ``start + (size − 1) / 2``.

    Notes
    -----
    Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks" (2019).
    """

    size: tuple[int, int]
    jump: tuple[int, int]
    start: tuple[int, int]

    def cone(self, row: int, column: int, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the output positions whose field contains a pixel: those that its change can reach.

        Parameters
        ----------
        row, column : int
            The pixel in the input image.
        shape : tuple of int
            Height and width of the layer's output.

        Returns
        -------
        tuple of slice
            Rows and columns of the output, clipped to `shape`; empty where no position sees the pixel.
        """
        rows, columns = (
            _positions(pixel, *axis)
            for pixel, *axis in zip((row, column), self.size, self.jump, self.start, shape, strict=True)
        )
        return rows, columns


def receptive_fields(network: nn.Module, shape: tuple[int, int, int]) -> dict[str, ReceptiveField | None]:
    """Find the theoretical receptive field of every layer and functional operation of a network.

    The network runs once, in evaluation mode, on an artificial image of its own device and dtype;
    every torch call on the way is followed. The network is left as it was.

    Parameters
    ----------
    network : nn.Module
        Takes float images (N, C, H, W).
    shape : tuple of int
        Channels, height and width of the image.

    Returns
    -------
    dict of str to ReceptiveField or None
        One entry per step, in the order in which the steps end, named as in `onepix.layers.steps.Steps`:
        modules by their dotted names, `""` for the network itself, functional operations as `name.add()`.
        None: the spatial extent could not be followed, and a position may see the whole image.

    Raises
    ------
    OnepixError
        If `shape` is not three positive integers, the network cannot run on such an image, or a part
        of it is TorchScript.

    Notes
    -----
    Followed are convolution, pooling, constant padding, strided slices, and any call that maps each
    position separately (found by trying, not by a list). Where branches meet, the field is the
    smallest that contains those of all branches. Everything else counts as seeing the whole image:
    upsampling, attention, normalisation and squeeze-and-excitation over space; also comparisons
    (their output is not float), swapped axes (channels last), padding that repeats the image, and
    adaptive pooling to a size that is not a divisor. So a field can be larger than the true one. It
    is smaller only if a module leaves torch (NumPy, `.item()`, TorchScript functions) and mixes the
    result with earlier values, writes through `.data`, or mixes positions by a call that drops NaN.
    """
    if len(shape) != 3 or not all(isinstance(extent, int) and extent > 0 for extent in shape):
        raise OnepixError(
            f"receptive fields: the shape must be three positive integers (channels, height, width), got {shape}"
        )
    tracer = _Tracer(network)
    with trial_run(network, "receptive fields", shape), observed(network, tracer):
        image = made_up_images(network, 1, shape)
        tracer.enter(image, ReceptiveField(size=(1, 1), jump=(1, 1), start=(0, 0)))
        with tracer:
            network(image)
    return tracer.layers


def _positions(pixel: int, size: int, jump: int, start: int, length: int) -> slice:
    """Return the positions i < length with start + i · jump ≤ pixel ≤ start + i · jump + size − 1."""
    first = max(0, math.ceil((pixel - start - size + 1) / jump))
    end = min(length, (pixel - start) // jump + 1)
    return slice(first, end) if first < end else slice(0, 0)


class _Tracer(TorchFunctionMode):
    """Carry receptive fields from the arguments of every torch call to its outputs.

    Every tensor that depends on the image is stored with its field (None: the whole image) and its
    version. If something writes into the tensor later, even through a view, its version changes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers: dict[str, ReceptiveField | None] = {}
        self._steps = Steps(network)
        self._known = WeakTensorKeyDictionary()

    def enter(self, tensor: Tensor, field: ReceptiveField | None) -> None:
        """Store the field of a tensor; a tensor that is not float cannot be followed, see `_keeps_positions`."""
        self._known[tensor] = (field if tensor.is_floating_point() else None, version(tensor))

    def entered(self, name: str, _inputs: object) -> None:
        """Note that a module begins to run."""
        self._steps.entered(name)

    def left(self, name: str, inputs: object, output: Any) -> None:
        """Note the field of a module's output when it returns."""
        if self._followed(inputs):
            # An output computed outside of torch (NumPy, C++) may depend on the whole image.
            for tensor in tensors(output):
                if tensor not in self._known:
                    self.enter(tensor, None)
        self._note(self._steps.left(name), output)

    def _note(self, key: Key, output: Any) -> None:
        followed = isinstance(output, Tensor) and output in self._known
        self.layers[self._steps.name_of(key)] = self._field(output) if followed else None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        followed = self._followed((args, kwargs))
        if not followed or func in NEW:
            return func(*args, **kwargs)
        closed = self._steps.closed
        # Before the call, as the call may write to its arguments.
        field = self._field_after(func, args, kwargs, followed)
        versions = [(tensor, version(tensor)) for tensor in tensors((args, kwargs))]
        outputs = func(*args, **kwargs)
        for tensor, before in versions:
            if version(tensor) != before:
                for written in (tensor, *([] if tensor._base is None else [tensor._base])):
                    self.enter(written, None)
        for tensor in tensors(outputs):
            self.enter(tensor, field)
        operator = None if closed else operator_of_call(function_of(func), len(followed))
        if operator and has_numbers(outputs):
            self._note((self._steps.running, function_of(func), 0), outputs)
        return outputs

    def _followed(self, nested: object) -> list[Tensor]:
        return [tensor for tensor in tensors(nested) if tensor in self._known]

    def _field(self, tensor: Tensor) -> ReceptiveField | None:
        field, before = self._known[tensor]
        return field if before == version(tensor) else None

    def _field_after(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], followed: list[Tensor]
    ) -> ReceptiveField | None:
        fields = [field for tensor in followed if (field := self._field(tensor))]
        if len(fields) < len(followed):
            return None
        rule = _RULES.get(func)
        others = dict(kwargs)
        first, *rest = args or (others.pop("input", None),)
        if rule and len(followed) == 1 and followed[0] is first:
            field = rule(fields[0], first.shape, *rest, **others)
            if field:
                return field
        return _join(fields) if _keeps_positions(func, args, kwargs, followed) else None


def _join(fields: Sequence[ReceptiveField]) -> ReceptiveField | None:
    """Return the smallest field that contains all of these; None if their grids differ."""
    if len({field.jump for field in fields}) > 1:
        return None
    start = [min(field.start[axis] for field in fields) for axis in (0, 1)]
    end = [max(field.start[axis] + field.size[axis] for field in fields) for axis in (0, 1)]
    size = (end[0] - start[0], end[1] - start[1])
    return ReceptiveField(size=size, jump=fields[0].jump, start=(start[0], start[1]))


def _keeps_positions(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], followed: Sequence[Tensor]
) -> bool:
    """Tell whether a call computes each position (last two axes) of its outputs from that position alone.

    The call is tried on copies with NaN at some positions; NaN in the output shows where these go. Comparing
    shapes is not enough: a flip, a softmax over space or a transposed square map keep the shape, too.
    """
    shape = followed[0].shape[-2:]
    if any(tensor.shape[-2:] != shape for tensor in followed):
        return False
    identities = {id(tensor) for tensor in followed}

    def marked(mask: Tensor, tensor: Tensor) -> Tensor:
        copy = tensor.detach().clone()
        return copy.masked_fill_(mask, math.nan) if id(tensor) in identities else copy

    for mask in _separating_masks(shape[0], shape[1], followed[0].device):
        trial_args, trial_kwargs = tree_map_only(Tensor, functools.partial(marked, mask), (args, dict(kwargs)))
        outputs = [out for out in tensors(func(*trial_args, **trial_kwargs)) if out.is_floating_point()]
        if not outputs or any(out.ndim < 4 or out.shape[-2:] != shape for out in outputs):
            return False
        if any((out.isnan() & ~mask).any() for out in outputs):
            return False
    return True


def _separating_masks(height: int, width: int, device: torch.device) -> Iterator[Tensor]:
    """Yield masks, first an empty one; for any two positions, some mask contains the first but not the second."""
    index = torch.arange(height * width, device=device).reshape(height, width)
    yield index < 0
    for bit in range((height * width - 1).bit_length()):
        mask = (index >> bit) % 2 == 1
        yield mask
        yield ~mask


def _slide(
    field: ReceptiveField, kernel: Sequence[int], stride: Sequence[int], offset: Sequence[int]
) -> ReceptiveField:
    """Return the field after a window over `kernel` positions that starts at `offset` and moves by `stride`."""
    size = [field.size[axis] + (kernel[axis] - 1) * field.jump[axis] for axis in (0, 1)]
    jump = [field.jump[axis] * stride[axis] for axis in (0, 1)]
    start = [field.start[axis] + offset[axis] * field.jump[axis] for axis in (0, 1)]
    return ReceptiveField(size=(size[0], size[1]), jump=(jump[0], jump[1]), start=(start[0], start[1]))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return a setting for y and x, as torch reads it: a number, or a list of one or two numbers."""
    values = value if isinstance(value, Sequence) else (value,)
    return int(values[0]), int(values[-1])


def _span(kernel: int | Sequence[int], dilation: int | Sequence[int]) -> list[int]:
    """Return the number of positions from the first to the last tap of a dilated window."""
    return [(taps - 1) * gap + 1 for taps, gap in zip(_pair(kernel), _pair(dilation), strict=True)]


# The rules below take the field and the shape (N, …, H, W) of the input, then the further parameters of the torch
# function, in the same order and with the same names. None means that the rule does not apply.


def _conv2d(
    field: ReceptiveField,
    _shape: torch.Size,
    weight: Tensor,
    _bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    *_: object,
    **__: object,
) -> ReceptiveField:
    kernel = _span(weight.shape[-2:], dilation)
    if isinstance(padding, str):
        # If the number of added rows is odd, torch adds one more after the image than before it.
        before = [-((extent - 1) // 2) if padding == "same" else 0 for extent in kernel]
    else:
        before = [-extent for extent in _pair(padding)]
    return _slide(field, kernel, _pair(stride), before)


def _max_pool2d(
    field: ReceptiveField,
    _shape: torch.Size,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    *_: object,
    **__: object,
) -> ReceptiveField:
    before = [-extent for extent in _pair(padding)]
    return _slide(field, _span(kernel_size, dilation), _pair(stride or kernel_size), before)


def _avg_pool2d(
    field: ReceptiveField,
    _shape: torch.Size,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    *_: object,
    **__: object,
) -> ReceptiveField:
    return _max_pool2d(field, _shape, kernel_size, stride, padding)


def _adaptive_pool2d(
    field: ReceptiveField, shape: torch.Size, output_size: int | Sequence[int | None], *_: object, **__: object
) -> ReceptiveField | None:
    asked = (output_size, output_size) if isinstance(output_size, int) else output_size
    wanted = [extent if size is None else size for extent, size in zip(shape[-2:], asked, strict=True)]
    if wanted == [1, 1] or any(extent % size for extent, size in zip(shape[-2:], wanted, strict=True)):
        return None
    window = [extent // size for extent, size in zip(shape[-2:], wanted, strict=True)]
    return _slide(field, window, window, (0, 0))


def _pad(
    field: ReceptiveField, _shape: torch.Size, pad: Sequence[int], mode: str = "constant", *_: object, **__: object
) -> ReceptiveField | None:
    # From the last axis backwards: before and after in x, then in y, then in channels.
    left, _right, top, _bottom, *_rest = (*pad, 0, 0, 0, 0)
    return _slide(field, (1, 1), (1, 1), (-top, -left)) if mode == "constant" else None


def _getitem(field: ReceptiveField, shape: torch.Size, index: object) -> ReceptiveField | None:
    entries = index if isinstance(index, tuple) else (index,)
    if not all(entry is Ellipsis or isinstance(entry, slice) for entry in entries):
        return None
    index = entries.index(Ellipsis) if Ellipsis in entries else len(entries)
    missing = [slice(None)] * (len(shape) - len(entries) + (Ellipsis in entries))
    slices = [*entries[:index], *missing, *entries[index + 1 :]][-2:]
    first, _end, step = zip(
        *(entry.indices(extent) for entry, extent in zip(slices, shape[-2:], strict=True)), strict=True
    )
    return _slide(field, (1, 1), step, first)


_RULES: dict[Callable[..., Any], Callable[..., ReceptiveField | None]] = {
    torch.conv2d: _conv2d,
    torch.max_pool2d: _max_pool2d,
    F.max_pool2d: _max_pool2d,
    F.max_pool2d_with_indices: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.adaptive_avg_pool2d: _adaptive_pool2d,
    F.adaptive_max_pool2d: _adaptive_pool2d,
    F.pad: _pad,
    Tensor.__getitem__: _getitem,
}
