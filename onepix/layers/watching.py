"""Layers: which modules of a network are followed, in which order they run, and their outputs as feature maps."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules import activation, batchnorm, conv, dropout, instancenorm, normalization, pooling
from torch.utils.hooks import RemovableHandle

from onepix.names import chosen, fits

# PyTorch's activations have no common base class; they are recognised by the Python module that defines them.
OPERATORS = {
    conv.__name__: "convolution",
    activation.__name__: "activation",
    pooling.__name__: "pooling",
    batchnorm.__name__: "normalisation",
    instancenorm.__name__: "normalisation",
    normalization.__name__: "normalisation",
    dropout.__name__: "dropout",
}
AUTO = ("convolution", "activation", "attention", "pooling", "linear", "block")
EXTRA = "@extra"  # end of the name of tokens without a position in the image
MOST_EXTRA_TOKENS = 8


def operator_of(module: nn.Module) -> str:
    """Return a module's kind of layer.

    It is convolution, activation, attention, pooling, linear, normalisation, dropout, container (nn.Sequential and the
    like), block (any other module with children) or other.
    """
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    for base in type(module).__mro__:
        if base.__module__ in OPERATORS:
            return OPERATORS[base.__module__]
    if isinstance(module, nn.Sequential | nn.ModuleList):
        return "container"
    return "block" if any(module.children()) else "other"


@contextmanager
def watching(
    network: nn.Module, layers: Literal["auto"] | Sequence[str], see: Callable[[str, str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call a function on the output of each chosen layer when it runs.

    Parameters
    ----------
    network : nn.Module
        Its modules are watched, but not the network itself, whose output is that of its last layer.
    layers : "auto" or sequence of str
        Glob patterns of names, or "auto": convolutions, activations, attention, pooling, linear layers and blocks, but
        no block whose output is that of its last layer.
    see : callable
        Takes name, operator and output of a layer, in the order in which the layers run; if it returns a tensor, that
        replaces the output. The name is dotted; the second call of a module is `name#2`. If a layer has several
        outputs, the first is used. Attention with tokens on the first axis is seen with images first, like all others.

    Raises
    ------
    OnepixError
        At the end, if a pattern fits no layer that has run and returned a tensor.
    """
    calls: Counter[str] = Counter()
    latest: list[Tensor] = []
    ran: list[str] = []

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        operator = operator_of(module)

        def hook(_module: nn.Module, _inputs: object, output: object) -> object:
            calls[name] += 1
            entry = name if calls[name] == 1 else f"{name}#{calls[name]}"
            first = output[0] if isinstance(output, tuple) and output else output
            if not isinstance(first, Tensor) or first.ndim < 2:
                return None
            ran.append(entry)
            if layers == "auto":
                passed_on = operator == "block" and bool(latest) and first is latest[0]
                wanted = operator in AUTO and not passed_on
            else:
                wanted = fits(entry, layers)
            if not wanted:
                return None
            tokens_first = isinstance(module, nn.MultiheadAttention) and not module.batch_first and first.ndim == 3
            changed = see(entry, operator, first.transpose(0, 1) if tokens_first else first)
            latest[:] = [first]
            if changed is None:
                return None
            latest[:] = [changed.transpose(0, 1) if tokens_first else changed]
            return (*latest, *output[1:]) if isinstance(output, tuple) else latest[0]

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in network.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if layers != "auto":
        for pattern in layers:
            chosen(ran, [pattern], "propagation.layers", "layer of the network")


def feature_maps(operator: str, output: Tensor, image: tuple[int, int]) -> dict[str, Tensor]:
    """Return a layer's output as feature maps.

    Parameters
    ----------
    operator : str
        Of the layer.
    output : Tensor
        Shape (N, …).
    image : tuple of int
        Height and width of the images.

    Returns
    -------
    dict of str to Tensor
        Under "", maps of shape (N, C, y, x), 1 × 1 for outputs without space. Tokens (N, T, C) are put back row by row
        on a grid with the image's proportions; up to 8 tokens before them that do not belong to the grid (class token,
        registers) are under "@extra", (N, C, 1, tokens). Channels may come last, as in Swin transformers.
    """
    if output.ndim == 4:
        last = operator == "linear" or (
            operator not in ("convolution", "pooling")
            and not _has_proportions(output.shape[2:], image)
            and _has_proportions(output.shape[1:3], image)
        )
        return {"": output.permute(0, 3, 1, 2) if last else output}
    grid = _grid(output.shape[1], image) if output.ndim == 3 and operator != "convolution" else None
    if grid is None:
        return {"": output.flatten(1)[:, :, None, None]}
    extra = output.shape[1] - math.prod(grid)
    tokens = output.transpose(1, 2)
    maps = {"": tokens[:, :, extra:].reshape(*tokens.shape[:2], *grid)}
    return maps | ({EXTRA: tokens[:, :, None, :extra]} if extra else {})


def _has_proportions(grid: Sequence[int], image: tuple[int, int]) -> bool:
    return grid[0] * image[1] == grid[1] * image[0]


def _grid(tokens: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """Return height and width of the largest grid with the image's proportions, if few tokens are left over."""
    divisor = math.gcd(*image)
    height, width = image[0] // divisor, image[1] // divisor
    factor = math.isqrt(tokens // (height * width))
    left = tokens - factor**2 * height * width
    return (factor * height, factor * width) if factor and left <= MOST_EXTRA_TOKENS else None
