"""Tracing for one shape of images: what depends on shapes alone is known, what depends on anything else is not."""

import pytest
import torch
from torch import Tensor, fx, nn

from onepix.config.engine import Engine
from onepix.engine.evaluator import Evaluator
from onepix.engine.tracing import trace
from onepix.networks.classifier import Classifier
from onepix.pixels import Perturbation


class Computing(nn.Module):
    """Branches, loops and unpacks by extents, and has a flag that nobody gives."""

    def forward(self, images: Tensor, features: bool = False) -> Tensor:
        count, channels, *extents = images.shape
        if features or images.ndim != 4 or channels < 2:
            return images
        for step in range(extents[0] // 2):
            images = images + step
        if images.size(2) < images.size(3):
            images = images.transpose(2, 3)
        return images.reshape(count, images.shape[1], -1).mean(2) / extents[1]


@pytest.mark.parametrize("shape", [(2, 6, 8), (2, 7, 5), (1, 4, 4)])
def test_code_that_computes_with_extents(shape):
    traced = trace(Computing().eval(), shape)
    for count in (1, 2, 5):
        images = torch.randn(count, *shape)
        assert torch.equal(traced(images), Computing()(images))


def test_amounts_of_padding_are_numbers():
    class Padded(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return nn.functional.pad(maps, (maps.shape[3] % 2, 1, maps.shape[2] % 2, 1))

    nodes = trace(Padded().eval(), (1, 6, 9)).graph.nodes
    assert [node.args[1] for node in nodes if node.op == "call_function"] == [(1, 1, 0, 1)]
    again = trace(trace(Padded().eval(), (1, 6, 9)), (1, 6, 9)).graph.nodes  # a traced network is traced no deeper
    assert [node.op for node in again] == ["placeholder", "call_function", "output"]


def by_count(images: Tensor) -> Tensor:
    return images * 2 if images.shape[0] > 64 else images


def by_total(images: Tensor) -> Tensor:
    return images * 2 if images.shape.numel() > 500 else images


def by_pixels(images: Tensor) -> Tensor:
    return images * 2 if images.argmax().item() == 0 else images


@pytest.mark.parametrize("function", [by_count, by_total, by_pixels])
def test_the_number_of_images_and_their_pixels_are_not_known(function):
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return function(images)

    with pytest.raises(fx.proxy.TraceError, match="control flow"):
        trace(Branching().eval(), (1, 6, 9))


class Remembering(nn.Module):
    """Keeps a tensor that it computes when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)
        self.kept: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        if "scale" not in self.kept:
            self.kept["scale"] = self.layer.weight.abs().mean((1, 2, 3))
        maps = self.layer(images)
        return maps.mean((2, 3)).reshape(maps.shape[0], 4) * self.kept["scale"]


@pytest.mark.parametrize("fold", [True, False])
def test_a_network_that_remembers_keeps_no_tracer(fold):
    classifier = Classifier(Remembering().eval(), 0.5, 0.25).eval()
    evaluator = Evaluator(classifier, Engine(precision="float32", fold=fold, windows=True, micro_batch=4), (9, 8, 1))
    images = torch.randint(0, 256, (1, 9, 8, 1), dtype=torch.uint8)
    change = Perturbation(
        torch.tensor([[0], [4]]), torch.tensor([[7], [4]]), torch.full((2, 1, 1), 255, dtype=torch.uint8)
    )
    owners = torch.zeros(2, dtype=torch.int64)
    found, expected = evaluator.screen(images, owners, change), evaluator.exact(images, owners, change)
    torch.testing.assert_close(found, expected)
