"""Tries a network before it is attacked: its answer must be a function of the image, and its outputs logits."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from onepix.engine.devices import halving
from onepix.engine.evaluator import exact_float32
from onepix.errors import OnepixError
from onepix.networks.classifier import Classifier

PIXELS, FEWEST, MOST = 1 << 16, 16, 64  # of all images that are tried; the fewest and the most images
REPEATED = 256  # images in all the passes that look for chance, which may act rarely, once something differed
# Of the largest logit. At another index of the batch, a library may round differently, though it does not on the
# processors that were tried; with the same index, the bits must be equal.
ROUNDING = 1e-3
FEW = 4  # images of which whole feature maps are kept, to find a module
UNITY = 1e-3  # a row of probabilities sums to 1 within this
SPREAD = 0.5  # of outputs between 0 and 1 that are taken for those of a sigmoid


@torch.inference_mode()
def tried(classifier: Classifier, images: Tensor, micro_batch: int) -> list[str]:
    """Classify images twice, and in batches with other images, all in one shape; refuse a network that differs.

    On a CPU and, since cuDNN runs deterministically, on a GPU, the logits must be equal to the last bit.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    images : Tensor
        uint8, shape (N, H, W, C), on the classifier's device: 64 are tried, fewer of large images. Made-up images take
        the place of missing ones.
    micro_batch : int
        At most so many images per forward pass, but at least two.

    Returns
    -------
    list of str
        What the user should know though the network can be attacked: its outputs look like probabilities.

    Raises
    ------
    OnepixError
        If the answer is random, or depends on the other images of the batch; names the module that is likely to do it.
    """
    wanted = min(max(PIXELS // (images.shape[1] * images.shape[2]), FEWEST), MOST)
    some = _filled_up(images[:wanted], wanted)
    with exact_float32():
        size = min(max(micro_batch, 2), wanted)
        outputs, _ = halving(lambda size: _tried(classifier, some, size), size, classifier.name)
    return _said_of(outputs, classifier.name)


def _filled_up(images: Tensor, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count - len(images), *images.shape[1:])
    return torch.cat([images, torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(images.device)])


def _tried(classifier: Classifier, images: Tensor, size: int) -> Tensor:
    """Try a network in batches of one size; return the logits of the first whole batches."""
    batches = torch.split(images[: len(images) // size * size], size)
    return torch.cat([_of_a_batch(classifier, batch) for batch in batches])


def _of_a_batch(classifier: Classifier, batch: Tensor) -> Tensor:
    name = classifier.name
    first: Tensor = classifier(batch).clone()  # a network may write its next answer into the same tensor
    again = classifier(batch)
    if not _equal(first, again):
        raise OnepixError(_random(classifier, batch))
    company = batch.clone()
    company[1::2] = 255 - batch[1::2].flip(0)
    mixed, reverse = classifier(company), classifier(batch.flip(0)).flip(0)
    alike = _equal(first[::2], mixed[::2])
    moved = (first - reverse).abs().max() > ROUNDING * first.abs().max()
    if alike and not moved:
        return first
    if any(not _equal(first, classifier(batch)) for _ in range(_repeats(batch))):
        raise OnepixError(_random(classifier, batch))
    index = torch.arange(len(batch), device=batch.device)
    if alike:
        few = index[:FEW]
        where = _likely(classifier, (batch, few), (batch.flip(0), index.flip(0)[:FEW]), exact=False)
        what = f"network {name}: its answer for an image depends on its index in the batch, or on the first image"
    else:
        where = _likely(classifier, (batch, index[::2]), (company, index[::2]))
        what = f"network {name}: its answer for an image depends on the other images of the batch"
    raise OnepixError(
        f"{what}{where}; in evaluation, batch normalisation must use its running statistics, and nothing may be "
        "computed along the first axis"
    )


def _equal(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors have the same bits; NaN equals NaN."""
    return first.shape == second.shape and torch.equal(first.nan_to_num(), second.nan_to_num())


def _repeats(batch: Tensor) -> int:
    return max(REPEATED // len(batch), 1)


def _random(classifier: Classifier, batch: Tensor) -> str:
    index = torch.arange(len(batch), device=batch.device)
    tries = (_likely(classifier, (batch, index), (batch, index)) for _ in range(_repeats(batch)))
    where = next(filter(None, tries), "")
    return (
        f"network {classifier.name} answers differently when it sees the same images again: it is random in "
        f"evaluation, or changes itself{where}; functions such as F.dropout need "
        "training=self.training, and eval() must reach every module"
    )


Mark = int | Tensor  # of a tensor: its digest, or itself


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of a module: what it got and returned for the images that are compared."""

    name: str
    kind: str
    inputs: list[Mark]
    outputs: list[Mark]


def _likely(
    classifier: Classifier, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], exact: bool = True
) -> str:
    """Name the first module that returns something else for the same inputs, in two passes; empty if none is found.

    Parameters
    ----------
    classifier : Classifier
        Its modules are watched.
    one, other : tuple of Tensor
        The images of a pass, and the indices of those that are compared, in order.
    exact : bool
        Compare bits, by digests; otherwise up to rounding, for a few images.
    """
    with contextlib.suppress(Exception):  # not all modules can be watched, such as TorchScript
        passes = (_calls(classifier, *images, exact) for images in (one, other))
        for before, after in zip(*passes, strict=False):
            same = before.name == after.name and _alike(before.inputs, after.inputs)
            if same and not _alike(before.outputs, after.outputs):
                return f"; likely in {repr(before.name) if before.name else 'its own forward'} ({before.kind})"
    return ""


def _alike(some: list[Mark], others: list[Mark]) -> bool:
    return len(some) == len(others) and all(
        one == other if isinstance(one, int) else bool((one - other).abs().max() <= ROUNDING * one.abs().max())
        for one, other in zip(some, others, strict=True)
    )


def _calls(classifier: Classifier, images: Tensor, index: Tensor, exact: bool) -> list[_Call]:
    """Return the calls of modules in one pass, in the order in which they end: a module ends after its parts."""
    calls: list[_Call] = []
    inputs: list[list[Mark]] = []

    def marks(nested: Any) -> list[Mark]:
        return [_mark(_rows(tensor, index, len(images)), exact) for tensor in _flat(nested)]

    def begin(_module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs.append(marks((args, kwargs)))  # before a module that writes into its input

    def end(name: str, module: nn.Module, output: Any) -> None:
        calls.append(_Call(name, type(module).__name__, inputs.pop(), marks(output)))

    with contextlib.ExitStack() as undo:
        for name, module in classifier.network.named_modules():
            undo.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            hook = module.register_forward_hook(lambda module, _, output, name=name: end(name, module, output))
            undo.callback(hook.remove)
        classifier(images)
    return calls


def _mark(tensor: Tensor, exact: bool) -> Mark:
    if exact:
        return hash(tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes())
    return tensor.double().clone()


def _flat(nested: Any) -> Iterator[Tensor]:
    leaves = tree_leaves(nested)
    yield from (leaf for leaf in leaves if isinstance(leaf, Tensor))
    for leaf in leaves:
        if hasattr(leaf, "logits"):  # an object that is no tuple, list or dict
            yield from _flat(leaf.logits)


def _rows(tensor: Tensor, index: Tensor, images: int) -> Tensor:
    """Return the part of a tensor that belongs to some images; all of it if no axis is that of the images."""
    if tensor.ndim and len(tensor) and len(tensor) % images == 0:  # windows of one image lie side by side
        return tensor.reshape(images, -1)[index]
    axis = next((axis for axis, extent in enumerate(tensor.shape) if extent == images), None)
    return tensor.reshape(-1) if axis is None else tensor.index_select(axis, index)


def _said_of(logits: Tensor, name: str) -> list[str]:
    """Say that outputs look like the result of a softmax, log-softmax or sigmoid."""
    given = f"network {name}: its outputs look like"
    cure = "; return what goes into that function instead"
    least, most = float(logits.min()), float(logits.max())
    if least >= 0 and (logits.sum(1) - 1).abs().max() < UNITY and most > least:
        return [
            f"{given} probabilities (each row sums to 1): a softmax of them, as onepix takes it, flattens all "
            f"probabilities, and rounding near 0 and 1 hides differences{cure}"
        ]
    if most <= 0 and logits.logsumexp(1).abs().max() < UNITY < -logits.amax(1).min():  # else a class is certain anyway
        return [
            f"{given} a log-softmax: classes and probabilities stay the same, but logits are rounded once more{cure}"
        ]
    if least > 0 and most <= 1 and most - least > SPREAD:  # zeros come from a ReLU
        return [f"{given} probabilities of a sigmoid (all lie in 0–1): onepix takes a softmax of them{cure}"]
    return []
