"""Kinds of networks that are screened on windows: their logits against those of the network itself."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onepix.config.engine import Engine
from onepix.engine.evaluator import Evaluator
from onepix.engine.windows import WindowedNetwork
from onepix.networks.build import build
from onepix.networks.classifier import Classifier
from onepix.pixels import Perturbation

SCREENING = Engine(precision="float32", windows=True, micro_batch=16)


class Same(nn.Module):
    """A convolution that is padded as TensorFlow does it, with amounts from the shape, and only if there are any."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels, kernel, kernel) / kernel)
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:
        assert len(maps.shape) == maps.ndim == 4
        down, right = (
            max((math.ceil(extent / self.stride) - 1) * self.stride + self.kernel - extent, 0)
            for extent in maps.size()[-2:]
        )
        if down > 0 or right > 0:
            maps = F.pad(maps, [right // 2, right - right // 2, down // 2, down - down // 2])
        return F.conv2d(maps, self.weight, None, self.stride)


class FunctionalNorm(nn.BatchNorm2d):
    """Normalises by a function and then rectifies, as in timm: torch.fx enters it."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, 1e-5))


FunctionalNorm.__module__ = __name__


class Tokens(nn.Module):
    """Patches, a token of the class, and attention; of the number of patches, the code asks the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 8, (3, 2), (3, 2))
        self.class_token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(8) for _ in range(3))
        self.first, self.second = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.patches(images)
        count, channels, height, width = maps.shape
        tokens = maps.reshape(count, channels, height * width).permute(0, 2, 1)
        tokens = torch.cat([self.class_token.expand(count, -1, -1), tokens], 1)
        seen = self.norm1(tokens)
        tokens = tokens + self.first(seen, seen, seen, need_weights=False)[0]
        seen = self.norm2(tokens)
        tokens = tokens + self.second(seen, seen, seen, need_weights=False)[0]
        tokens = tokens + self.mlp(self.norm3(tokens))
        return self.head(tokens[:, 0])


def pooled(*layers: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def depthwise(channels: int, times: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    out = channels * times
    return [nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=channels), nn.BatchNorm2d(out), nn.ReLU()]


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "padding by shape": lambda channels: build("keras-resnet14", 5, channels),
    "padding by rule": lambda channels: pooled(
        Same(channels, 6, 4, 2), nn.ReLU(), Same(6, 6, 3, 2), nn.ReLU(), channels=6
    ),
    "functional normalisation": lambda channels: pooled(
        nn.Conv2d(channels, 6, 3, 2, 1),
        FunctionalNorm(6),
        FunctionalNorm(6),
        Same(6, 8, 3, 1),
        FunctionalNorm(8),
        channels=8,
    ),
    "depthwise": lambda channels: pooled(nn.Conv2d(channels, 8, 3), *depthwise(8, 1, 5, 2), channels=8),
    "multiplier": lambda channels: pooled(
        *(nn.Conv2d(channels, 3, 1), *depthwise(3, 4), *depthwise(12, 2, 3, 2)), channels=24
    ),
    "groups": lambda channels: pooled(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.ReLU(), channels=12
    ),
    "concatenations": lambda channels: build("densenet-bc-16-4", 5, channels),
    "tokens": Tokens,
}


def randomised(network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Normalise by statistics near the true ones, that a change is not damped away, and by scales of both signs."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
    network.train()(torch.randn(4, *shape))
    return network.eval()


def candidates(height: int, width: int, channels: int) -> Perturbation:
    """Change the corners, the middles of the edges, the centre, and random pixels."""
    marked = list(itertools.product((0, height // 2, height - 1), (0, width // 2, width - 1)))
    random = torch.stack([torch.randint(height, (20,)), torch.randint(width, (20,))], 1)
    pixels = torch.cat([torch.tensor(marked), random])
    colours = torch.randint(0, 256, (len(pixels), 1, channels), dtype=torch.uint8)
    return Perturbation(pixels[:, :1], pixels[:, 1:], colours)


@pytest.mark.parametrize(("height", "width", "channels"), [(33, 24, 3), (18, 26, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_screened_logits_are_those_of_the_network(kind, height, width, channels):
    torch.manual_seed(5)
    classifier = Classifier(randomised(KINDS[kind](channels), (channels, height, width)), 0.5, 0.25).eval()
    evaluator = Evaluator(classifier, SCREENING, (height, width, channels))
    images = torch.randint(0, 256, (2, height, width, channels), dtype=torch.uint8)
    changes = candidates(height, width, channels)
    owners = torch.arange(len(changes)) % 2
    found, expected = evaluator.screen(images, owners, changes), evaluator.exact(images, owners, changes)
    clean = evaluator.classify(images)[owners]
    scale = expected.abs().max()
    assert evaluator.facts["windows"]
    assert evaluator.facts["folded"]
    assert (found - expected).abs().max() < 2e-5 * scale
    assert ((expected - clean).abs().amax(1) > 2e-4 * scale).sum() > len(changes) / 2  # what is compared is a change
    assert torch.equal(
        evaluator.screen(images, owners.flip(0), changes[torch.arange(len(changes)).flip(0)]), found.flip(0)
    )


def test_the_published_preactivation_network_runs_on_windows():
    network = Classifier(build("keras-resnet32").eval(), 0.5, 0.25).eval()
    assert Evaluator(network, SCREENING, (32, 32, 3)).facts["windows"]


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(*itertools.islice(build("keras-resnet8").layer2[0].children(), 2, 4)),  # padding, convolution
        Same(16, 4, 3, 2),
        nn.Sequential(FunctionalNorm(16), nn.Conv2d(16, 4, 3)),
        nn.Sequential(*depthwise(16, 2)),
    ],
    ids=["padding by shape", "padding by rule", "functional normalisation", "multiplier"],
)
def test_windows_are_worthwhile_from_the_first_convolution_on(network):
    assert WindowedNetwork(network.eval(), (16, 20, 14)).worthwhile
