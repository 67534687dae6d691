"""Evaluates one-pixel changes by recomputing only the parts of feature maps that the pixel can reach."""

import dataclasses
import functools
import operator
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onepix.engine.tracing import asks_for_kind, with_shapes
from onepix.errors import OnepixError

# A window that is a larger part of its map saves less time than gathering it costs.
LARGEST_SHARE = 0.5

Pair = tuple[int, int]
Margins = tuple[Pair, Pair]
Pixel = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class CleanMaps:
    """The feature maps of clean images that windowed evaluation needs.

    Attributes
    ----------
    maps : dict
        Feature maps with the padding that the nodes reading them need: shape (B, H + padding, W + padding, C), by the
        node that made them and the value of the padding.
    """

    maps: dict[tuple[fx.Node, float], Tensor]


@dataclasses.dataclass(frozen=True)
class _Axis:
    """The cone of a pixel along one axis of a map.

    Pixel r can change only the positions ceil((r + first) / jump) to floor((r + last) / jump). The window has the
    largest length that this can have for any r; where it would leave the map, it is moved into the map.
    """

    first: int
    last: int
    jump: int
    extent: int

    @property
    def size(self) -> int:
        return min((self.last - self.first) // self.jump + 1, self.extent)

    def start(self, pixels: Tensor) -> Tensor:
        ceiling = (pixels + (self.first + self.jump - 1)).div(self.jump, rounding_mode="floor")
        return ceiling.clamp(0, self.extent - self.size)


Axes = tuple[_Axis, _Axis]


@dataclasses.dataclass(frozen=True)
class _Window:
    """The recomputed part of a map: values (N, C, h, w) of the candidates; the pixels determine where it lies."""

    node: fx.Node
    values: Tensor


class _NotWindowedError(Exception):
    """A node has to be evaluated densely."""


@dataclasses.dataclass(frozen=True)
class _Slide:
    """An operation that slides a kernel over a map: output i sees positions from i · stride − padding on.

    `apply` takes a padded map and the operands.
    """

    maps: fx.Node
    kernel: Pair
    stride: Pair
    padding: Pair  # before the map; the padding after it follows from the shape of the output
    dilation: Pair
    fill: float
    apply: Callable[..., Tensor]
    operands: tuple[Any, ...] = ()

    def axes(self, before: Axes, shape: torch.Size) -> Axes:
        rows, columns = (
            _Axis(
                axis.first + (padding - (kernel - 1) * dilation) * axis.jump,
                axis.last + padding * axis.jump,
                axis.jump * stride,
                extent,
            )
            for axis, kernel, stride, padding, dilation, extent in zip(
                before, self.kernel, self.stride, self.padding, self.dilation, shape[2:], strict=True
            )
        )
        return rows, columns

    def lengths(self, outputs: Pair) -> Pair:
        """Return how many positions of the padded map so many outputs see."""
        height, width = (
            (count - 1) * stride + (kernel - 1) * dilation + 1
            for count, stride, kernel, dilation in zip(outputs, self.stride, self.kernel, self.dilation, strict=True)
        )
        return height, width

    def margins(self, before: Axes, after: Axes) -> Margins:
        """Return the padding that the whole map needs."""
        seen = self.lengths((after[0].extent, after[1].extent))
        rows, columns = (
            (max(padding, 0), max(length - padding - axis.extent, 0))
            for padding, length, axis in zip(self.padding, seen, before, strict=True)
        )
        return rows, columns


@dataclasses.dataclass(frozen=True)
class _Pointwise:
    """An operation on each position separately, of one map or of several of the same size."""

    maps: tuple[fx.Node, ...]


Step = _Slide | _Pointwise


def _pair(value: object) -> Pair:
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple | list) and all(isinstance(part, int) for part in value) and len(value) in (1, 2):
        return value[0], value[-1]
    raise _NotWindowedError


def _conv(
    maps: fx.Node,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Slide:
    kernel = _pair(tuple((weight.meta["shape"] if isinstance(weight, fx.Node) else weight.shape)[2:]))
    stride, dilation = _pair(stride), _pair(dilation)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        padding = tuple((length - 1) * step // 2 for length, step in zip(kernel, dilation, strict=True))
    apply = functools.partial(F.conv2d, stride=stride, dilation=dilation, groups=groups)
    return _Slide(maps, kernel, stride, _pair(padding), dilation, 0.0, apply, (weight, bias))


def _max_pool(
    maps: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,  # noqa: ARG001 - changes only the size of the output, which is known
    return_indices: bool = False,
) -> _Slide:
    if return_indices:
        raise _NotWindowedError
    kernel, padding, dilation = _pair(kernel_size), _pair(padding), _pair(dilation)
    stride = _pair(stride or kernel)
    apply = functools.partial(F.max_pool2d, kernel_size=kernel, stride=stride, dilation=dilation)
    return _Slide(maps, kernel, stride, padding, dilation, -torch.inf, apply)


def _avg_pool(
    maps: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> _Slide:
    kernel, padding = _pair(kernel_size), _pair(padding)
    stride = _pair(stride or kernel)
    if ceil_mode or (padding != (0, 0) and not count_include_pad):
        raise _NotWindowedError  # the divisor differs along the edge
    apply = functools.partial(F.avg_pool2d, kernel_size=kernel, stride=stride, divisor_override=divisor_override)
    return _Slide(maps, kernel, stride, padding, (1, 1), 0.0, apply)


def _pad(maps: fx.Node, pad: Any, mode: str = "constant", value: float | None = None) -> _Slide:
    if not isinstance(pad, tuple | list):
        raise _NotWindowedError
    pad = tuple(pad) + (0,) * (8 - len(pad))
    if mode != "constant" or not all(isinstance(part, int) for part in pad) or any(pad[6:]):
        raise _NotWindowedError
    fill = 0.0 if value is None else value
    apply = functools.partial(F.pad, pad=(0, 0, 0, 0, *pad[4:6]), value=fill)
    return _Slide(maps, (1, 1), (1, 1), (pad[2], pad[0]), (1, 1), fill, apply)


def _strided(maps: fx.Node, index: Any) -> _Slide:
    """Treat a slice as a kernel of one position; its end follows from the shape of the output."""
    index = index + (slice(None),) * (4 - len(index)) if isinstance(index, tuple) else ()
    bounds = [bound for part in index if isinstance(part, slice) for bound in (part.start, part.stop, part.step)]
    if len(bounds) != 12 or not all(bound is None or isinstance(bound, int) for bound in bounds):
        raise _NotWindowedError
    batch, channels, rows, columns = index
    start, stride = (rows.start or 0, columns.start or 0), (rows.step or 1, columns.step or 1)
    if batch != slice(None) or min(start) < 0:
        raise _NotWindowedError

    def apply(patch: Tensor) -> Tensor:
        return patch[:, channels, :: stride[0], :: stride[1]]

    return _Slide(maps, (1, 1), stride, (-start[0], -start[1]), (1, 1), 0.0, apply)


def _conv_module(maps: fx.Node, module: nn.Conv2d) -> _Slide:
    if module.padding_mode != "zeros":
        raise _NotWindowedError
    return _conv(maps, module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups)


SLIDING_MODULES: dict[type[nn.Module], Callable[[fx.Node, Any], _Slide]] = {
    nn.Conv2d: _conv_module,
    nn.MaxPool2d: lambda maps, module: _max_pool(
        maps, module.kernel_size, module.stride, module.padding, module.dilation, return_indices=module.return_indices
    ),
    nn.AvgPool2d: lambda maps, module: _avg_pool(
        maps,
        module.kernel_size,
        module.stride,
        module.padding,
        module.ceil_mode,
        module.count_include_pad,
        module.divisor_override,
    ),
    nn.ZeroPad2d: lambda maps, module: _pad(maps, module.padding),
}
SLIDING_FUNCTIONS: dict[Any, Callable[..., _Slide]] = {
    F.conv2d: _conv,
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.pad: _pad,
    operator.getitem: _strided,
}
POINTWISE_MODULES = {
    *(nn.Identity, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU),
    *(nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh),
    *(nn.Softplus, nn.Softsign),
}
POINTWISE_FUNCTIONS = {
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg),
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.clamp),
    *(F.relu, F.relu_, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.hardswish),
    *(F.hardsigmoid, F.hardtanh, F.sigmoid, F.tanh, F.softplus),
}
POINTWISE_METHODS = {
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "neg", "relu", "relu_", "sigmoid", "sigmoid_"),
    *("tanh", "tanh_", "clamp", "clamp_", "clone", "contiguous"),
}


def _step(node: fx.Node, network: fx.GraphModule) -> Step:
    """Return how a node is evaluated on windows."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        kind = type(module)
        hooked = module._forward_hooks or module._forward_pre_hooks  # hooks expect whole maps
        if hooked or node.kwargs or len(node.args) != 1:
            raise _NotWindowedError
        if kind in SLIDING_MODULES:
            return SLIDING_MODULES[kind](node.all_input_nodes[0], module)
        drops = isinstance(module, nn.Dropout | nn.Dropout2d | nn.BatchNorm2d) and module.training
        estimates = isinstance(module, nn.BatchNorm2d) and module.running_mean is None
        if kind in POINTWISE_MODULES and not drops and not estimates:
            return _Pointwise((node.all_input_nodes[0],))
    if node.op == "call_function" and node.target in SLIDING_FUNCTIONS and "input" not in node.kwargs:
        return SLIDING_FUNCTIONS[node.target](*node.args, **node.kwargs)
    if (node.op == "call_function" and node.target in POINTWISE_FUNCTIONS and "out" not in node.kwargs) or (
        node.op == "call_method" and node.target in POINTWISE_METHODS
    ):
        return _Pointwise(tuple(node.all_input_nodes))
    if node.op == "call_function" and node.target is F.batch_norm and len(node.args) > 2:
        if node.kwargs.get("training", (*node.args, False, False, False)[5]) or None in node.args[1:3]:
            raise _NotWindowedError
        return _Pointwise((node.all_input_nodes[0],))
    if node.op == "call_function" and node.target is torch.cat:
        if (*node.args[1:], *node.kwargs.values()) not in ((1,), (-3,)):
            raise _NotWindowedError
        return _Pointwise(tuple(node.all_input_nodes))
    raise _NotWindowedError


class _Plan:
    """Which nodes are evaluated on windows, where the windows lie, and which clean maps they need.

    Attributes
    ----------
    steps : dict
        The nodes that are evaluated on windows, and how.
    axes : dict
        The windows of these nodes and of the image.
    margins : dict
        The padding of the clean map that is kept, by node and by value of the padding.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        self.steps: dict[fx.Node, Step] = {}
        self.axes: dict[fx.Node, Axes] = {}
        self.margins: dict[fx.Node, dict[float, Margins]] = defaultdict(dict)
        dense: set[fx.Node] = set()
        for node in network.graph.nodes:
            changed = [source for source in node.all_input_nodes if source in self.axes or source in dense]
            if node.op == "placeholder" and not self.axes:  # further placeholders have defaults
                height, width = node.meta["shape"][2:]
                self.axes[node] = _Axis(0, 0, 1, height), _Axis(0, 0, 1, width)
            elif changed and not asks_for_kind(node):
                try:
                    if not dense.isdisjoint(changed):
                        raise _NotWindowedError
                    self._add(node, _step(node, network), changed)
                except _NotWindowedError:
                    dense.update((node, *changed))  # once dense, always dense, so that each map has one form only
                    for source in self.axes.keys() & set(changed):
                        self._keep(source)

    def _add(self, node: fx.Node, step: Step, changed: list[fx.Node]) -> None:
        shape = node.meta.get("shape", ())
        if len(shape) != 4:
            raise _NotWindowedError
        if isinstance(step, _Slide):
            axes = step.axes(self.axes[step.maps], shape) if changed == [step.maps] else None
        else:
            axes = self._joined(step, node, changed)
        if axes is None or axes[0].size * axes[1].size > LARGEST_SHARE * shape[2] * shape[3]:
            raise _NotWindowedError
        self.steps[node], self.axes[node] = step, axes
        for source in changed:
            if self.axes[source] != axes:
                if isinstance(step, _Slide):
                    self._keep(source, step.fill, step.margins(self.axes[source], axes))
                else:
                    self._keep(source)

    def _joined(self, step: _Pointwise, node: fx.Node, changed: list[fx.Node]) -> Axes | None:
        """Return the windows that contain those of all operands, if they can be joined."""
        for source in step.maps:
            shape = source.meta.get("shape", ())
            fits = len(shape) == 4 and shape[2:] == node.meta["shape"][2:]
            constant = node.target is not torch.cat and all(extent == 1 for extent in shape[-2:])
            if not (fits if source in changed else constant):
                return None
        joined = []
        for along in zip(*(self.axes[source] for source in changed), strict=True):
            if len({axis.jump for axis in along}) > 1:
                return None
            first, last = min(axis.first for axis in along), max(axis.last for axis in along)
            joined.append(dataclasses.replace(along[0], first=first, last=last))
        return joined[0], joined[1]

    def _keep(self, node: fx.Node, fill: float = 0.0, margins: Margins = ((0, 0), (0, 0))) -> None:
        before = self.margins[node].get(fill, margins)
        rows, columns = ((max(a[0], b[0]), max(a[1], b[1])) for a, b in zip(before, margins, strict=True))
        self.margins[node][fill] = rows, columns


class _CleanPass(fx.Interpreter):
    """Evaluates clean images as usual, and copies the maps that are to be kept."""

    def __init__(self, network: fx.GraphModule, plan: _Plan) -> None:
        super().__init__(network)
        self.plan = plan
        self.maps: dict[tuple[fx.Node, float], Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        for fill, margins in self.plan.margins.get(node, {}).items():
            (top, bottom), (left, right) = margins
            count, channels, height, width = result.shape
            padded = result.new_full((count, height + top + bottom, width + left + right, channels), fill)
            padded[:, top : top + height, left : left + width] = result.permute(0, 2, 3, 1)
            self.maps[node, fill] = padded
        return result


class _WindowedPass(fx.Interpreter):
    """Evaluates changes of clean images on windows, as planned."""

    def __init__(self, network: fx.GraphModule, plan: _Plan, clean: CleanMaps, owners: Tensor, pixel: Pixel) -> None:
        super().__init__(network)
        self.plan = plan
        self.clean = clean
        self.owners = owners
        self.pixel = pixel

    def run_node(self, node: fx.Node) -> Any:
        step = self.plan.steps.get(node)
        if step is None and node in self.plan.axes:
            return _Window(node, super().run_node(node))
        if isinstance(step, _Slide):
            return _Window(node, self.slide(step, node))
        if isinstance(step, _Pointwise):
            return _Window(node, self.pointwise(step, node))
        for source in node.all_input_nodes:
            if isinstance(window := self.env[source], _Window):
                if asks_for_kind(node):
                    return self.kind(window, node)
                rows, columns = self.plan.axes[source]
                corner = torch.zeros_like(self.owners)
                self.env[source] = self.patch(window, 0.0, (corner, corner), (rows.extent, columns.extent))
        return super().run_node(node)

    def kind(self, window: _Window, node: fx.Node) -> Any:
        rows, columns = self.plan.axes[window.node]
        whole = window.values[:, :, :1, :1].expand(-1, -1, rows.extent, columns.extent)  # its values do not matter
        return getattr(self, node.op)(node.target, (whole, *node.args[1:]), node.kwargs)

    def starts(self, node: fx.Node) -> Pixel:
        """Return the first row and column of a node's windows, int64, shape (N,)."""
        rows, columns = (axis.start(pixels) for axis, pixels in zip(self.plan.axes[node], self.pixel, strict=True))
        return rows, columns

    def slide(self, step: _Slide, node: fx.Node) -> Tensor:
        axes, window = self.plan.axes[node], self.env[step.maps]
        patch = window.values
        if axes != self.plan.axes[step.maps]:
            starts = zip(self.starts(node), step.stride, step.padding, strict=True)
            top, left = (start * stride - padding for start, stride, padding in starts)
            patch = self.patch(window, step.fill, (top, left), step.lengths((axes[0].size, axes[1].size)))
        return step.apply(patch, *fx.map_arg(step.operands, self.env.__getitem__))

    def pointwise(self, step: _Pointwise, node: fx.Node) -> Tensor:
        axes = self.plan.axes[node]
        values = {}
        for source in step.maps:
            value = self.env[source]
            if isinstance(value, _Window) and self.plan.axes[source] == axes:
                value = value.values
            elif isinstance(value, _Window):
                value = self.patch(value, 0.0, self.starts(node), (axes[0].size, axes[1].size))
            values[source] = value
        args, kwargs = fx.map_arg((node.args, node.kwargs), {**self.env, **values}.__getitem__)
        result: Tensor = getattr(self, node.op)(node.target, args, kwargs)
        return result

    def patch(self, window: _Window, fill: float, begins: Pixel, lengths: Pair) -> Tensor:
        """Cut patches out of the padded clean maps, and put the values of the windows into them.

        Returns
        -------
        Tensor
            Shape (N, C, height, width), channels last in memory.
        """
        clean = self.clean.maps[window.node, fill]
        (top, _), (left, _) = self.plan.margins[window.node][fill]
        height, width, channels = clean.shape[1:]
        rows = self.owners[:, None] * height + _steps(begins[0] + top, lengths[0])
        cells = rows[:, :, None] * width + _steps(begins[1] + left, lengths[1])[:, None, :]
        cells = F.pad(cells.flatten(), (0, 1))  # one more row, for values outside the patches
        patch = clean.view(-1, channels).index_select(0, cells)
        patch.index_copy_(0, self.targets(window, begins, lengths), window.values.permute(0, 2, 3, 1).flatten(0, 2))
        return patch[:-1].view(-1, *lengths, channels).permute(0, 3, 1, 2)

    def targets(self, window: _Window, begins: Pixel, lengths: Pair) -> Tensor:
        """Return for each position of the windows its index in the patches, seen as a list of positions."""
        starts, axes = self.starts(window.node), self.plan.axes[window.node]
        rows, columns = (
            _steps(start - begin, axis.size) for start, begin, axis in zip(starts, begins, axes, strict=True)
        )
        inside = ((rows >= 0) & (rows < lengths[0]))[:, :, None] & ((columns >= 0) & (columns < lengths[1]))[:, None, :]
        rows = rows + torch.arange(len(rows), device=rows.device)[:, None] * lengths[0]
        cells = rows[:, :, None] * lengths[1] + columns[:, None, :]
        return torch.where(inside, cells, len(rows) * lengths[0] * lengths[1]).flatten()


def _steps(starts: Tensor, count: int) -> Tensor:
    return starts[:, None] + torch.arange(count, device=starts.device)


class WindowedNetwork:
    """Evaluates one-pixel changes of clean images by recomputing only what each change can reach.

    A changed pixel alters only a small window of an early feature map: its forward cone. The window is recomputed; the
    rest comes from the maps of the clean image. These run on windows: convolution, pooling, constant padding, strided
    slices, operations on each position separately, sums and products of maps, and concatenation of channels. From any
    other call on, and where the window is a large part of the map, the network runs as usual.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; torch.fx must be able to trace it. Its weights are shared, not copied. It runs once on a
        black image of its own device and dtype.
    shape : tuple of int
        Channels, height and width of the images.

    Attributes
    ----------
    worthwhile : bool
        Whether at least one convolution or pooling runs on windows.

    Raises
    ------
    OnepixError
        If the network is in training mode, cannot be traced, cannot run on such an image, or writes into a part of a
        feature map that is read later.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, int, int]) -> None:
        if network.training:
            raise OnepixError("windowed evaluation: the network must be in evaluation mode")
        self._network = with_shapes(network, shape)
        self._plan = _Plan(self._network)
        self.worthwhile = any(
            isinstance(step, _Slide) and (step.operands or max(step.kernel) > 1) for step in self._plan.steps.values()
        )

    def clean(self, images: Tensor) -> CleanMaps:
        """Run the network on clean images and keep what `__call__` needs.

        Parameters
        ----------
        images : Tensor
            Scaled images, float, shape (B, C, H, W).

        Returns
        -------
        CleanMaps
            In the dtypes of the network's maps under the caller's autocast.
        """
        run = _CleanPass(self._network, self._plan)
        run.run(images.clone())  # the network may write into its input
        return CleanMaps(run.maps)

    def __call__(self, clean: CleanMaps, owners: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
        """Evaluate the network on clean images with one pixel changed.

        Parameters
        ----------
        clean : CleanMaps
            From `clean`, under the same autocast.
        owners : Tensor
            int64, shape (N,): the clean image that each candidate changes.
        rows, columns : Tensor
            int64, shape (N,): the pixel.
        values : Tensor
            Float, shape (N, C): the pixel's new colour, scaled, in the images' dtype.

        Returns
        -------
        Tensor
            Output, (N, …). It differs from the output of the whole network only by rounding.
        """
        run = _WindowedPass(self._network, self._plan, clean, owners, (rows, columns))
        output: Tensor = run.run(values[:, :, None, None].clone())
        return output
