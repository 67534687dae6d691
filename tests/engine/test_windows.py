"""Windowed evaluation against the network itself, and its windows against cones counted by hand."""

import itertools
from collections.abc import Callable
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import examples
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from windowed import Changes, changes, computed, pictures

from onepix.engine import sliding, windows
from onepix.engine.windows import WindowedNetwork
from onepix.errors import OnepixError
from onepix.networks.build import build
from onepix.networks.weights import bundled, load_network_file


class Lambda(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, maps: Tensor) -> Tensor:
        return self.function(maps, *self.parts)


def randomised(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Give batch normalisation statistics of its own; in float64, a wrong position cannot pass for rounding."""
    torch.manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return network.to(dtype).eval()


def applied(images: Tensor, change: Changes) -> Tensor:
    owners, rows, columns, values = change
    changed = images[owners].clone(memory_format=torch.channels_last)
    changed[torch.arange(len(owners)), :, rows, columns] = values
    return changed


def evaluate(network: nn.Module, images: Tensor, change: Changes, share: float = 1.0) -> tuple[Tensor, WindowedNetwork]:
    """Evaluate on windows; with a share of 1, a map goes over to dense evaluation only where it must."""
    with torch.inference_mode(), mock.patch.object(windows, "LARGEST_SHARE", share):
        windowed = WindowedNetwork(network, tuple(images.shape[1:]))
        return windowed(windowed.clean(images), *change), windowed


def agrees(
    network: nn.Module, shape: tuple[int, int, int], share: float = 1.0, rounding: float = 1e-10, inner: int = 12
) -> bool:
    """Compare with the dense network, which must itself see the changes; return whether windows were worthwhile."""
    images = pictures(3, shape, next(network.parameters(), torch.empty(0, dtype=torch.float64)).dtype)
    change = changes(images, inner)
    found, windowed = evaluate(network, images, change, share)
    with torch.inference_mode():
        expected = network(applied(images, change))
        scale = expected.abs().max()
        assert (expected - network(images)[change[0]]).abs().max() > 1e3 * rounding * scale
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() <= rounding * scale
    return windowed.worthwhile


def test_one_convolution_by_hand():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight.data = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    windowed = WindowedNetwork(layer.eval(), (1, 5, 7))
    with torch.no_grad():
        clean = windowed.clean(torch.zeros(2, 1, 5, 7))
        index = torch.tensor([0, 1])
        found = windowed(clean, index, torch.tensor([2, 0]), torch.tensor([3, 6]), torch.tensor([[1.0], [10.0]]))
    expected = torch.zeros(2, 1, 5, 7)
    # Torch convolves without flipping: a single pixel leaves the kernel turned by half a turn.
    expected[0, 0, 1:4, 2:5] = torch.tensor([[9.0, 8, 7], [6, 5, 4], [3, 2, 1]])
    expected[1, 0, :2, 5:] = 10 * torch.tensor([[6.0, 5], [3, 2]])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


LAYERS = [
    *(
        nn.Conv2d(3, 4, kernel, stride, padding)
        for kernel, stride, padding in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2))
    ),
    nn.Conv2d(3, 4, 3, padding=4),
    nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    nn.Conv2d(3, 4, 3, stride=2, dilation=3),
    nn.Conv2d(3, 6, 3, padding=1, groups=3),
    nn.Conv2d(3, 4, (1, 5), (2, 1), (0, 2)),
    nn.Conv2d(3, 4, (2, 4), padding="same"),
    nn.Conv2d(3, 4, 3, padding="valid"),
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(3, 2, ceil_mode=True),
    nn.MaxPool2d((2, 3), (1, 2), dilation=2),
    nn.MaxPool2d(1, 3),
    nn.AvgPool2d(2),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d((3, 2), 1, divisor_override=5),
    nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 4, 3, 2)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_sliding_layers(layer):
    """Two in a row, so that a window of several positions is slid over too; the second sees a map above zero."""
    channels = 3 if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) else 4
    outputs = 6 if getattr(layer, "groups", 1) == 3 else channels
    first, second = nn.Conv2d(3, 3, 2, padding=1), nn.Conv2d(outputs, 2, 2)
    assert agrees(randomised(nn.Sequential(first, nn.Sigmoid(), layer, second)), (3, 13, 10))


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(3, 3, 2, 2),
        nn.Upsample(scale_factor=2),
        nn.InstanceNorm2d(3),
        nn.Softmax2d(),
        nn.AdaptiveAvgPool2d(3),
        nn.LPPool2d(2, 2),
    ],
    ids=str,
)
def test_other_layers_are_evaluated_densely(layer):
    assert agrees(randomised(nn.Sequential(nn.Conv2d(3, 3, 3), layer, nn.Conv2d(3, 2, 3))), (3, 13, 10))


@pytest.mark.parametrize("kind", sorted(sliding.POINTWISE_MODULES, key=str), ids=lambda kind: kind.__name__)
def test_pointwise_modules(kind):
    layer = kind(4) if kind is nn.BatchNorm2d else kind()
    assert agrees(randomised(nn.Sequential(nn.Conv2d(2, 4, 3, 2), layer, nn.Conv2d(4, 2, 3))), (2, 12, 9))


CONV = (nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 5, padding=2))
BRANCHES: dict[str, Callable[..., Tensor]] = {
    "sum": lambda maps, a, b: a(maps) + b(maps),
    "product": lambda maps, a, b: a(maps).mul(b(maps)) * 2 - 1,
    "identity": lambda maps, a, b: torch.add(b(a(maps)), maps, alpha=2),
    "difference": lambda maps, a, b: 1 - (a(maps) - b(maps)) / 3,
    "concatenation": lambda maps, a, b: torch.cat([a(maps), maps, b(maps)], dim=1),
    "concatenation of rows": lambda maps, a, b: torch.cat([a(maps), b(maps)], 2),
    "column constant": lambda maps, a, b: b(a(maps) * torch.linspace(0, 1, 9, dtype=maps.dtype)),
    "channel constant": lambda maps, a, b: b(a(maps) * torch.tensor([[[2.0]], [[3.0]]], dtype=maps.dtype)),
    "shortcut": lambda maps, a, b: F.pad(maps[:, :, 1::2, ::2], (0, 0, 0, 0, 1, 2)) + b(a(maps))[:, :1, 1::2, ::2],
    "part": lambda maps, a, b: b(a(maps))[:, 1:, 2:-1, 1:] + 1,
    "frame": lambda maps, a, b: b(F.pad(a(maps), (1, -2, 0, 3), value=2.5)),
    "reflection": lambda maps, a, b: b(F.pad(a(maps), (1, 1, 1, 1), mode="reflect")),
    "gate": lambda maps, a, b: b(maps) * a(maps).mean((2, 3), keepdim=True),
    "own kernel": lambda maps, a, b: F.conv2d(b(maps), a.weight[:, :, :2], None, stride=2),
    "dynamic kernel": lambda maps, a, b: F.conv2d(b(maps), a.weight * a(maps).mean(), padding=1),
    "pools": lambda maps, a, b: F.max_pool2d(a(maps), 3, 1, 1) + F.avg_pool2d(b(maps), 3, 1, 1),
    "indices": lambda maps, a, b: a(F.max_pool2d(b(maps), 2, return_indices=True)[0]),
    "chunks": lambda maps, a, b: torch.cat(a(maps).chunk(2, 1)[::-1], 1) + b(maps),
    "strides of even kernels": lambda maps, a, b: F.max_pool2d(a(maps), 1, 2) + F.max_pool2d(b(maps), 2, 2, 0, 1, True),
    "size": lambda maps, a, b: b(a(maps) / maps.shape[2] + maps.size(1) * torch.ones(maps.ndim, dtype=maps.dtype)[0]),
    "attention": lambda maps, a, b: a(maps).flatten(2) @ b(maps).flatten(2).transpose(1, 2),
    "overwriting": lambda maps, a, b: b(F.relu(maps, inplace=True).add_(1)) + a(maps),
    "overwritten before use": lambda maps, a, b: overwritten(a(maps), b),
    "overwritten alias": lambda maps, a, b: overwritten(nn.functional.relu(a(maps)).contiguous(), b),
}


def overwritten(maps: Tensor, layer: nn.Module) -> Tensor:
    """Read a map both before and after it is overwritten."""
    before = layer(maps)
    maps += 1
    between = layer(maps)
    maps.relu_()
    return before + between * maps


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("share", [0.5, 1])
def test_branches(name, share):
    agrees(randomised(Lambda(BRANCHES[name], *CONV)), (2, 12, 9), share)


def test_branches_are_joined_as_windows():
    for name in ("sum", "product", "identity", "difference", "concatenation", "channel constant", "size"):
        last = nn.Conv2d(6 if name == "concatenation" else 2, 1, 1, padding=2)
        in_turn = name in ("identity", "channel constant", "size")
        size = 7 if in_turn else 5  # 3 × 3 and then 5 × 5, or next to each other
        found = computed(randomised(nn.Sequential(Lambda(BRANCHES[name], *CONV), last)), (2, 40, 40))
        assert found[-1] == (size, size), name


SEPARABLE = nn.Sequential(
    nn.Conv2d(1, 8, 3, 2, 1, bias=False),
    nn.BatchNorm2d(8),
    nn.ReLU6(inplace=True),
    nn.Conv2d(8, 8, 5, 2, 2, groups=8),
    nn.SiLU(),
    nn.Conv2d(8, 16, 1),
    nn.BatchNorm2d(16),
    nn.ReLU6(inplace=True),
    nn.Conv2d(16, 16, 3, padding=1, groups=16),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 3),
)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "lenet": (lambda: build("lenet"), (3, 32, 32)),
    "resnet20": (lambda: build("resnet20", channels=1), (1, 32, 24)),
    "separable": (lambda: SEPARABLE, (1, 64, 48)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), (3, 64, 48)),
    "mobilenet": (lambda: torchvision.models.mobilenet_v2(num_classes=5), (3, 64, 48)),
}


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, fused):
    factory, shape = NETWORKS[name]
    network = randomised(factory()).train()
    network(pictures(3, shape))  # batch statistics near the true ones, that a change is not damped away
    network.eval()
    assert agrees(fuse(network) if fused else network, shape, share=0.5, inner=4)


def test_networks_in_float32():
    network = load_network_file(bundled()["resnet20"]).network
    assert agrees(fuse(network), (3, 32, 32), share=0.5, rounding=1e-5)


def sliding(draw: st.DrawFn, channels: int) -> tuple[nn.Module, int]:
    kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, top)] * 2)) for top in (4, 3, 2))
    if draw(st.booleans()):
        out = channels * draw(st.integers(1, 2))
        padding = draw(st.tuples(*[st.integers(0, 3)] * 2))
        groups = draw(st.sampled_from([1, channels]))
        return nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups), out
    padding = tuple(draw(st.integers(0, length // 2)) for length in kernel)
    if draw(st.booleans()):
        return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=draw(st.booleans())), channels
    return nn.AvgPool2d(kernel, stride, padding, count_include_pad=draw(st.booleans())), channels


@st.composite
def stacks(draw: st.DrawFn) -> nn.Module:
    """Draw a few layers, some of them in branches that keep the extents."""
    channels, layers = 2, []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["slide", "slide", "act", "branch"]))
        if kind == "slide":
            layer, channels = sliding(draw, channels)
        elif kind == "act":
            layer = draw(st.sampled_from([nn.ReLU(inplace=True), nn.Hardswish(), nn.BatchNorm2d(channels)]))
        else:
            sizes = draw(st.tuples(*[st.sampled_from([1, 3, 5])] * 2))
            parts = [nn.Conv2d(channels, channels, size, padding=size // 2) for size in sizes]
            join = draw(st.sampled_from(["sum", "product", "identity", "concatenation"]))
            layer = Lambda(BRANCHES[join], *parts)
            channels *= 3 if join == "concatenation" else 1
        layers.append(layer)
    return nn.Sequential(*layers)


@examples(120, derandomize=True)
@given(stacks(), st.integers(6, 16), st.integers(6, 16), st.sampled_from([0.3, 0.5, 1.0]))
def test_random_stacks(network, height, width, share):
    network = randomised(network)
    images = pictures(2, (2, height, width))
    change = changes(images)
    try:
        expected = network(applied(images, change))
    except RuntimeError:  # a map smaller than the kernel
        assume(False)
    found, _ = evaluate(network, images, change, share)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * (1 + float(expected.detach().abs().max())))


def test_windows_grow_by_two_with_every_convolution():
    found = computed(fuse(build("resnet20").eval()), (3, 32, 32))
    first = [(size, size) for size in (3, 5, 7, 9, 11, 13, 15)]
    # A 15 × 15 window, padded by 1, reaches at most (15 + 1) / 2 + 1 = 9 outputs of stride 2; then 9 + 2 = 11 of 16,
    # and 13 × 13 of 16 × 16 is more than half of it.
    assert found == first + [(9, 9), (11, 11)] + [(16, 16)] * 4 + [(8, 8)] * 6


def test_separable_windows():
    # Of stride 2, a kernel of 3 reaches 2 outputs at most, and then one of 5, from these two, (2 + 4) / 2 = 3.
    assert computed(SEPARABLE.float().eval(), (1, 64, 48)) == [(2, 2), (3, 3), (3, 3), (5, 5)]


@pytest.mark.parametrize("name", ["resnet20", "lenet"])
def test_a_candidate_does_not_depend_on_its_company(name):
    network = fuse(load_network_file(bundled()[name]).network)
    images = pictures(4, (3, 32, 32), torch.float32)
    change = tuple(part[:48] for part in changes(images, 60))
    others = tuple(part.roll(5, 0) for part in change)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    windowed = WindowedNetwork(network, (3, 32, 32))
    for reduced in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            clean = windowed.clean(images)
            alone = windowed(clean, *change)
            shuffled = windowed(clean, *(part[order] for part in change))
            mixed = windowed(clean, *(torch.cat([b[:24], a[24:]]) for a, b in zip(change, others, strict=True)))
        assert torch.equal(shuffled, alone[order])
        assert torch.equal(mixed[24:], alone[24:])


def test_bfloat16():
    network = fuse(load_network_file(bundled()["resnet20"]).network)
    images = pictures(4, (3, 32, 32), torch.float32)
    change = changes(images)
    windowed = WindowedNetwork(network, (3, 32, 32))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        clean = windowed.clean(images)
        found, dense = windowed(clean, *change), network(applied(images, change))
    assert {maps.dtype for maps in clean.maps.values()} == {torch.float32, torch.bfloat16}  # the image is not reduced
    assert found.dtype == dense.dtype == torch.bfloat16
    assert (found.float() - dense.float()).abs().max() < 0.1
    with torch.inference_mode():
        exact = network(applied(images, change))
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("name", ["overwriting", "overwritten before use"])
def test_nothing_given_is_changed(name):
    network = randomised(Lambda(BRANCHES[name], *CONV))
    images = pictures(3, (2, 12, 9))
    change = changes(images)
    windowed = WindowedNetwork(network, (2, 12, 9))
    given_before = [tensor.clone() for tensor in (images, *change)]
    with torch.inference_mode():
        clean = windowed.clean(images)
        maps = {key: kept.clone() for key, kept in clean.maps.items()}
        first = windowed(clean, *change)
        assert torch.equal(windowed(clean, *change), first)
    assert all(map(torch.equal, given_before, (images, *change)))
    assert maps
    assert all(torch.equal(clean.maps[key], kept) for key, kept in maps.items())


def test_hooks_see_whole_maps():
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 1, 3)).double().eval()
    network[1].register_forward_hook(lambda _module, _inputs, output: output - output.mean((2, 3), keepdim=True))
    assert agrees(network, (1, 12, 9))


def test_worthwhile():
    assert not WindowedNetwork(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval(), (1, 4, 3)).worthwhile
    assert not WindowedNetwork(nn.Conv2d(1, 1, 3, padding=1).eval(), (1, 4, 4)).worthwhile  # 3 × 3 of 4 × 4
    assert WindowedNetwork(nn.Conv2d(1, 1, 3, padding=1).eval(), (1, 5, 4)).worthwhile  # 9 of 20


def branch_on_values(maps: Tensor) -> Tensor:
    return maps if maps.sum() > 0 else -maps


def write_into_a_part(maps: Tensor, layer: nn.Module) -> Tensor:
    maps = layer(maps)
    maps[:, :, 2:].relu_()
    return maps


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Lambda(branch_on_values), r"cannot trace the network on images \(2, 12, 9\): TraceError"),
        (nn.Conv2d(3, 1, 3), r"cannot trace the network on images \(2, 12, 9\): RuntimeError"),
        (Lambda(write_into_a_part, CONV[0]), "relu_ writes into a part of .*, which is read later"),
    ],
)
def test_networks_that_are_refused(network, message):
    with pytest.raises(OnepixError, match=message) as caught:
        WindowedNetwork(network.float().eval(), (2, 12, 9))
    assert "\n" not in str(caught.value)


def test_training_mode_is_refused():
    with pytest.raises(OnepixError, match="evaluation mode"):
        WindowedNetwork(build("resnet20"), (3, 32, 32))
