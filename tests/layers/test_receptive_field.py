"""Receptive fields against fields derived by hand, published ones, and what pixels really reach."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import examples
from torch import Tensor, nn

from onepix.errors import OnepixError
from onepix.layers.receptive_field import ReceptiveField, receptive_fields
from onepix.networks.lenet import LeNet
from onepix.networks.resnet import CifarResNet

ONE = ReceptiveField(size=(1, 1), jump=(1, 1), start=(0, 0))


def square(size: int, jump: int, start: int) -> ReceptiveField:
    return ReceptiveField(size=(size, size), jump=(jump, jump), start=(start, start))


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor) -> object:
        return self.function(maps)


def field_of(network: nn.Module, shape: tuple[int, int, int] = (4, 12, 10)) -> ReceptiveField | None:
    return receptive_fields(network, shape)[""]


def field_after(
    function: Callable[[Tensor], object], shape: tuple[int, int, int] = (4, 12, 10)
) -> ReceptiveField | None:
    return field_of(Lambda(function), shape)


# Single layers, by hand: (layer, field).
LAYERS = [
    (nn.Conv2d(4, 2, 1), ONE),
    (nn.Conv2d(4, 2, 3), square(3, 1, 0)),
    (nn.Conv2d(4, 2, 3, padding=1), square(3, 1, -1)),
    (nn.Conv2d(4, 2, 3, stride=2, padding=1), square(3, 2, -1)),
    (nn.Conv2d(4, 2, 3, dilation=2), square(5, 1, 0)),
    (nn.Conv2d(4, 2, 3, dilation=2, padding="same"), square(5, 1, -2)),
    (nn.Conv2d(4, 2, 3, padding="valid"), square(3, 1, 0)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), square(3, 1, -1)),
    (nn.Conv2d(4, 2, (3, 5), (1, 2), (1, 2)), ReceptiveField(size=(3, 5), jump=(1, 2), start=(-1, -2))),
    (nn.Conv2d(4, 2, (2, 4), padding="same"), ReceptiveField(size=(2, 4), jump=(1, 1), start=(0, -1))),
    (nn.MaxPool2d(2), square(2, 2, 0)),
    (nn.MaxPool2d(3, 2, 1), square(3, 2, -1)),
    (nn.MaxPool2d(3, 2, ceil_mode=True), square(3, 2, 0)),
    (nn.MaxPool2d(2, 1, dilation=3), square(4, 1, 0)),
    (nn.AvgPool2d(2), square(2, 2, 0)),
    (nn.AvgPool2d((1, 3), padding=(0, 1)), ReceptiveField(size=(1, 3), jump=(1, 3), start=(0, -1))),
    (nn.AvgPool2d(3, 2, 1, count_include_pad=False), square(3, 2, -1)),
    (nn.AdaptiveAvgPool2d((12, 10)), ONE),
    (nn.AdaptiveAvgPool2d((4, None)), ReceptiveField(size=(3, 1), jump=(3, 1), start=(0, 0))),
    (nn.AdaptiveMaxPool2d((6, 2)), ReceptiveField(size=(2, 5), jump=(2, 5), start=(0, 0))),
    (nn.ZeroPad2d((1, 2, 3, 4)), ReceptiveField(size=(1, 1), jump=(1, 1), start=(-3, -1))),
    (nn.BatchNorm2d(4), ONE),
    (nn.ReLU(), ONE),
    (nn.ReLU(inplace=True), ONE),
    (nn.PReLU(4), ONE),
    (nn.GELU(), ONE),
    (nn.Softmax(dim=1), ONE),
    (nn.Dropout(), ONE),
    (nn.ChannelShuffle(2), ONE),
    (nn.LocalResponseNorm(2), ONE),
    (nn.Identity(), ONE),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("layer", "expected"), LAYERS, ids=[str(layer) for layer, _ in LAYERS])
def test_field_of_one_layer(layer: nn.Module, expected: ReceptiveField) -> None:
    assert field_of(layer) == expected


# Layers that keep the shape, or at least two axes of it, and yet look elsewhere.
GLOBAL_LAYERS = [
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((5, 5)),
    nn.Flatten(),
    nn.Linear(10, 10),
    nn.Softmax(dim=-1),
    nn.GroupNorm(2, 4),
    nn.InstanceNorm2d(4),
    nn.LayerNorm([4, 12, 10]),
    nn.BatchNorm2d(4, track_running_stats=False),
    nn.ConvTranspose2d(4, 4, 3, padding=1),
    nn.Upsample(scale_factor=2),
    nn.PixelUnshuffle(2),
    nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    nn.ReflectionPad2d(1),
]


@pytest.mark.parametrize("layer", GLOBAL_LAYERS, ids=str)
def test_layer_without_a_field_of_its_own(layer: nn.Module) -> None:
    assert field_of(layer) is None


def conv(maps: Tensor) -> Tensor:
    """Return a 3 × 3 convolution of any maps, padded to their shape."""
    return F.conv2d(maps, maps.new_ones(4, 4, 3, 3), padding=1)


def write_through_view(maps: Tensor) -> Tensor:
    """Return a tensor that came to hold a convolution by a write through a view of it."""
    out = maps.clone()
    out[:, :2].copy_(conv(maps)[:, :2])
    return out


def write_behind_view(maps: Tensor) -> Tensor:
    """Return a view of a tensor that was written to later."""
    out = maps.clone()
    view = out[:, :2]
    out.copy_(conv(maps))
    return view


def write_to_new(maps: Tensor) -> Tensor:
    """Return the sum with a tensor that came to depend on the image by a write only."""
    out = maps.new_zeros(maps.shape)
    out[:] = conv(maps)
    return maps + out


def write_to_view_of_new(maps: Tensor) -> Tensor:
    out = maps.new_zeros(maps.shape)
    out[:, 1:].add_(conv(maps)[:, 1:])
    return maps + out


FUNCTIONS = [
    (F.relu, ONE),
    (lambda x: x.mul_(2).relu_(), ONE),
    (lambda x: 2 - x / 3, ONE),
    (lambda x: x.mean(1, keepdim=True), ONE),
    (lambda x: x.max(1, keepdim=True)[0], ONE),
    (lambda x: x[:, 1:3], ONE),
    (lambda x: x[:, [3, 0]], ONE),
    (lambda x: torch.cat(x.chunk(2, dim=1)[::-1], 1), ONE),
    (lambda x: x.view(1, 2, 2, 12, 10).transpose(1, 2).reshape(1, 4, 12, 10), ONE),
    (lambda x: F.max_pool2d(x, 2), square(2, 2, 0)),
    (lambda x: F.max_pool2d(x, kernel_size=3, stride=[2], padding=1), square(3, 2, -1)),
    (lambda x: F.max_pool2d(x, 3, 1, return_indices=True)[0], square(3, 1, 0)),
    (lambda x: torch.max_pool2d(x, [2], [2]), square(2, 2, 0)),
    (lambda x: F.conv2d(weight=x.new_ones(1, 4, 1, 1), input=x, stride=2), square(1, 2, 0)),
    (lambda x: x[:, :, ::2, 1::3], ReceptiveField(size=(1, 1), jump=(2, 3), start=(0, 1))),
    (lambda x: x[..., 2:, -3:-1], ReceptiveField(size=(1, 1), jump=(1, 1), start=(2, 7))),
    (lambda x: x[..., 4:], ReceptiveField(size=(1, 1), jump=(1, 1), start=(0, 4))),
    (lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), ONE),
    (lambda x: F.pad(x, (2, 0)), ReceptiveField(size=(1, 1), jump=(1, 1), start=(0, -2))),
    (lambda x: F.pad(x, (-1, -1, -2, 0)), ReceptiveField(size=(1, 1), jump=(1, 1), start=(2, 1))),
    (lambda x: x + conv(x), square(3, 1, -1)),
    (lambda x: torch.cat([x, conv(conv(x))], dim=1), square(5, 1, -2)),
    (lambda x: x[..., ::2, ::2] + x[..., 1::2, 1::2], square(2, 2, 0)),
    # The fields of the branches lie at −1…1 and 1…1 in y: neither holds the other.
    (lambda x: conv(x)[..., :-1, :] + x[..., 1:, :], ReceptiveField(size=(3, 3), jump=(1, 1), start=(-1, -1))),
    (lambda x: x[..., 3:, :] + F.pad(x, (0, 0, 0, -3)), ReceptiveField(size=(4, 1), jump=(1, 1), start=(0, 0))),
    # Another grid that happens to have the shape.
    (lambda x: x[..., :6, :5] + x[..., ::2, ::2], None),
    (lambda x: x * x.mean((2, 3), keepdim=True), None),
    (lambda x: x * x.sum(), None),
    (lambda x: x * x.max(1, keepdim=True)[1], None),
    (lambda x: x * torch.sigmoid(x.flatten(1) @ x.new_ones(480, 4))[..., None, None], None),
    (lambda x: F.conv2d(x, x[:, :, :3, :3]), None),
    (lambda x: F.conv2d(x.new_ones(1, 4, 9, 9), x[:, :, :3, :3]), None),
    (lambda x: x[..., torch.arange(9, -1, -1)], None),
    (lambda x: x[:, :, 0], None),
    (lambda x: x.flip(2), None),
    (lambda x: x.roll(1, 3), None),
    (lambda x: x.cumsum(3), None),
    (lambda x: x.flatten(1), None),
    (lambda x: torch.fft.fft2(x).real, None),
    (lambda x: x.permute(0, 2, 3, 1), None),
    (write_through_view, None),
    (write_behind_view, None),
    (write_to_new, None),
    (write_to_view_of_new, None),
]


@pytest.mark.parametrize(("function", "expected"), FUNCTIONS)
def test_field_of_functions(function: Callable[[Tensor], object], expected: ReceptiveField | None) -> None:
    assert field_after(function) == expected


@pytest.mark.parametrize("function", [lambda x: x.transpose(2, 3), lambda x: x.permute(0, 2, 3, 1), lambda x: x @ x])
@pytest.mark.parametrize("extent", [2, 5])
def test_mixing_is_seen_where_all_axes_are_equally_long(function: Callable[[Tensor], object], extent: int) -> None:
    assert field_after(function, (extent, extent, extent)) is None


@pytest.mark.parametrize("seen", range(4))
def test_mixing_of_a_single_position_is_seen(seen: int) -> None:
    assert field_after(lambda x: x[..., [seen] * 4], (1, 1, 4)) is None


def test_vector_has_no_field_even_if_as_long_as_the_image() -> None:
    assert field_after(lambda x: x.flatten(1), (1, 1, 9)) is None


def test_image_of_one_pixel() -> None:
    assert field_of(nn.Conv2d(1, 1, 3, padding=1), (1, 1, 1)) == square(3, 1, -1)
    assert field_of(nn.AdaptiveAvgPool2d(1), (1, 1, 1)) == ONE


def test_lenet() -> None:
    fields = receptive_fields(LeNet(), (3, 32, 32))
    spatial = {"conv1": square(5, 1, 0), "pool1": square(6, 2, 0), "conv2": square(14, 2, 0), "pool2": square(16, 4, 0)}
    spatial |= {"relu1": spatial["conv1"], "relu2": spatial["conv2"]}
    assert list(fields) == [
        *("conv1", "relu1", "pool1", "conv2", "relu2", "pool2"),
        *("fc1", "relu3", "fc2", "relu4", "fc3", ""),
    ]
    assert fields == {name: spatial.get(name) for name in fields}


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 40, 24)])
def test_resnet20(shape: tuple[int, int, int]) -> None:
    """Each 3 × 3 convolution adds 2 × the jump before it: 1 + 2; + 6 · 2; + 2 + 5 · 4; + 4 + 5 · 8.

    All are padded by 1, so the field of position (0, 0) is centred on pixel (0, 0).
    """
    fields = receptive_fields(CifarResNet(20, channels=shape[0]), shape)
    assert fields["conv1"] == square(3, 1, -1)
    assert fields["layer1"] == square(15, 1, -7)
    assert fields["layer2.0.conv1"] == square(17, 2, -8)
    assert fields["layer2.0.conv2"] == square(21, 2, -10)
    # The sum with the shortcut (size 15) keeps the larger field.
    assert fields["layer2.0.relu2"] == fields["layer2.0"] == square(21, 2, -10)
    assert fields["layer2"] == square(37, 2, -18)
    assert fields["layer3"] == square(81, 4, -40)
    assert fields["avgpool"] is fields["linear"] is None


def conv_relu(channels: int, kernel: int, stride: int = 1, padding: int | None = None) -> list[nn.Module]:
    padding = kernel // 2 if padding is None else padding
    return [nn.Conv2d(channels, 2, kernel, stride, padding), nn.ReLU(inplace=True)]


def alexnet() -> nn.Module:
    """Return the convolutions and pools of AlexNet v2, with two channels."""
    pool = nn.MaxPool2d(3, 2)
    head = [*conv_relu(1, 11, 4, 0), pool, *conv_relu(2, 5), pool]
    return nn.Sequential(*head, *conv_relu(2, 3), *conv_relu(2, 3), *conv_relu(2, 3), pool)


def vgg16() -> nn.Module:
    """Return the convolutions and pools of VGG-16, with two channels."""
    stages = [[*itertools.chain(*(conv_relu(2, 3) for _ in range(n))), nn.MaxPool2d(2)] for n in (2, 2, 3, 3, 3)]
    return nn.Sequential(nn.Conv2d(1, 2, 1), *itertools.chain(*stages))


@pytest.mark.parametrize(("network", "size", "padding"), [(alexnet(), 195, 64), (vgg16(), 212, 90)])
def test_published_fields(network: nn.Module, size: int, padding: int) -> None:
    """Size, stride (32 in both) and padding as listed in github.com/google-research/receptive_field."""
    field = receptive_fields(network, (1, 96, 80))[""]
    assert field == square(size, 32, -padding)


class Shared(nn.Module):
    """Uses one convolution twice, an in-place ReLU thrice, and one module never."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(inplace=True))
        self.same = self.body[1]
        self.unused = nn.Conv2d(1, 1, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.same(self.body(self.body(images)))
        return out


def test_module_used_again_gets_a_number() -> None:
    fields = receptive_fields(Shared(), (1, 6, 9))
    once, twice = square(3, 1, -1), square(5, 1, -2)
    assert list(fields.items()) == [
        *(("body.0", once), ("body.1", once), ("body", once)),
        *(("body.0#2", twice), ("body.1#2", twice), ("body#2", twice)),
        *(("body.1#3", twice), ("", twice)),
    ]


class Mirror(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, maps: Tensor) -> Tensor:
        return torch.from_numpy(maps.numpy()[..., ::-1].copy())


@pytest.mark.parametrize(
    "unseen",
    [
        Lambda(lambda x: torch.from_numpy(np.flip(x.numpy()).copy())),
        Lambda(Mirror.apply),
    ],
)
def test_module_that_torch_cannot_show_sees_the_whole_image(unseen: nn.Module) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unseen = unseen

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = images + self.unseen(images)
            return out

    fields = receptive_fields(Residual(), (4, 6, 5))
    assert fields["unseen"] is None
    assert fields[""] is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_torchscript_is_refused() -> None:
    network = nn.Sequential(nn.ReLU(), torch.jit.script(nn.Conv2d(4, 4, 3))).train()
    with pytest.raises(OnepixError, match=r"^receptive fields: module '1' is TorchScript"):
        receptive_fields(network, (4, 6, 5))
    assert network[0].training
    assert not network[0]._forward_hooks


def test_output_that_is_no_tensor_has_no_field() -> None:
    assert field_after(lambda x: (x, x)) is None


def test_constants_leave_the_field_alone() -> None:
    position = torch.linspace(0, 1, 120).reshape(1, 1, 12, 10)
    assert field_after(lambda x: conv(x) + position) == square(3, 1, -1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_float_type(dtype: torch.dtype) -> None:
    assert field_of(nn.Conv2d(1, 1, 3, dtype=dtype), (1, 5, 6)) == square(3, 1, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    network = CifarResNet(8)
    on_cpu = receptive_fields(network, (3, 32, 24))
    assert receptive_fields(network.cuda(), (3, 32, 24)) == on_cpu


def test_under_inference_mode() -> None:
    with torch.inference_mode():
        assert field_after(write_behind_view) is None
        assert field_of(nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(inplace=True)), (1, 5, 6)) == square(3, 1, 0)


def state_of(network: nn.Module) -> list[object]:
    """Return what a run could have changed: modes, hooks and, as bytes, all weights and buffers."""
    modules = [(module.training, len(module._forward_hooks)) for module in network.modules()]
    return [*modules, *(tensor.detach().numpy().tobytes() for tensor in network.state_dict().values())]


def test_network_is_left_as_it_was() -> None:
    network = CifarResNet(8)
    network.train()
    network.layer1.eval()
    before = state_of(network)
    receptive_fields(network, (3, 16, 16))
    assert state_of(network) == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.is_grad_enabled()


def test_network_is_left_as_it_was_after_an_error() -> None:
    network = LeNet()
    before = state_of(network)
    with pytest.raises(OnepixError) as caught:
        receptive_fields(network, (3, 16, 16))
    assert state_of(network) == before
    assert str(caught.value).startswith(
        "receptive fields: the network (LeNet) cannot run on an image of (channels, height, width) (3, 16, 16): "
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 32), (3, 0, 32), (3, 32.0, 32), (1, 3, 32, 32)])
def test_wrong_shape(shape: tuple[int, int, int]) -> None:
    with pytest.raises(OnepixError, match=r"three positive integers \(channels, height, width\), got \("):
        receptive_fields(nn.Identity(), shape)


def test_cone_by_hand() -> None:
    """A 3 × 5 convolution, stride (1, 2), padding (1, 2): column 3 is seen from columns 1…5 / 2, so by 1 and 2."""
    field = ReceptiveField(size=(3, 5), jump=(1, 2), start=(-1, -2))
    assert field.cone(4, 3, (12, 5)) == (slice(3, 6), slice(1, 3))
    assert field.cone(0, 0, (12, 5)) == (slice(0, 2), slice(0, 2))
    assert field.cone(11, 9, (12, 5)) == (slice(10, 12), slice(4, 5))


def test_cone_is_empty_where_no_position_sees_the_pixel() -> None:
    skipping = ReceptiveField(size=(1, 1), jump=(2, 1), start=(0, 0))
    assert skipping.cone(1, 3, (3, 5)) == (slice(0, 0), slice(3, 4))
    cropped = ReceptiveField(size=(1, 1), jump=(1, 1), start=(2, 0))
    assert cropped.cone(0, 0, (3, 5)) == (slice(0, 0), slice(0, 1))
    assert cropped.cone(7, 0, (3, 5)) == (slice(0, 0), slice(0, 1))


# The oracle: with positive weights and no bias nothing cancels, so the output positions that differ from
# zero for the image of one lit pixel are those that see this pixel.


def positive(network: nn.Module) -> nn.Module:
    network = network.double().eval()
    for name, parameter in network.named_parameters():
        nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.uniform_(parameter, 0.5, 1.5)
    return network


def gradient_support(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """Return a mask (output y, output x, y, x): which pixel has a gradient at which output position."""
    ones = torch.ones(1, *shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda images: network(images).sum((0, 1)), ones)
    return (jacobian != 0).any(dim=(2, 3))


def within(field: ReceptiveField, output: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Return a mask (output y, output x, y, x) of the fields, clipped to the image, from their definition."""
    axes = []
    for axis in (0, 1):
        position, pixel = torch.arange(output[axis])[:, None], torch.arange(shape[axis])
        first = field.start[axis] + position * field.jump[axis]
        axes.append((first <= pixel) & (pixel < first + field.size[axis]))
    return axes[0][:, None, :, None] & axes[1][None, :, None, :]


def unclipped(field: ReceptiveField, output: tuple[int, int], shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the output positions whose fields lie in the image."""
    inside = [
        [i for i in range(count) if 0 <= start + i * jump <= extent - size]
        for count, start, jump, extent, size in zip(output, field.start, field.jump, shape, field.size, strict=True)
    ]
    return list(itertools.product(*inside))


def hull(mask: Tensor) -> Tensor:
    """Return the smallest rectangle around a mask (y, x)."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    out = torch.zeros_like(mask)
    out[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1] = True
    return out


@dataclasses.dataclass(frozen=True)
class Spec:
    """One layer of a random stack; the settings are pairs (y, x)."""

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]

    def build(self) -> nn.Module:
        if self.kind == "conv":
            return nn.Conv2d(1, 1, self.kernel, self.stride, self.padding, self.dilation, bias=False)
        # torch wants a pool's padding to be at most half its kernel.
        padding = (min(self.padding[0], self.kernel[0] // 2), min(self.padding[1], self.kernel[1] // 2))
        return nn.AvgPool2d(self.kernel, self.stride, padding)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


STACKS = st.lists(
    st.builds(
        Spec,
        kind=st.sampled_from(["conv", "conv", "pool"]),
        kernel=pairs(1, 5),
        stride=pairs(1, 3),
        dilation=pairs(1, 2),
        padding=pairs(0, 2),
    ),
    min_size=1,
    max_size=3,
)


def run(specs: list[Spec], shape: tuple[int, int]) -> tuple[ReceptiveField, Tensor]:
    """Return a stack's field and true support; draw again where an image is too small for the stack."""
    network = positive(nn.Sequential(*(spec.build() for spec in specs)))
    try:
        support = gradient_support(network, (1, *shape))
    except RuntimeError as error:
        assume("size" not in str(error))
        raise
    field = receptive_fields(network, (1, *shape))[""]
    assert field is not None
    return field, support


@examples(60)
@given(specs=STACKS, shape=st.tuples(st.integers(9, 14), st.integers(9, 14)))
def test_random_stacks_against_gradients(specs: list[Spec], shape: tuple[int, int]) -> None:
    field, support = run(specs, shape)
    output = (support.shape[0], support.shape[1])
    fields = within(field, output, shape)
    assert not (support & ~fields).any()
    # Padding hides a part of a field, dilation and long strides leave holes: beyond these it is exact.
    for row, column in unclipped(field, output, shape):
        assert torch.equal(hull(support[row, column]), fields[row, column])
    for row, column in itertools.product(range(shape[0]), range(shape[1])):
        cone = torch.zeros(output, dtype=torch.bool)
        cone[field.cone(row, column, output)] = True
        assert torch.equal(cone, fields[:, :, row, column])
        assert not (support[:, :, row, column] & ~cone).any()


@examples(20)
@given(kernels=st.lists(st.sampled_from([(1, 3), (3, 1), (3, 5), (5, 5), (3, 3)]), min_size=1, max_size=3))
def test_padded_stacks_are_exact_everywhere(kernels: list[tuple[int, int]]) -> None:
    """Convolutions padded to their input's shape: fields are full and only the image's border clips them."""
    specs = [Spec("conv", kernel, (1, 1), (1, 1), (kernel[0] // 2, kernel[1] // 2)) for kernel in kernels]
    field, support = run(specs, (8, 11))
    assert torch.equal(support, within(field, (8, 11), (8, 11)))
    for row, column in itertools.product(range(8), range(11)):
        cone = torch.zeros(8, 11, dtype=torch.bool)
        cone[field.cone(row, column, (8, 11))] = True
        assert torch.equal(cone, support[:, :, row, column])


def test_padding_same_with_an_even_kernel_against_gradients() -> None:
    network = positive(nn.Conv2d(1, 1, (4, 2), padding="same", dilation=(1, 3), bias=False))
    field = field_of(network, (1, 9, 7))
    assert field is not None
    support = gradient_support(network, (1, 9, 7))
    for row, column in unclipped(field, (9, 7), (9, 7)):
        assert torch.equal(hull(support[row, column]), within(field, (9, 7), (9, 7))[row, column])
    assert len(unclipped(field, (9, 7), (9, 7))) == 6 * 4


def test_every_layer_of_a_residual_network_against_lit_pixels() -> None:
    """In a ResNet-8 a lit pixel reaches all of a layer's cone; max-pooling and shortcuts included."""
    network = positive(nn.Sequential(nn.MaxPool2d(2, 1), CifarResNet(8, channels=1)))
    shape = (33, 27)
    pixels = [(0, 0), (16, 13), (32, 26), (5, 20), (32, 1)]
    images = torch.zeros(len(pixels), 1, *shape, dtype=torch.float64)
    for image, (row, column) in zip(images, pixels, strict=True):
        image[0, row, column] = 1
    fields = receptive_fields(network, (1, *shape))
    reached: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _module, _args, out, name=name: reached.update({name: (out != 0).any(1)} if out.ndim == 4 else {})
        )
    with torch.no_grad():
        network(images)
    checked = [name for name, field in fields.items() if field and not name.endswith("()")]
    for sum_, relu in (("1.layer1.0.add()", "1.layer1.0.relu2"), ("1.layer3.0.add()", "1.layer3.0.relu2")):
        assert fields[sum_] == fields[relu]
    assert {"0", "1.layer1", "1.layer2.0.relu2", "1.layer3.0.conv2"} <= set(checked)
    for name in checked:
        for mask, (row, column) in zip(reached[name], pixels, strict=True):
            cone = torch.zeros_like(mask)
            cone[fields[name].cone(row, column, tuple(mask.shape))] = True
            assert torch.equal(mask, cone), (name, row, column)


def test_field_centre() -> None:
    """As documented, the centre is start + (size − 1) / 2: pixel (0, 0) for layers padded to their input's shape."""
    field = receptive_fields(CifarResNet(8), (3, 16, 16))["layer2"]
    assert field is not None
    assert [s + (n - 1) / 2 for s, n in zip(field.start, field.size, strict=True)] == [0, 0]
    assert math.prod(field.jump) == 4
