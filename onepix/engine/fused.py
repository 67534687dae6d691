"""Convolutions that are one call with the sum and the ReLU behind them, where PyTorch has such a call."""

import dataclasses
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
RECTIFIERS = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
NONE = (1, 1)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A convolution, and what follows it and reads nothing else but one other map.

    Attributes
    ----------
    convolution : fx.Node
        Calls a `nn.Conv2d`.
    inner : tuple of fx.Node
        The convolution, and the sum if the ReLU follows it; without the last node.
    other : fx.Node or None
        The other map of the sum.
    rectified : bool
        Whether a ReLU is the last node.
    """

    convolution: fx.Node
    inner: tuple[fx.Node, ...]
    other: fx.Node | None
    rectified: bool


def chains(network: fx.GraphModule) -> dict[fx.Node, Chain]:
    """Return the chains of a network by their last node; no node is in two of them.

    A chain is evaluated where its last node stands. So none is made where a node in between writes into a map.
    """
    nodes = list(network.graph.nodes)
    order = {node: index for index, node in enumerate(nodes)}
    found: dict[fx.Node, Chain] = {}
    taken: set[fx.Node] = set()
    for node in reversed(nodes):  # of two convolutions that are summed, the later one is nearer to the sum
        if not _is_layer(node, network, nn.Conv2d) or node in taken:
            continue
        last, chain = _follow(node, network, taken)
        between = nodes[order[node] + 1 : order[last]]
        if any(each.meta.get("writes") and each not in chain.inner for each in between):
            last, chain = node, Chain(node, (), None, False)
        found[last] = chain
        taken.update((last, *chain.inner))
    return found


def _follow(node: fx.Node, network: fx.GraphModule, taken: set[fx.Node]) -> tuple[fx.Node, Chain]:
    inner, last, other = [], node, None
    user = _only_user(last)
    if user is not None and user not in taken and _is_sum(user):
        first, second = user.args
        inner, other, last = [last], second if first is last else first, user
        user = _only_user(last)
    if user is not None and user not in taken and _is_rectifier(user, network):
        return user, Chain(node, (*inner, last), other, True)
    return last, Chain(node, tuple(inner), other, False)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_layer(node: fx.Node, network: fx.GraphModule, kind: type[nn.Module]) -> bool:
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    module: Any = network.get_submodule(str(node.target))
    plain = type(module) is kind and not (module._forward_hooks or module._forward_pre_hooks)
    return plain and (kind is not nn.Conv2d or (module.padding_mode == "zeros" and not isinstance(module.padding, str)))


def _is_rectifier(node: fx.Node, network: fx.GraphModule) -> bool:
    called = node.op in ("call_function", "call_method") and node.target in RECTIFIERS and len(node.args) == 1
    return called or _is_layer(node, network, nn.ReLU)


def _is_sum(node: fx.Node) -> bool:
    """Tell whether a node adds two maps of the same shape."""
    if node.op not in ("call_function", "call_method") or node.target not in SUMS or node.kwargs:
        return False
    shapes = [each.meta.get("shape") for each in node.args if isinstance(each, fx.Node)]
    return len(node.all_input_nodes) == len(node.args) == 2 and None not in shapes and shapes[0] == shapes[1]


class Convolution:
    """A convolution with what follows it in its chain.

    Its weights are kept in the precision of autocast, which would round them again in each call.

    Parameters
    ----------
    layer : nn.Conv2d
        Its weights must not change afterwards.
    padding : tuple of int
        Of both sides, in place of that of the layer.
    rectified : bool
        Whether a ReLU follows.
    """

    def __init__(self, layer: nn.Conv2d, padding: tuple[int, int], rectified: bool) -> None:
        self.layer, self.padding, self.rectified = layer, padding, rectified
        self._rounded: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}

    def __call__(self, maps: Tensor, other: Tensor | None = None) -> Tensor:
        """Convolve maps (N, C, H, W), add another map of the output's shape if there is one, and rectify."""
        layer, dtype = self.layer, _precision(maps)
        if dtype is None or (other is not None and other.dtype != dtype):
            result = F.conv2d(maps, layer.weight, layer.bias, layer.stride, self.padding, layer.dilation, layer.groups)
            result = result if other is None else result + other
            return F.relu(result) if self.rectified else result
        weight, bias = self._operands(dtype)
        where = (weight, bias, self.padding, layer.stride, layer.dilation, layer.groups)
        maps, unary = maps.to(dtype), "relu" if self.rectified else None
        if other is not None:
            summed = torch.ops.mkldnn._convolution_pointwise.binary
            return summed(maps, other, *where, "add", 1.0, unary, [], "")
        return torch.ops.mkldnn._convolution_pointwise(maps, *where, unary or "none", [], "")

    def _operands(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        if dtype not in self._rounded:
            layer = self.layer
            self._rounded[dtype] = layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype)
        return self._rounded[dtype]


def _precision(maps: Tensor) -> torch.dtype | None:
    """Return the precision in which maps are convolved by oneDNN; None if they are not."""
    if maps.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return None
    if not torch.backends.mkldnn.is_available() or not torch._C._get_mkldnn_enabled():
        return None
    lower = torch.is_autocast_enabled("cpu") and maps.dtype in (torch.float32, torch.bfloat16)
    dtype = torch.get_autocast_dtype("cpu") if lower else maps.dtype
    if dtype == torch.bfloat16:
        return dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    return dtype if dtype == torch.float32 else None
