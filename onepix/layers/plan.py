"""Which steps of a network are followed, and how their outputs are laid out: found by one run before all others."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from onepix.errors import OnepixError
from onepix.layers.axes import IMAGES, UNKNOWN, Axes, Grid, axes_after, axes_of_images
from onepix.layers.outputs import main_output
from onepix.layers.steps import (
    AUTO,
    NEW,
    REDUCING,
    Key,
    Steps,
    function_of,
    has_numbers,
    made_up_images,
    observed,
    operator_of,
    operator_of_call,
    tensors,
    trial_run,
    version,
)
from onepix.names import chosen, fits


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a network: the call of a module, or a functional operation.

    Attributes
    ----------
    name : str
        As in `onepix.layers.steps.Steps`.
    operator : str
        As in `onepix.layers.steps.operator_of` and `operator_of_call`.
    shape : tuple of int
        Of one image's output.
    images : int or None
        The axis of the output along which the images lie; None: they have no axis to themselves.
    grid : Grid or None
        Where the positions of an image lie, once the images are on the first axis; None: nowhere.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    images: int | None
    grid: Grid | None

    @property
    def fault(self) -> str:
        """Why the output cannot be followed as maps; empty if it can, or has no space."""
        if self.images is None:
            return "its output has no axis of images"
        lost = self.grid is None and sum(extent > 1 for extent in self.shape) > 1
        return "its output is not laid out as a map" if lost else ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is followed in a network.

    Attributes
    ----------
    followed : dict
        The steps that are followed, in the order in which they end.
    ran : tuple of str
        Names of all steps.
    unfollowed : tuple of str
        What combines or transforms feature maps and is not followed, or not as maps, by name and reason.
    """

    followed: Mapping[Key, Step]
    ran: tuple[str, ...]
    unfollowed: tuple[str, ...]

    def required(self) -> "Plan":
        """Return the plan.

        Raises
        ------
        OnepixError
            If it follows nothing.
        """
        if not self.followed:
            listed = f"; not followed: {', '.join(self.unfollowed)}" if self.unfollowed else ""
            raise OnepixError(f"layers: no step of the network can be followed, expected at least one{listed}")
        return self

    def with_suffix(self, name: str, suffix: str) -> str:
        """Return the name of a part of a step's output, which no step has."""
        whole = name + suffix
        while suffix and whole in self.ran:  # a module may have any name
            whole += suffix
        return whole


def plan(
    network: nn.Module,
    shape: tuple[int, int, int],
    layers: Literal["auto"] | Sequence[str] = "auto",
    what: str = "layers",
) -> Plan:
    """Find out what is followed in a network.

    The network runs once, on artificial images, and every torch call is followed. It is left as it was.

    Parameters
    ----------
    network : nn.Module
        Takes float images (N, C, H, W).
    shape : tuple of int
        Channels, height and width of the images.
    layers : "auto" or sequence of str
        Glob patterns of names, or "auto": convolutions, activations, attention, pooling, linear layers, sums and
        concatenations of what depends on the image, as modules or functions; and blocks. A block whose output is that
        of its last layer is not repeated; one that ends in a functional operation stands for it. In a network without
        any of these, all steps.
    what : str
        Begins error messages.

    Raises
    ------
    OnepixError
        If the network cannot run on such images, a part of it is TorchScript, or a pattern fits no step.
    """
    planner = _Planner(network)
    with trial_run(network, what, shape), observed(network, planner):
        images = made_up_images(network, IMAGES, shape)
        planner.enter(images, axes_of_images(images.shape))
        with planner:
            network(images)
    planned = planner.plan(layers)
    for pattern in () if layers == "auto" else layers:
        chosen(planned.ran, [pattern], "propagation.layers", "layer of the network")
    return planned


@dataclasses.dataclass(eq=False)
class _Ran:
    """A step that has run, and its output: the tensor, and the version that it had."""

    key: Key
    step: Step
    output: Tensor
    version: int
    depends: bool  # on the image

    @property
    def functional(self) -> bool:
        return bool(self.key[1])

    def same_output(self, other: "_Ran") -> bool:
        return self.output is other.output and self.version == other.version


class _Planner(TorchFunctionMode):
    """Follow all that depends on the image through a run, with the axes of its tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._steps = Steps(network)
        self._operators = {name: operator_of(module) for name, module in network.named_modules()}
        self._known = WeakTensorKeyDictionary()
        self._ran: list[_Ran] = []
        self._outside: list[str] = []  # modules that compute outside of torch

    def enter(self, tensor: Tensor, axes: Axes) -> None:
        self._known[tensor] = axes

    def entered(self, name: str, _inputs: object) -> None:
        self._steps.entered(name)

    def left(self, name: str, inputs: object, output: Any) -> None:
        key = self._steps.left(name)
        followed = any(tensor in self._known for tensor in tensors(inputs))
        if followed:
            for tensor in tensors(output):
                if tensor not in self._known:
                    self.enter(tensor, UNKNOWN)
                    self._outside += [name] if name and tensor.is_floating_point() else []
        self._note(key, self._operators[name], output)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        function, closed = function_of(func), self._steps.closed
        key = None if closed else self._steps.called(function)
        given = [(tensor, version(tensor), tensor.shape) for tensor in tensors((args, kwargs))]
        before = [self._axes_of(tensor) for tensor, *_ in given if tensor in self._known]
        outputs = func(*args, **kwargs)
        if not before or func in NEW:
            return outputs
        written = [tensor for tensor, number, _ in given if version(tensor) != number]
        if any(tensor.shape != shape for tensor, _, shape in given):
            found = [(tensor, UNKNOWN) for tensor in (*tensors(outputs), *written)]
        else:
            found = axes_after(func, args, kwargs, outputs, written, self._known)
        for base in (tensor._base for tensor in written if tensor._base is not None):
            found.append((base, self._axes_of(base)))
        for tensor, axes in found:
            self.enter(tensor, axes)
        operator = operator_of_call(function, len(before))
        if function in REDUCING and len(before[0].grids) == 1 and not found[0][1].grids:
            operator = "pooling"
        if key and operator and has_numbers(outputs):
            self._note(key, operator, outputs)
        return outputs

    def _axes_of(self, tensor: Tensor) -> Axes:
        axes: Axes = self._known.get(tensor, UNKNOWN)  # type: ignore[no-untyped-call]
        return axes

    def _note(self, key: Key, operator: str, output: Any) -> None:
        name, main = self._steps.name_of(key), main_output(output)
        if not any(key[:2]) or main is None or main.ndim < 2:
            return
        # What depends on no image, like a learnt token, has images first, or none.
        depends = main in self._known
        axes = self._axes_of(main) if depends else Axes(0 if main.shape[0] == IMAGES else None)
        images = axes.own
        shape = tuple(extent for axis, extent in enumerate(main.shape) if axis != images)
        grid = _moved(axes.grids[0], images) if len(axes.grids) == 1 and images is not None else None
        step = Step(name, operator, shape, images, grid)
        self._ran.append(_Ran(key, step, main, version(main), depends))

    def plan(self, layers: Literal["auto"] | Sequence[str]) -> Plan:
        """Return the plan, after the run."""
        wanted: list[_Ran] = []
        for ran in self._ran:
            if layers != "auto":
                wanted += [ran] if fits(ran.step.name, layers) else []
            elif ran.step.operator in AUTO:
                same = next((other for other in reversed(wanted) if other.same_output(ran)), None)
                if ran.step.operator == "block" and same and same.functional:
                    wanted.remove(same)
                    same = None
                if ran.step.operator != "block" or same is None:
                    wanted.append(ran)
        if layers == "auto" and not wanted:  # of a network without layers, whatever there is
            wanted = [ran for ran in self._ran if ran.depends]
        left_out = [ran for ran in self._ran if ran.functional and not any(other.same_output(ran) for other in wanted)]
        unfollowed = [(ran.step.name, "") for ran in left_out if ran.step.operator == "other"]
        unfollowed += [(ran.step.name, ran.step.fault) for ran in wanted if ran.step.fault and ran.depends]
        unfollowed += [(name, "computed outside of torch") for name in self._outside]
        return Plan(
            {ran.key: ran.step for ran in wanted if ran.step.images is not None},
            tuple(ran.step.name for ran in self._ran),
            _grouped(unfollowed),
        )


def _grouped(entries: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return a short list of names and reasons: names that differ in numbers only become one pattern."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in entries:
        pattern = ".".join("*" if part.isdigit() else part for part in name.partition("#")[0].split("."))
        groups.setdefault((pattern, reason), []).append(name)
    return tuple(
        (names[0] if len(names) == 1 else f"{pattern} (×{len(names)})") + (f": {reason}" if reason else "")
        for (pattern, reason), names in groups.items()
    )


def _moved(grid: Grid, images: int) -> Grid:
    """Return a grid after the images' axis has been moved to the front."""
    y, x = (axis if axis is None or axis > images else axis + 1 for axis in (grid.y, grid.x))
    return dataclasses.replace(grid, y=y, x=x)
