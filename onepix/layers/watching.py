"""Layers: which modules of a network are followed, in which order they run, and their outputs as feature maps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from onepix.errors import OnepixError
from onepix.layers.axes import Grid, laid_out
from onepix.layers.outputs import main_output, with_main_output
from onepix.layers.plan import Plan, Step, plan
from onepix.layers.steps import Key, Steps, function_of, observed
from onepix.layers.steps import operator_of as operator_of

EXTRA = "@extra"  # end of the name of tokens without a position in the image
See = Callable[[str, str, Tensor], Tensor | None]


@contextmanager
def watching(
    network: nn.Module, layers: Literal["auto"] | Sequence[str], see: See, planned: Plan | None = None
) -> Iterator[None]:
    """Call a function on the output of each chosen step when it runs: of modules, blocks and functional operations.

    Parameters
    ----------
    network : nn.Module
        Its modules and the calls in them are watched, but not the network itself, whose output is that of its last
        layer. It is called with images (N, C, H, W) as its first argument.
    layers : "auto" or sequence of str
        As in `onepix.layers.plan.plan`.
    see : callable
        Takes name, operator and output of a step, in the order in which the steps end; if it returns a tensor, that
        replaces the output. Names are as in `onepix.layers.steps.Steps`. If a step has several outputs, the first is
        used. Images are first, whichever axis they lie on in the network. Steps whose output has no axis of images are
        not seen.
    planned : Plan, optional
        The plan of this network, for images of this shape and these layers; default: it is made when the network is
        called.

    Raises
    ------
    OnepixError
        When the network is called, if it cannot run on such images, or a pattern fits no step.
    """
    watcher = _Watcher(network, layers, see, planned)
    with observed(network, watcher), watcher:
        yield


class _Watcher(TorchFunctionMode):
    """Show the outputs of planned steps."""

    def __init__(
        self, network: nn.Module, layers: Literal["auto"] | Sequence[str], see: See, planned: Plan | None
    ) -> None:
        super().__init__()
        self.planned = planned
        self._network, self._layers, self._see = network, layers, see
        self._steps = Steps(network)
        self._idle = False  # while a plan is made, or an output is looked at
        self._followed: Mapping[Key, Step] = {}
        self._functions: set[tuple[str, str]] = set()

    def entered(self, name: str, inputs: object) -> None:
        if self._idle:
            return
        if not name:
            self._begin(inputs)
        self._steps.entered(name)

    def _begin(self, images: object) -> None:
        """Make a plan, if there is none yet, and count all calls anew."""
        if self.planned is None:
            with self._resting():
                self.planned = plan(self._network, _shape(images), self._layers)
        self._followed = self.planned.followed
        self._functions = {(module, function) for module, function, _ in self._followed}
        self._steps = Steps(self._network)

    @contextmanager
    def _resting(self) -> Iterator[None]:
        self._idle = True
        try:
            yield
        finally:
            self._idle = False

    def left(self, name: str, _inputs: object, output: Any) -> Any:
        if self._idle:
            return None
        step = self._followed.get(self._steps.left(name))
        return None if step is None else self._shown(step, output)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self._idle or self._steps.closed:
            return output
        function = function_of(func)
        if (self._steps.running, function) not in self._functions:
            return output
        step = self._followed.get(self._steps.called(function))
        changed = None if step is None else self._shown(step, output)
        if changed is None:
            return output
        main, new = main_output(output), main_output(changed)
        assert main is not None
        assert new is not None
        written = any(main is given for given in (*args, *kwargs.values()))
        if written and not torch.is_grad_enabled():  # the network may not use what a call in place returns
            main.copy_(new)
            return output
        return changed

    def _shown(self, step: Step, output: Any) -> Any:
        """Show an output, and return it with what replaces it; None if nothing does."""
        main = main_output(output)
        if main is None or step.images is None or main.ndim != len(step.shape) + 1:
            return None
        images_first = main.movedim(step.images, 0) if step.images else main
        if images_first.shape[1:] != step.shape:  # these images take another way through the network
            return None
        with self._resting():
            changed = self._see(step.name, step.operator, images_first)
        return None if changed is None else with_main_output(output, changed.movedim(0, step.images))


def _shape(inputs: object) -> tuple[int, int, int]:
    images = main_output(inputs)
    if images is None or images.ndim != 4:
        raise OnepixError("layers: expected the network to be called with images (N, C, H, W)")
    _, channels, height, width = images.shape
    return channels, height, width


def feature_maps(output: Tensor, grid: Grid | None) -> dict[str, Tensor]:
    """Return a layer's output as feature maps.

    Parameters
    ----------
    output : Tensor
        Shape (N, …).
    grid : Grid or None
        Where its positions lie, as its step in a plan knows; None: nowhere.

    Returns
    -------
    dict of str to Tensor
        Under "", maps of shape (N, C, y, x), 1 × 1 for outputs without space. Tokens are put back row by row; those
        that do not belong to the grid (class token, registers) are under "@extra", (N, C, 1, tokens).
    """
    maps, others = laid_out(output, grid)
    return {"": maps} | ({} if others is None else {EXTRA: others})
