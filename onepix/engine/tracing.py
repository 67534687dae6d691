"""Traces networks for images of one shape, so that code may compute with shapes, and branch on them."""

import contextlib
import copy
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onepix.errors import OnepixError

ATTRIBUTES = {"shape", "ndim", "dtype", "device"}
# Numbers of images: an extent that differs between them depends on the number of images, and is no constant.
BATCHES = (2, 3)


def asks_for_kind(node: fx.Node) -> bool:
    """Tell whether a node reads only a map's shape or the like, which does not depend on the pixels."""
    attribute = node.target is getattr and node.args[1] in ATTRIBUTES
    return len(node.all_input_nodes) == 1 and (
        attribute or (node.op == "call_method" and node.target in ("size", "dim"))
    )


def trace(network: nn.Module, shape: tuple[int, int, int]) -> fx.GraphModule:
    """Trace a network, or copy the graph of a traced one; extents of maps become numbers where torch.fx needs them.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode. Its weights are shared, not copied. If its code asks for shapes, it runs on black images.
    shape : tuple of int
        Channels, height and width of the images.

    Returns
    -------
    fx.GraphModule
        Valid for any number of images of this shape.

    Raises
    ------
    Exception
        Whatever torch.fx or the network's own code raises.
    """
    traced = _traced(network, shape)
    _use_modules(traced)
    return traced


def _traced(network: nn.Module, shape: tuple[int, int, int]) -> fx.GraphModule:
    """Trace a network, if need be for this shape of images only."""
    try:
        if isinstance(network, fx.GraphModule):
            plain = fx.GraphModule(network, copy.deepcopy(network.graph))
        else:
            plain = fx.symbolic_trace(_skeleton(network))
    except (Exception, SystemExit):
        return _ShapeTracer(_skeleton(network), shape).traced()
    if any(asks_for_kind(node) or (node.op == "placeholder" and node.args) for node in plain.graph.nodes):
        with contextlib.suppress(Exception, SystemExit):
            return _ShapeTracer(_skeleton(network), shape).traced()
    return plain


def _use_modules(network: fx.GraphModule) -> None:
    """Turn calls of functional convolutions and of normalisations behind them into modules, which can be folded."""
    for node in list(network.graph.nodes):
        if node.op == "call_function" and node.target is F.batch_norm and node.args:
            source = node.args[0]
            if source.op == "call_function" and source.target is F.conv2d:
                _use_module(network, source, _convolution)
            convolved = source.op == "call_module" and type(network.get_submodule(source.target)) is nn.Conv2d
            if convolved:  # so the map has four axes, as the module demands
                _use_module(network, node, _normalisation)
    network.recompile()


def _use_module(network: fx.GraphModule, node: fx.Node, build: Callable[..., nn.Module]) -> None:
    """Let a node call a module, if its operands besides the map are constants of the network."""
    operands = (node.args[1:], node.kwargs)
    nodes: list[fx.Node] = []
    fx.map_arg(operands, nodes.append)
    if all(operand.op == "get_attr" for operand in nodes) and "input" not in node.kwargs:
        tensors = {operand: operator.attrgetter(str(operand.target))(network) for operand in nodes}
        args, kwargs = fx.map_arg(operands, tensors.__getitem__)
        with contextlib.suppress(TypeError, ValueError):  # they have other operands, or three axes
            module = build(*args, **kwargs).eval()
            name = f"functional_{node.name}"
            network.add_submodule(name, module)
            node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}


def _convolution(
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> nn.Conv2d:
    outputs, inputs, height, width = weight.shape
    with torch.device("meta"):
        module = nn.Conv2d(
            inputs * groups, outputs, (height, width), stride, padding, dilation, groups, bias is not None
        )
    module.weight = _parameter(weight)
    module.bias = None if bias is None else _parameter(bias)
    return module


def _normalisation(
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> nn.BatchNorm2d:
    if training or weight is None or bias is None:
        raise TypeError
    module = nn.BatchNorm2d(len(running_mean), eps, momentum, device="meta")
    module.running_mean, module.running_var = running_mean, running_var
    module.weight, module.bias = _parameter(weight), _parameter(bias)
    return module


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)


def _skeleton(network: nn.Module) -> nn.Module:
    """Copy a network's modules but not its tensors: modules may keep what they see, and a tracer is no image."""
    tensors = (*network.parameters(), *network.buffers())
    try:
        return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    except Exception:  # not every network can be copied: some hold locks
        return network


def black_images(network: nn.Module, count: int, shape: tuple[int, int, int]) -> Tensor:
    """Return black images on the network's device, in its dtype."""
    like = next((tensor for tensor in network.parameters() if tensor.is_floating_point()), torch.empty(0))
    return torch.zeros((count, *shape), device=like.device, dtype=like.dtype)


class _Known(fx.Proxy):
    """Stands for a value while a network is traced, and knows it for each of `BATCHES`."""

    def __init__(self, node: fx.Node, tracer: "_ShapeTracer", values: tuple[Any, ...]) -> None:
        super().__init__(node, tracer)
        self.values = values

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES:  # at once: torch.fx would wait for what is done with it
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name)

    def __iter__(self) -> Iterator[Any]:
        return (operator.getitem(self, index) for index in range(len(self)))

    def __len__(self) -> int:
        length, *others = map(len, self.values)
        if others != [length] * len(others):
            raise fx.proxy.TraceError("the number of images determines a length")
        return length


class _ShapeTracer(fx.Tracer):
    """Traces a network while it runs on black images: extents that do not depend on their number are numbers."""

    def __init__(self, network: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network
        self.images = tuple(black_images(network, count, shape) for count in BATCHES)
        self.running = False

    def traced(self) -> fx.GraphModule:
        """Trace the network."""
        with torch.inference_mode(False), torch.no_grad():
            graph = self.trace(self.network)
        for node in reversed(graph.nodes):
            if asks_for_kind(node) and not node.users:  # their results are numbers now
                graph.erase_node(node)
        return fx.GraphModule(self.network, graph)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Enter no module of a graph: whoever traced it decided which to enter."""
        return isinstance(self.network, fx.GraphModule) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record the call of a module; those that it calls in turn while it runs are not recorded."""
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record that a module's tensor is read; it is itself where the module runs."""
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *rest: Any, **more: Any
    ) -> Any:
        """Record an operation and evaluate it; return its result if that is an extent, else what stands for it."""
        node = super().create_proxy(kind, target, args, kwargs, *rest, **more).node
        if kind == "placeholder":
            first = len(self.graph.nodes) == 1
            return _Known(node, self, self.images) if first else next(iter(args), None)  # its default
        values = self.values(kind, target, args, kwargs)
        whole = args[0].node if target is operator.getitem and isinstance(args[0], fx.Proxy) else node
        if asks_for_kind(whole) and _is_extent(values[0]) and all(value == values[0] for value in values):
            self.graph.erase_node(node)
            return values[0]
        return _Known(node, self, values)

    def values(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Evaluate an operation for each of `BATCHES`."""

        def value(index: int) -> Any:
            given, named = fx.node.map_aggregate((args, kwargs), functools.partial(_value, index=index))
            if kind == "call_module":
                return self.network.get_submodule(target)(*given, **named)
            if kind == "call_method":
                return getattr(given[0], target)(*given[1:], **named)
            return operator.attrgetter(target)(self.network) if kind == "get_attr" else target(*given, **named)

        self.running = True
        try:
            return tuple(map(value, range(len(BATCHES))))
        finally:
            self.running = False


def _value(argument: Any, index: int) -> Any:
    """Return what an argument stands for."""
    if isinstance(argument, fx.proxy.Attribute):
        return getattr(_value(argument.root, index), argument.attr)
    return argument.values[index] if isinstance(argument, _Known) else argument


def _is_extent(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, tuple) and all(isinstance(part, int) for part in value))


class _ShapePass(fx.Interpreter):
    """Notes the shape of every node, and which nodes write into which maps."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.overwritten: list[tuple[fx.Node, fx.Node, bool]] = []  # map, writer, whether it returns the map

    def run_node(self, node: fx.Node) -> Any:
        versions = {
            source: value._version
            for source, value in self.env.items()
            if isinstance(value, Tensor) and not value.is_inference()
        }
        result = super().run_node(node)
        if isinstance(result, Tensor):
            node.meta["shape"] = result.shape
        for source, version in versions.items():
            if self.env[source]._version != version:
                node.meta["writes"] = True
                self.overwritten.append((source, node, self.env[source] is result))
        return result


def with_shapes(network: nn.Module, shape: tuple[int, int, int]) -> fx.GraphModule:
    """Trace a network, note the shape of every node, and let nodes after a write into a map read the writing node."""
    try:
        # Inference tensors have no version counter, which shows writing in place.
        with torch.inference_mode(False), torch.no_grad():
            traced = trace(network, shape)
            run = _ShapePass(traced)
            run.run(black_images(network, 1, shape))
    except (Exception, SystemExit) as error:  # the network's own code may raise anything
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise OnepixError(f"windowed evaluation: cannot trace the network on images {shape}: {reason}") from error
    for source, writer, whole in run.overwritten:
        if not whole and any(user > writer for user in source.users):
            raise OnepixError(f"windowed evaluation: {writer} writes into a part of {source}, which is read later")
        source.replace_all_uses_with(writer, delete_user_cb=functools.partial(operator.lt, writer))
    return traced
