"""Gradients of linear forms of the logits with respect to the pixels of images."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from onepix.engine.devices import halving
from onepix.engine.evaluator import exact_float32, filled
from onepix.errors import OnepixError
from onepix.networks.classifier import Classifier
from onepix.networks.gate import telling

PIXELS_PER_PASS = 1 << 14  # activations of a whole pass are in memory at once: 16 images of 32 × 32

Forms = Callable[[Tensor, Tensor], Tensor]


def pixel_gradients(classifier: Classifier, images: Tensor, forms: Forms) -> tuple[Tensor, Tensor]:
    """Return linear forms of the logits and their gradients, by one backward pass for each form.

    All passes have the same shape and, on a CPU, one thread, so that a result depends neither on the other images nor
    on the number of threads (oneDNN divides the backward pass of a convolution among them).

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    images : Tensor
        uint8, shape (N, H, W, C), on the classifier's device.
    forms : callable
        Takes logits, float32, shape (n, classes), and the indices of their images, int64, shape (n,); returns the
        coefficients of M linear forms for each image, shape (n, M, classes).

    Returns
    -------
    values : Tensor
        float64, shape (N, M).
    gradients : Tensor
        float64, shape (N, M, C, H, W): per unit of an 8-bit colour.

    Raises
    ------
    OnepixError
        If the network has no gradient with respect to its input, or its backward pass raises.
    """
    size = max(PIXELS_PER_PASS // (images.shape[1] * images.shape[2]), 1)
    (values, gradients), _ = halving(lambda size: _by_batch(classifier, images, forms, size), size, classifier.name)
    return values, gradients


def _by_batch(classifier: Classifier, images: Tensor, forms: Forms, size: int) -> tuple[Tensor, Tensor]:
    parts = []
    for index in torch.split(torch.arange(len(images), device=images.device), size):
        with telling(f"network {classifier.name} has no gradient"):
            parts.append([part[: len(index)] for part in _of_a_batch(classifier, images, forms, filled(index, size))])
    values, gradients = (torch.cat(part) for part in zip(*parts, strict=True))
    return values, gradients


def _of_a_batch(classifier: Classifier, images: Tensor, forms: Forms, index: Tensor) -> tuple[Tensor, Tensor]:
    batch = images[index]
    with torch.inference_mode(False), torch.enable_grad(), exact_float32(), _one_thread():
        seen = classifier.scaled(batch).detach().requires_grad_()
        # The network may write into its input, which a leaf tensor forbids.
        logits = classifier.logits_of(functools.partial(classifier.network, seen.clone()), batch.shape)
        if not logits.requires_grad:
            raise OnepixError(f"network {classifier.name} has no gradient: its logits do not depend on the image")
        values = (forms(logits.detach(), index.clone()) * logits[:, None]).sum(2)
        gradients = [torch.autograd.grad(form.sum(), seen, retain_graph=True)[0] for form in values.unbind(1)]
    per_unit = torch.stack(gradients, 1).double() / (255 * classifier.std.double())
    return values.detach().double(), per_unit


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
