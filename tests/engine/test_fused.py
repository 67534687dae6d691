"""Layers that are evaluated with what follows them, against the same nodes one by one."""

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onepix.engine.fused import Prepared, chains, max_pool
from onepix.engine.windows import WindowedNetwork


class Block(nn.Module):
    """Two convolutions whose outputs are joined somehow, and a linear layer with a ReLU."""

    def __init__(self, join: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.relu, self.linear, self.join = nn.ReLU(inplace=True), nn.Linear(2, 4), join

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.linear(self.join(self, images).mean((2, 3))))


def overwritten(block: nn.Module, images: Tensor) -> Tensor:
    """The convolution reads its map before it is overwritten; its sum stands behind the writing."""
    before = block.second(images)
    images.relu_()
    return before + images


# How maps are joined; by convolution, the kinds of nodes that are evaluated together with it.
JOINS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], dict[str, int]]] = {
    "block": (lambda n, x: n.relu(n.second(n.relu(n.first(x))) + x), {"first": 2, "second": 3}),
    "sum": (lambda n, x: n.first(x).add_(n.second(x)), {"first": 1, "second": 2}),
    "in place": (lambda n, x: F.relu_(operator.iadd(n.first(x), x)), {"first": 3}),
    "read twice": (lambda n, x: torch.relu(y := n.first(x)) * y, {"first": 1}),
    "read when rectified": (lambda n, x: n.relu(y := n.first(x)) * y, {"first": 2}),
    "doubled": (lambda n, x: (y := n.first(x)) + y, {"first": 1}),
    "broadcast": (lambda n, x: n.first(x) + x.mean((2, 3), keepdim=True), {"first": 1}),
    "scaled": (lambda n, x: torch.add(n.first(x), x, alpha=2), {"first": 1}),
    "number": (lambda n, x: torch.relu(n.first(x) + 1), {"first": 1}),
    "overwritten": (overwritten, {"second": 1}),
}


@pytest.mark.parametrize("name", JOINS)
def test_chains(name):
    join, expected = JOINS[name]
    traced = WindowedNetwork(Block(join).eval(), (2, 9, 9))._network
    assert {c.layer.name: len(c.inner) + 1 for c in chains(traced).values()} == {**expected, "linear": 2}


@pytest.mark.parametrize("name", JOINS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_what_is_fused_computes_the_same(name, precision):
    torch.manual_seed(1)
    network = Block(JOINS[name][0]).eval()
    nn.init.constant_(network.linear.bias, 1)
    images = torch.randn(3, 2, 9, 9).to(memory_format=torch.channels_last)
    owners, rows, columns = torch.tensor([2, 0, 0, 1]), torch.tensor([0, 4, 8, 3]), torch.tensor([8, 4, 2, 0])
    values = 100 * torch.randn(4, 2)
    changed = images[owners].clone(memory_format=torch.channels_last)
    changed[torch.arange(4), :, rows, columns] = values
    windowed = WindowedNetwork(network, (2, 9, 9))
    with torch.inference_mode(), torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        found = windowed(windowed.clean(images), owners, rows, columns, values)
        expected = network(changed)
    assert found.dtype == expected.dtype
    tolerance = expected.abs().max().item() * (1e-6 if precision == torch.float32 else 0.02)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert expected.float().std(0).max() > 3 * tolerance, "the candidates must differ"


def test_a_prepared_layer_by_hand():
    """2 · (1, −1, 3) + 1 = 3, −1, 7; with (0, −2, −9) these are 3, −3, −2, of which a ReLU leaves the first."""
    layer = nn.Conv2d(1, 1, 1)
    nn.init.constant_(layer.weight, 2)
    nn.init.constant_(layer.bias, 1)
    maps, other = (torch.tensor(row).reshape(1, 1, 1, 3) for row in ([1.0, -1.0, 3.0], [0.0, -2.0, -9.0]))
    with torch.inference_mode():
        for rectified, alone, both in ((False, [3, -1, 7], [3, -3, -2]), (True, [3, 0, 7], [3, 0, 0])):
            prepared = Prepared(layer, rectified)
            assert prepared(maps).flatten().tolist() == alone
            assert prepared(maps, other).flatten().tolist() == both
            assert prepared(maps, other.double()).flatten().tolist() == both, "the sum is of another dtype"
            assert prepared(maps.double()).flatten().tolist() == alone


@pytest.mark.parametrize("extents", [(4, 6), (5, 6), (4, 7)])
@pytest.mark.parametrize("kernel", [((2, 2), (2, 2)), ((2, 2), (1, 2)), ((1, 2), (1, 2))])
def test_maxima_are_those_of_pytorch_to_the_bit(extents, kernel):
    maps = torch.randn(2, 3, *extents, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    maps[0, 1, 1, 1] = torch.nan
    maps[1, 1] = -torch.inf
    torch.testing.assert_close(max_pool(maps, *kernel), F.max_pool2d(maps, *kernel), rtol=0, atol=0, equal_nan=True)


def test_a_layer_with_a_hook_is_in_no_chain():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1))
    assert len(chains(fx.symbolic_trace(network))) == 2
    network[2].register_forward_hook(lambda *_: None)
    assert len(chains(fx.symbolic_trace(network))) == 1
