"""Rewrites traced networks for screening, so that they compute the same with less work."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from onepix.engine.tracing import black_images

# These compute each token of maps (N, tokens, channels) separately.
TOKENWISE_MODULES = {nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, nn.GELU, nn.ReLU, nn.SiLU}
TOKENWISE_FUNCTIONS = {F.gelu, F.relu, F.silu, F.layer_norm}
JOINING = {operator.add, operator.mul, torch.add, torch.mul}
FIRST, ONLY_FIRST = (slice(None), 0), (slice(None), slice(0, 1))


def repeat_channels(maps: Tensor, times: int) -> Tensor:
    """Repeat each channel of maps (N, C, H, W); the result is channels last in memory."""
    count, channels, height, width = maps.shape
    last = maps.permute(0, 2, 3, 1).unsqueeze(-1).expand(-1, -1, -1, -1, times)
    return last.reshape(count, height, width, channels * times).permute(0, 3, 1, 2)


def rewrite(network: fx.GraphModule, shape: tuple[int, int, int]) -> None:
    """Rewrite a network in place, for images of this shape (channels, height, width)."""
    for node in list(network.graph.nodes):
        if node.op == "call_module" and type(network.get_submodule(node.target)) is nn.Conv2d:
            _repeat(node, network)
    if any(map(_reads_first, network.graph.nodes)):
        with torch.no_grad():
            ShapeProp(network).propagate(black_images(network, 2, shape))
        for node in list(network.graph.nodes):
            if _reads_first(node):
                _Tokens(network, node)
    network.recompile()


def _repeat(node: fx.Node, network: fx.GraphModule) -> None:
    """Give a depthwise convolution with several kernels for each channel each channel as often.

    For one kernel each, oneDNN has code that is 3 to 7 times as fast in bfloat16, with the repetition. Of other
    devices this is not known.
    """
    layer: Any = network.get_submodule(str(node.target))
    outputs, times = layer.out_channels, layer.out_channels // layer.in_channels
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    if (
        layer.groups != layer.in_channels
        or times == 1
        or layer.groups == 1
        or layer.weight.device.type != "cpu"
        or hooked
        or node.kwargs
    ):
        return
    options = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, outputs, layer.bias is not None)
    with torch.device("meta"):
        split = nn.Conv2d(outputs, outputs, *options, layer.padding_mode)
    split.weight, split.bias = layer.weight, layer.bias
    network.add_submodule(f"split_{node.name}", split.train(layer.training))
    with network.graph.inserting_before(node):
        repeated = network.graph.call_function(repeat_channels, (node.args[0], times))
    node.target, node.args = f"split_{node.name}", (repeated,)


def _reads_first(node: fx.Node) -> bool:
    """Tell whether a node reads the first token, such as the token of the class."""
    return node.target is operator.getitem and node.args[1] == FIRST


class _Tokens:
    """Leaves out the other tokens where only the first one is read: after the last attention, and of its queries.

    Parameters
    ----------
    network : fx.GraphModule
        With shapes; it is rewritten.
    last : fx.Node
        Reads the first token.
    """

    def __init__(self, network: fx.GraphModule, last: fx.Node) -> None:
        self.network, self.graph = network, network.graph
        narrow: dict[fx.Node, list[fx.Node]] = {}  # nodes, and their operands of which the first token suffices
        wanted = set(last.all_input_nodes)
        for node in reversed(self.graph.nodes):
            if node in wanted and all(self._needs_first(user, node, last, narrow) for user in node.users):
                operands = self._operands(node)
                if operands:
                    narrow[node] = operands
                    wanted.update(operands)
        if not any(self._is(node, nn.Linear) for node in narrow):
            return
        self.short: dict[fx.Node, fx.Node] = {}
        for node in reversed(narrow):
            self._shorten(node, narrow[node])
        last.args = (self.short[last.all_input_nodes[0]], FIRST)
        for node in narrow:
            for idle in [user for user in node.users if self._is_idle(user)]:
                self.graph.erase_node(idle)
            self.graph.erase_node(node)

    def _is(self, node: fx.Node, *kinds: type[nn.Module]) -> bool:
        if node.op != "call_module":
            return False
        module = self.network.get_submodule(str(node.target))
        return type(module) in kinds and not (module._forward_hooks or module._forward_pre_hooks)

    def _needs_first(self, user: fx.Node, node: fx.Node, last: fx.Node, narrow: dict[fx.Node, list[fx.Node]]) -> bool:
        """Tell whether a user of a node needs its first token at most."""
        attention = self._is(user, nn.MultiheadAttention) and node in user.args[1:]  # its keys and values are all read
        return user is last or self._is_idle(user) or (user in narrow and not attention)

    def _is_idle(self, node: fx.Node) -> bool:
        return node.target is operator.getitem and not node.users

    def _operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the operands of which only the first token is needed if it is of the result; none if all are."""
        nodes = node.all_input_nodes
        if self._is(node, nn.MultiheadAttention):
            module: Any = self.network.get_submodule(str(node.target))
            plain = len(node.args) == 3 and node.kwargs == {"need_weights": False} and module.batch_first
            return nodes[:1] if plain and _has_tokens(nodes[0]) else []
        if node.target is operator.getitem and node.args[1] == 0 and self._is(nodes[0], nn.MultiheadAttention):
            return nodes
        if not _has_tokens(node) or node.kwargs.get("inplace", False):
            return []
        if self._is(node, *TOKENWISE_MODULES) and len(nodes) == 1:
            module = self.network.get_submodule(str(node.target))
            over_tokens = type(module) is nn.LayerNorm and len(module.normalized_shape) > 1
            return [] if over_tokens or getattr(module, "inplace", False) else nodes
        if node.target in TOKENWISE_FUNCTIONS and isinstance(node.args[0], fx.Node):
            channels = tuple(_shape(node)[2:])
            over_tokens = node.target is F.layer_norm and channels not in (node.args[1:2] or (None,))
            return [] if over_tokens else [node.args[0]]
        if node.target in JOINING and len(nodes) == len(node.args) == 2 and not node.kwargs:
            tokens = [operand for operand in nodes if _shape(operand) == _shape(node)]
            scales = [operand for operand in nodes if len(_shape(operand)) == 1]  # one number for each channel
            return tokens if len(tokens) + len(scales) == 2 else []
        return []

    def _shorten(self, node: fx.Node, operands: list[fx.Node]) -> None:
        for operand in operands:
            if operand not in self.short:
                with self.graph.inserting_after(operand):
                    self.short[operand] = self.graph.call_function(operator.getitem, (operand, ONLY_FIRST))
        short = {operand: self.short[operand] for operand in operands}
        with self.graph.inserting_after(node):
            copied = self.graph.node_copy(node, lambda source: source)
        if self._is(node, nn.MultiheadAttention):  # of keys and values, all tokens are needed
            copied.args = (short[operands[0]], *node.args[1:])
        else:
            copied.args = fx.map_arg(node.args, lambda source: short.get(source, source))
        self.short[node] = copied


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _has_tokens(node: fx.Node) -> bool:
    return len(_shape(node)) == 3
