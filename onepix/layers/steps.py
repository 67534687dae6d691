"""Steps: the layers and functional operations of a network, of which kind they are, and their names."""

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules import activation, batchnorm, conv, dropout, instancenorm, normalization, pooling
from torch.utils._pytree import tree_leaves

from onepix.errors import OnepixError
from onepix.networks.gate import words

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
AUTO = ("convolution", "activation", "attention", "pooling", "linear", "block", "sum", "concatenation")
# What runs inside of such a module is its own affair: nn.ReLU calls F.relu, which is not seen a second time.
CLOSED = ("convolution", "activation", "attention", "pooling", "linear", "normalisation", "dropout")

# Functions are known by their names in torch, torch.nn.functional and torch.Tensor, without the underscores of those
# that write in place.
ACTIVATIONS = {
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish", "glu"),
    *("sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "logsigmoid", "softplus", "softsign", "threshold"),
    *("hardshrink", "softshrink", "tanhshrink", "clamp", "clamp_min", "clamp_max", "clip"),
}
JOINING = {
    **dict.fromkeys(("add", "iadd", "radd"), "sum"),
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack", "vstack", "dstack", "stack"), "concatenation"),
}
REDUCING = {"mean", "amax", "max", "sum"}  # pooling, where they leave no position
ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}
# Not steps: what moves values, arithmetic with a constant, normalisation and dropout.
MOVING = {
    *(
        "view",
        "view_as",
        "reshape",
        "reshape_as",
        "flatten",
        "unflatten",
        "ravel",
        "permute",
        "transpose",
        "t",
        "adjoint",
    ),
    *("swapaxes", "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to"),
    *(
        "repeat",
        "repeat_interleave",
        "tile",
        "contiguous",
        "clone",
        "detach",
        "to",
        "type",
        "type_as",
        "float",
        "double",
    ),
    *(
        "half",
        "bfloat16",
        "cpu",
        "cuda",
        "getitem",
        "setitem",
        "get",
        "set",
        "narrow",
        "select",
        "index_select",
        "gather",
    ),
    *("take", "take_along_dim", "chunk", "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "unbind"),
    *("unfold", "pad", "roll", "flip", "fliplr", "flipud", "rot90", "pixel_shuffle", "pixel_unshuffle"),
    *("channel_shuffle", "native_channel_shuffle", "as_strided", "copy", "alias", "requires_grad", "broadcast_tensors"),
    *("native_dropout", "atleast_2d", "atleast_3d", "masked_fill", "iter"),
}
ARITHMETIC = {
    *("add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "multiply", "subtract", "neg", "negative"),
    *("div", "idiv", "truediv", "itruediv", "true_divide", "divide", "stack", "positive"),
}

ELEMENTWISE = (ACTIVATIONS - {"glu"}) | (ARITHMETIC - {"stack"}) | {"dropout"}
# Calls that use only the dtype, the device or the shape of a tensor.
NEW: set[Callable[..., Any]] = {
    *(torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like, torch.rand_like, torch.randn_like),
    *(Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty),
}


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


def function_of(func: Callable[..., Any]) -> str:
    """Return the name of a torch function: that of `+`, `+=`, torch.add and Tensor.add_ is add."""
    name: str = getattr(func, "__name__", type(func).__name__)
    return name.strip("_").removesuffix("_with_indices")


def operator_of_call(function: str, operands: int) -> str | None:
    """Return the kind of a call of a function that gets so many operands that depend on the image.

    It is convolution, activation, attention, pooling, linear, sum or concatenation (the last two of several operands
    that depend on the image), or other. None: no step of its own.
    """
    if function in JOINING and operands > 1:
        return JOINING[function]
    if function in MOVING or function in JOINING or (function in ARITHMETIC and operands == 1):
        return None
    if "norm" in function or "dropout" in function:
        return None
    if function in ACTIVATIONS:
        return "activation"
    if function in ATTENTION:
        return "attention"
    if "pool" in function:
        return "pooling"
    if function.startswith("conv"):
        return "convolution"
    return "linear" if function == "linear" else "other"


Key = tuple[str, str, int]  # a module's name, the function called in it ("": the module itself), and which call it is


class Steps:
    """Knows which modules run at the moment, and names what runs.

    A module has its dotted name, and its second call `name#2`. A functional operation has the name of the module in
    whose forward it stands, and its own: `layer1.0.add()`, its second call `layer1.0.add()#2`, and at the top `cat()`.

    Parameters
    ----------
    network : nn.Module
        The whole.
    """

    def __init__(self, network: nn.Module) -> None:
        kinds = {name: operator_of(module) for name, module in network.named_modules()}
        self._modules = set(kinds)
        self._closed = {name for name, kind in kinds.items() if kind in CLOSED}
        self._running: list[tuple[str, bool]] = []
        self._calls: Counter[tuple[str, str]] = Counter()
        self._names: Counter[str] = Counter()

    def entered(self, name: str) -> None:
        """Note that a module begins to run."""
        self._running.append((name, self.closed or name in self._closed))

    def left(self, name: str) -> Key:
        """Note that a module has ended, and return its key."""
        if self._running and self._running[-1][0] == name:
            self._running.pop()
        return self._counted(name, "")

    @property
    def closed(self) -> bool:
        """Whether a layer runs, so that calls are not seen."""
        return bool(self._running) and self._running[-1][1]

    @property
    def running(self) -> str:
        """The name of the innermost module that runs."""
        return self._running[-1][0] if self._running else ""

    def called(self, function: str) -> Key:
        """Note that a function is called in the module that runs, and return the call's key."""
        return self._counted(self.running, function)

    def name_of(self, key: Key) -> str:
        """Return a new name for a step."""
        module, function, _ = key
        name = f"{module}.{function}()" if module and function else f"{function}()" if function else module
        self._names[name] += 1
        name = name if self._names[name] == 1 else f"{name}#{self._names[name]}"
        while name in self._modules and name != module:  # a module may have any name
            name += "#"
        # What cannot be stored as text is written as an escape.
        return name.encode(errors="backslashreplace").decode().replace("\0", "\\0")

    def _counted(self, module: str, function: str) -> Key:
        self._calls[module, function] += 1
        return module, function, self._calls[module, function]


class Observer(Protocol):
    """What is told when modules begin and end."""

    def entered(self, name: str, inputs: object) -> None:
        """Say that a module begins to run."""

    def left(self, name: str, inputs: object, output: Any) -> Any:
        """Say that a module has ended; if anything but None is returned, that replaces its output."""


@contextlib.contextmanager
def observed(network: nn.Module, observer: Observer) -> Iterator[None]:
    """Tell an observer when the modules of a network, and the network itself (""), begin and end."""
    with contextlib.ExitStack() as undo:
        for name, module in network.named_modules():

            def enter(_module: nn.Module, args: object, kwargs: object, name: str = name) -> None:
                observer.entered(name, (args, kwargs))

            def leave(_module: nn.Module, args: object, kwargs: object, output: object, name: str = name) -> object:
                return observer.left(name, (args, kwargs), output)

            undo.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            # Also after an exception, which the network may catch; the output is then None.
            undo.callback(module.register_forward_hook(leave, with_kwargs=True, always_call=True).remove)
        if (
            "torch._dynamo" in sys.modules
        ):  # a compiled module would run without its hooks; to import this takes seconds
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextlib.contextmanager
def trial_run(network: nn.Module, what: str, shape: tuple[int, int, int]) -> Iterator[None]:
    """Set a network to evaluation mode, without gradients, and undo that at the end.

    Raises
    ------
    OnepixError
        If a part of it is TorchScript, or what runs inside fails; the message starts with `what`.
    """
    with contextlib.ExitStack() as undo:
        for name, module in network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                raise OnepixError(
                    f"{what}: module {name!r} is TorchScript, whose calls cannot be followed; "
                    "expected the network as plain torch modules"
                )
            undo.callback(setattr, module, "training", module.training)
        try:
            network.eval()
            # Inference tensors have no version counter, which shows that a call writes in place.
            with torch.inference_mode(False), torch.no_grad():
                yield
        except OnepixError:
            raise
        except (Exception, SystemExit) as error:  # the network's own code may raise anything
            raise OnepixError(
                f"{what}: the network ({type(network).__name__}) cannot run on an image of (channels, height, width) "
                f"{shape}: {words(error)}"
            ) from error


def made_up_images(network: nn.Module, count: int, shape: tuple[int, int, int]) -> Tensor:
    """Return artificial images of a network's own device and dtype."""
    weights = (*network.parameters(), *network.buffers())
    like = next((tensor for tensor in weights if tensor.is_floating_point()), torch.zeros(1))
    return torch.linspace(0, 1, count * math.prod(shape), dtype=like.dtype, device=like.device).reshape(count, *shape)


def version(tensor: Tensor) -> int:
    """Return how often a tensor has been written to; 0 for inference tensors, which do not know."""
    return 0 if tensor.is_inference() else tensor._version


def tensors(nested: object) -> list[Tensor]:
    """Return all tensors in nested lists, dicts and the like."""
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def has_numbers(output: object) -> bool:
    """Tell whether a call returns anything but whole numbers and truth values, as comparisons do."""
    return any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors(output))
