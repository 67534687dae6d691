"""The gate through which every call of a user's network goes: the network may raise anything and return anything."""

import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onepix.errors import OnepixError

LONGEST = 300  # characters quoted of what a network says
NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # what PyTorch's RuntimeErrors then say
OWN = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))  # code that is not the user's


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that there was not enough memory, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in NO_MEMORY)


def words(error: BaseException) -> str:
    """Return in one line what an exception says, and which line of the user's code raised it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    scripted = "TorchScript interpreter" in str(error)  # its first lines are a traceback
    said = (lines[-1] if scripted else " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])) if lines else ""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if not frame.filename.startswith((*OWN, "<"))), None)
    text = ": ".join(filter(None, [type(error).__name__, said or (frame.line if frame else "")]))
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return f"{shown} ({Path(frame.filename).name}, line {frame.lineno})" if frame else shown


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into one line, which begins with `what`.

    Mistakes that are told already, and lack of memory, which a smaller batch may mend, are passed on.

    Raises
    ------
    OnepixError
        With the code's own words.
    """
    try:
        yield
    except OnepixError:
        raise
    except (Exception, SystemExit) as error:  # a network that ends the process would end it without a word
        if out_of_memory(error):
            raise
        raise OnepixError(f"{what}: {words(error)}") from error


def logits_in(output: Any, leaf: type = Tensor) -> tuple[Any, str]:
    """Return what is taken as the logits of a network's output, and which part of the output that is, in words.

    Parameters
    ----------
    output : object
        A tensor, an object with an attribute `logits`, a mapping with an entry `logits`, or a tuple or list whose
        first item is one of these.
    leaf : type
        Of what is looked for; in a graph of torch.fx, nodes stand for tensors.

    Returns
    -------
    logits : object
        None if there are none.
    part : str
        Such as `output.logits`; `output` is the output itself.
    """
    if isinstance(output, leaf):
        return output, "output"
    if isinstance(getattr(output, "logits", None), leaf):
        return output.logits, "output.logits"
    if isinstance(output, Mapping) and isinstance(output.get("logits"), leaf):
        return output["logits"], 'output["logits"]'
    if isinstance(output, tuple | list) and output:
        logits, part = logits_in(output[0], leaf)
        return logits, part.replace("output", "output[0]", 1)
    return None, "output"


def checked_logits(logits: Any, output: Any, images: int, name: str) -> Tensor:
    """Return a network's logits as float32, (images, classes); OnepixError if they are none.

    Parameters
    ----------
    logits : object
        From `logits_in`.
    output : object
        All that the network returned.
    images : int
        Number of images that it was given.
    name : str
        Of the network.
    """
    if logits is None:
        raise OnepixError(
            f"network {name} returned {_described(output)}; expected logits as a tensor (images, classes), or that as "
            '.logits, ["logits"] or the first of a tuple'
        )
    given = f"network {name} gives outputs of shape {tuple(logits.shape)}"
    if not logits.is_floating_point():
        raise OnepixError(f"{given} as {str(logits.dtype).removeprefix('torch.')}; expected logits, in floating point")
    if logits.shape in ((images,), (images, 1)):
        raise OnepixError(
            f"network {name} gives one number for each image, expected one logit for each class; of one logit z make "
            "two in its forward: z = z.reshape(-1, 1); return torch.cat([torch.zeros_like(z), z], 1)"
        )
    if logits.ndim != 2 or len(logits) != images or logits.shape[1] < 2:
        flat = logits.ndim > 2 and logits.shape[1:].numel() == logits.shape[1]
        cure = "; end its forward with .flatten(1)" if flat else ""
        raise OnepixError(f"{given}, expected (images, classes) for {images} images{cure}")
    checked: Tensor = logits.float()
    return checked


def _described(output: Any) -> str:
    """Name what a network returned, with the keys of a mapping and the first item of a sequence."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with the keys {', '.join(map(repr, list(output)[:5])) or '(none)'}"
    if isinstance(output, Sequence) and not isinstance(output, str) and output:
        return f"a {kind} that begins with {_described(output[0])}"
    return f"an object of type {kind}"


def refuse_uninitialised(network: nn.Module, name: str) -> None:
    """Refuse a network with lazy layers that have not seen an image yet: they have no weights."""
    tensors = (*network.named_parameters(), *network.named_buffers())
    lazy = [key for key, tensor in tensors if is_lazy(tensor)]
    if lazy:
        raise OnepixError(
            f"network {name}: {len(lazy)} of its tensors have no shape yet, the first is {lazy[0]}; pass an image "
            "through its lazy layers once, before it is loaded or returned by a factory"
        )


def refuse_script(network: nn.Module, name: str) -> None:
    """Refuse TorchScript where layers are followed."""
    modules = network.named_modules()
    scripted = next((key for key, module in modules if isinstance(module, torch.jit.ScriptModule)), None)
    if scripted is not None:
        where = f"its module {scripted} is" if scripted else "it is"
        raise OnepixError(
            f"network {name}: {where} TorchScript, whose layers cannot be followed; expected a plain torch.nn.Module: "
            "build it by its Python code, and load a state dict"
        )
