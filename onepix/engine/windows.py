"""Evaluates one-pixel changes by recomputing only the parts of feature maps that the pixel can reach."""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onepix.engine.fused import Chain, Prepared, chains, max_pool
from onepix.engine.patches import Cut, Margins, Pair, Places, Span
from onepix.engine.sliding import Axes, Axis, NotWindowedError, Pointwise, Slide, Step, pair, step_of
from onepix.engine.tracing import asks_for_kind, with_shapes
from onepix.errors import OnepixError

# A window that is a larger part of its map saves less time than gathering it costs.
LARGEST_SHARE = 0.5


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


class _Plan:
    """Which nodes are evaluated on windows, where the windows lie, and which clean maps they need.

    Attributes
    ----------
    steps : dict
        The nodes that are evaluated on windows, and how.
    axes : dict
        The windows of these nodes and of the image.
    cuts : dict
        How patches are cut out of a node's clean map, by this node and the node that reads it; None: whole maps.
    margins : dict
        The padding of the clean map that is kept, by node and by value of the padding.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        self.extents: Pair = (0, 0)  # of the image
        self.steps: dict[fx.Node, Step] = {}
        self.axes: dict[fx.Node, Axes] = {}
        self.cuts: dict[tuple[fx.Node, fx.Node | None], tuple[Cut, float]] = {}
        self.margins: dict[fx.Node, dict[float, Margins]] = defaultdict(dict)
        dense: set[fx.Node] = set()
        for node in network.graph.nodes:
            changed = [source for source in node.all_input_nodes if source in self.axes or source in dense]
            if node.op == "placeholder" and not self.axes:  # further placeholders have defaults
                height, width = node.meta["shape"][2:]
                self.extents = height, width
                self.axes[node] = Axis(0, 0, 1, height), Axis(0, 0, 1, width)
            elif changed and not asks_for_kind(node):
                try:
                    if not dense.isdisjoint(changed):
                        raise NotWindowedError
                    self._add(node, step_of(node, network), changed)
                except NotWindowedError:
                    dense.update((node, *changed))  # once dense, always dense, so that each map has one form only
                    for source in self.axes.keys() & set(changed):
                        self._keep(source)

    def _add(self, node: fx.Node, step: Step, changed: list[fx.Node]) -> None:
        shape = node.meta.get("shape", ())
        if len(shape) != 4:
            raise NotWindowedError
        if isinstance(step, Slide):
            axes = step.axes(self.axes[step.maps], shape) if changed == [step.maps] else None
        else:
            axes = self._joined(step, node, changed)
        if axes is None or axes[0].size * axes[1].size > LARGEST_SHARE * shape[2] * shape[3]:
            raise NotWindowedError
        self.steps[node], self.axes[node] = step, axes
        for source in changed:
            if self.axes[source] != axes:
                self._keep(source, node)

    def _joined(self, step: Pointwise, node: fx.Node, changed: list[fx.Node]) -> Axes | None:
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

    def _keep(self, source: fx.Node, reader: fx.Node | None = None) -> None:
        """Keep a clean map for a node that reads windows of it with what is around them, or for those that read all."""
        spans, step = [], self.steps[reader] if reader is not None else None
        for along, axis in enumerate(self.axes[source]):
            pixels = torch.arange(self.extents[along])
            begins, length = torch.zeros_like(pixels), axis.extent
            if reader is not None:
                begins, length = self.axes[reader][along].start(pixels), self.axes[reader][along].size
            if isinstance(step, Slide):
                begins, length = (
                    begins * step.stride[along] - step.padding[along],
                    step.lengths((length, length))[along],
                )
            spans.append(Span.around(begins, length, axis.start(pixels), axis.size))
        cut, fill = Cut(*spans), step.fill if isinstance(step, Slide) else 0.0
        self.cuts[source, reader] = cut, fill
        margins = cut.margins((self.axes[source][0].extent, self.axes[source][1].extent))
        before = self.margins[source].get(fill, margins)
        rows, columns = ((max(a[0], b[0]), max(a[1], b[1])) for a, b in zip(before, margins, strict=True))
        self.margins[source][fill] = rows, columns

    def places(self) -> Places:
        """Return what finds where the patches lie."""
        cuts = []
        for (source, _), (cut, fill) in self.cuts.items():
            rows, columns = self.axes[source]
            cuts.append((cut, (rows.extent, columns.extent), self.margins[source][fill]))
        return Places(cuts)


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


Evaluate = Callable[["_Change"], Any]


@dataclasses.dataclass
class _Change:
    """Changes of clean images while they are evaluated: values by node, of windows (N, C, h, w) or of whole maps."""

    clean: CleanMaps
    places: list[tuple[Tensor, Tensor]]  # by cut, in the order of the plan
    values: Tensor
    env: dict[fx.Node, Any] = dataclasses.field(default_factory=dict)


class _Program:
    """What is evaluated for changes of clean images, in order, as planned.

    torch.fx has an interpreter, too. It takes longer than a small network takes on windows.
    """

    def __init__(self, network: fx.GraphModule, plan: _Plan) -> None:
        self.network, self.plan = network, plan
        self.whole: set[fx.Node] = set()  # which of the maps that are planned as windows are whole by now
        self.chains = {last: chain for last, chain in chains(network).items() if self._is_uniform(last, chain)}
        inner = {node for chain in self.chains.values() for node in chain.inner}
        self.steps: list[tuple[fx.Node, Evaluate]] = []
        for node in network.graph.nodes:
            if node not in inner:
                self._append(node)
        last_use = {source: index for index, (node, _) in enumerate(self.steps) for source in self._reads(node)}
        self.over: list[list[fx.Node]] = [[] for _ in self.steps]  # which values are not read again, by step
        for source, index in last_use.items():
            self.over[index].append(source)

    def __call__(self, change: _Change) -> Any:
        env = change.env
        for (node, evaluate), over in zip(self.steps, self.over, strict=True):
            env[node] = evaluate(change)
            for source in over:
                del env[source]
        return env[node]

    def _is_uniform(self, last: fx.Node, chain: Chain) -> bool:
        """Tell whether all of a chain is evaluated on the same windows, or on whole maps."""
        step = self.plan.steps.get(chain.layer)
        convolved = isinstance(step, Slide) and getattr(step.apply, "func", None) is F.conv2d
        return len({self.plan.axes.get(node) for node in (*chain.inner, last)}) == 1 and (step is None or convolved)

    def _reads(self, node: fx.Node) -> list[fx.Node]:
        if node in self.chains:
            return self.chains[node].reads
        return node.all_input_nodes

    def _append(self, node: fx.Node) -> None:
        plan = self.plan
        if node in plan.axes:
            self.steps.append((node, self._on_windows(node)))
            return
        windows = [source for source in self._reads(node) if source in plan.axes and source not in self.whole]
        if windows and asks_for_kind(node):
            self.steps.append((node, self._kind(node, windows[0])))
            return
        for source in windows:
            self.steps.append((source, self._patch(source, None)))
            self.whole.add(source)
        self.steps.append((node, self._on_maps(node)))

    def _on_windows(self, node: fx.Node) -> Evaluate:
        step = self.plan.steps.get(node)
        if step is None:
            return lambda change: change.values
        if node in self.chains:
            chain = self.chains[node]
            readers = (*chain.inner, node)  # the first reads maps, the second, if it is a sum, the other one
            return self._layer(chain, [self._window(*read) for read in zip(chain.reads, readers, strict=False)], (0, 0))
        if isinstance(step, Slide):
            window, apply, operands = self._window(step.maps, node), step.apply, step.operands
            return lambda change: apply(window(change), *fx.map_arg(operands, change.env.__getitem__))
        windows = {source: self._window(source, node) for source in step.maps}
        call = _called(node, self.network)

        def evaluate(change: _Change) -> Any:
            values = {source: window(change) for source, window in windows.items()}
            args, kwargs = fx.map_arg((node.args, node.kwargs), {**change.env, **values}.__getitem__)
            return call(*args, **kwargs)

        return evaluate

    def _on_maps(self, node: fx.Node) -> Evaluate:
        if node in self.chains:
            chain = self.chains[node]
            return self._layer(chain, [functools.partial(_value, source) for source in chain.reads])
        if node.op == "output":
            return lambda change: fx.map_arg(node.args[0], change.env.__getitem__)
        if node.op == "placeholder":
            return lambda _: node.args[0]
        if node.op == "get_attr":
            value = functools.reduce(getattr, str(node.target).split("."), self.network)
            return lambda _: value
        call, args, kwargs = _called(node, self.network), node.args, node.kwargs
        if isinstance(call, nn.MaxPool2d) and _is_pool(call):
            call = functools.partial(max_pool, kernel_size=pair(call.kernel_size), stride=pair(call.stride))
        nodes = [arg for arg in args if isinstance(arg, fx.Node)]
        if not kwargs and len(nodes) == len(args):
            return lambda change: call(*[change.env[source] for source in nodes])

        def evaluate(change: _Change) -> Any:
            given, named = fx.map_arg((args, kwargs), change.env.__getitem__)
            return call(*given, **named)

        return evaluate

    def _layer(self, chain: Chain, reads: list[Evaluate], padding: Pair | None = None) -> Evaluate:
        layer: Any = self.network.get_submodule(str(chain.layer.target))
        apply = Prepared(layer, chain.rectified, padding)
        return lambda change: apply(*[read(change) for read in reads])

    def _kind(self, node: fx.Node, source: fx.Node) -> Evaluate:
        call = _called(node, self.network)
        rows, columns = self.plan.axes[source]

        def evaluate(change: _Change) -> Any:
            window = change.env[source]
            whole = window[:, :, :1, :1].expand(-1, -1, rows.extent, columns.extent)  # its values do not matter
            return call(whole, *node.args[1:], **node.kwargs)

        return evaluate

    def _window(self, source: fx.Node, reader: fx.Node) -> Evaluate:
        """Return what a node on windows reads of another one."""
        if (source, reader) in self.plan.cuts:
            return self._patch(source, reader)
        return functools.partial(_value, source)

    def _patch(self, source: fx.Node, reader: fx.Node | None) -> Evaluate:
        cut, fill = self.plan.cuts[source, reader]
        index, name = list(self.plan.cuts).index((source, reader)), (source, fill)
        return lambda change: cut(change.clean.maps[name], *change.places[index], change.env[source])


def _value(node: fx.Node, change: _Change) -> Any:
    return change.env[node]


def _is_pool(module: nn.MaxPool2d) -> bool:
    """Tell whether a module does what `max_pool` does."""
    if type(module) is not nn.MaxPool2d or module._forward_hooks or module._forward_pre_hooks:
        return False
    return (module.padding, module.dilation, module.return_indices, module.ceil_mode) == (0, 1, False, False)


def _called(node: fx.Node, network: fx.GraphModule) -> Callable[..., Any]:
    """Return what a node calls."""
    if node.op == "call_module":
        return network.get_submodule(str(node.target))
    if node.op == "call_method":
        name = str(node.target)
        return lambda this, *args, **kwargs: getattr(this, name)(*args, **kwargs)
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    return target


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
        self._program = _Program(self._network, self._plan)
        self._places = self._plan.places()
        self.worthwhile = any(
            isinstance(step, Slide) and (step.operands or max(step.kernel) > 1) for step in self._plan.steps.values()
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
        (run,) = self.passes(clean, owners, rows, columns, values, len(owners))
        output: Tensor = run()
        return output

    def passes(
        self, clean: CleanMaps, owners: Tensor, rows: Tensor, columns: Tensor, values: Tensor, size: int
    ) -> list[Callable[[], Any]]:
        """Return calls that evaluate so many changes each; their number is a multiple of it. Else as `__call__`."""
        values = values[:, :, None, None].clone()  # the network may write into its input
        parts = zip(self._places(owners, (rows, columns), size), torch.split(values, size), strict=True)
        return [functools.partial(self._program, _Change(clean, places, part)) for places, part in parts]
