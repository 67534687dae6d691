"""How operations run on windows: what each sees of a map, and how far a changed pixel reaches behind it."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onepix.engine.fused import max_pool
from onepix.engine.patches import Pair
from onepix.engine.rewriting import repeat_channels


@dataclasses.dataclass(frozen=True)
class Axis:
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
        """The length of the window."""
        return min((self.last - self.first) // self.jump + 1, self.extent)

    def start(self, pixels: Tensor) -> Tensor:
        """Return the first position of each pixel's window."""
        ceiling = (pixels + (self.first + self.jump - 1)).div(self.jump, rounding_mode="floor")
        return ceiling.clamp(0, self.extent - self.size)


Axes = tuple[Axis, Axis]


class NotWindowedError(Exception):
    """A node has to be evaluated densely."""


@dataclasses.dataclass(frozen=True)
class Slide:
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
        """Return the cone behind this operation, from the one before it and the shape of its output."""
        rows, columns = (
            Axis(
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


@dataclasses.dataclass(frozen=True)
class Pointwise:
    """An operation on each position separately, of one map or of several of the same size."""

    maps: tuple[fx.Node, ...]


Step = Slide | Pointwise


def pair(value: object) -> Pair:
    """Read what PyTorch takes for two axes, or one number for both."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple | list) and all(isinstance(part, int) for part in value) and len(value) in (1, 2):
        return value[0], value[-1]
    raise NotWindowedError


def _conv(
    maps: fx.Node,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Slide:
    kernel = pair(tuple((weight.meta["shape"] if isinstance(weight, fx.Node) else weight.shape)[2:]))
    stride, dilation = pair(stride), pair(dilation)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        padding = tuple((length - 1) * step // 2 for length, step in zip(kernel, dilation, strict=True))
    apply = functools.partial(F.conv2d, stride=stride, dilation=dilation, groups=groups)
    return Slide(maps, kernel, stride, pair(padding), dilation, 0.0, apply, (weight, bias))


def _max_pool(
    maps: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,  # noqa: ARG001 - changes only the size of the output, which is known
    return_indices: bool = False,
) -> Slide:
    if return_indices:
        raise NotWindowedError
    kernel, padding, dilation = pair(kernel_size), pair(padding), pair(dilation)
    stride = pair(stride or kernel)
    apply = functools.partial(max_pool, kernel_size=kernel, stride=stride, dilation=dilation)
    return Slide(maps, kernel, stride, padding, dilation, -torch.inf, apply)


def _avg_pool(
    maps: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Slide:
    kernel, padding = pair(kernel_size), pair(padding)
    stride = pair(stride or kernel)
    if ceil_mode or (padding != (0, 0) and not count_include_pad):
        raise NotWindowedError  # the divisor differs along the edge
    apply = functools.partial(F.avg_pool2d, kernel_size=kernel, stride=stride, divisor_override=divisor_override)
    return Slide(maps, kernel, stride, padding, (1, 1), 0.0, apply)


def _pad(maps: fx.Node, pad: Any, mode: str = "constant", value: float | None = None) -> Slide:
    if not isinstance(pad, tuple | list):
        raise NotWindowedError
    pad = tuple(pad) + (0,) * (8 - len(pad))
    if mode != "constant" or not all(isinstance(part, int) for part in pad) or any(pad[6:]):
        raise NotWindowedError
    fill = 0.0 if value is None else value
    apply = functools.partial(F.pad, pad=(0, 0, 0, 0, *pad[4:6]), value=fill)
    return Slide(maps, (1, 1), (1, 1), (pad[2], pad[0]), (1, 1), fill, apply)


def _strided(maps: fx.Node, index: Any) -> Slide:
    """Treat a slice as a kernel of one position; its end follows from the shape of the output."""
    index = index + (slice(None),) * (4 - len(index)) if isinstance(index, tuple) else ()
    bounds = [bound for part in index if isinstance(part, slice) for bound in (part.start, part.stop, part.step)]
    if len(bounds) != 12 or not all(bound is None or isinstance(bound, int) for bound in bounds):
        raise NotWindowedError
    batch, channels, rows, columns = index
    start, stride = (rows.start or 0, columns.start or 0), (rows.step or 1, columns.step or 1)
    if batch != slice(None) or min(start) < 0:
        raise NotWindowedError

    def apply(patch: Tensor) -> Tensor:
        return patch[:, channels, :: stride[0], :: stride[1]]

    return Slide(maps, (1, 1), stride, (-start[0], -start[1]), (1, 1), 0.0, apply)


def _conv_module(maps: fx.Node, module: nn.Conv2d) -> Slide:
    if module.padding_mode != "zeros":
        raise NotWindowedError
    return _conv(maps, module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups)


SLIDING_MODULES: dict[type[nn.Module], Callable[[fx.Node, Any], Slide]] = {
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
SLIDING_FUNCTIONS: dict[Any, Callable[..., Slide]] = {
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
    *(F.hardsigmoid, F.hardtanh, F.sigmoid, F.tanh, F.softplus, repeat_channels),
}
POINTWISE_METHODS = {
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "neg", "relu", "relu_", "sigmoid", "sigmoid_"),
    *("tanh", "tanh_", "clamp", "clamp_", "clone", "contiguous"),
}


def step_of(node: fx.Node, network: fx.GraphModule) -> Step:
    """Return how a node is evaluated on windows."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        kind = type(module)
        hooked = module._forward_hooks or module._forward_pre_hooks  # hooks expect whole maps
        if hooked or node.kwargs or len(node.args) != 1:
            raise NotWindowedError
        if kind in SLIDING_MODULES:
            return SLIDING_MODULES[kind](node.all_input_nodes[0], module)
        drops = isinstance(module, nn.Dropout | nn.Dropout2d | nn.BatchNorm2d) and module.training
        estimates = isinstance(module, nn.BatchNorm2d) and module.running_mean is None
        if kind in POINTWISE_MODULES and not drops and not estimates:
            return Pointwise((node.all_input_nodes[0],))
    if node.op == "call_function" and node.target in SLIDING_FUNCTIONS and "input" not in node.kwargs:
        return SLIDING_FUNCTIONS[node.target](*node.args, **node.kwargs)
    if (node.op == "call_function" and node.target in POINTWISE_FUNCTIONS and "out" not in node.kwargs) or (
        node.op == "call_method" and node.target in POINTWISE_METHODS
    ):
        return Pointwise(tuple(node.all_input_nodes))
    if node.op == "call_function" and node.target is F.batch_norm and len(node.args) > 2:
        if node.kwargs.get("training", (*node.args, False, False, False)[5]) or None in node.args[1:3]:
            raise NotWindowedError
        return Pointwise((node.all_input_nodes[0],))
    if node.op == "call_function" and node.target is torch.cat:
        if (*node.args[1:], *node.kwargs.values()) not in ((1,), (-3,)):
            raise NotWindowedError
        return Pointwise(tuple(node.all_input_nodes))
    raise NotWindowedError
