"""Effective receptive fields against gradients known by hand, theory, and theoretical fields."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onepix.errors import OnepixError
from onepix.layers.effective_field import EffectiveField, effective_fields
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import receptive_fields
from onepix.networks.build import build
from onepix.networks.classifier import Classifier


def classifier_of(*layers: nn.Module) -> Classifier:
    """Wrap layers as a classifier that sees values of 0 to 1."""
    return Classifier(nn.Sequential(*layers)).eval()


def convolution(kernel, **options) -> nn.Conv2d:
    """Return a convolution with a known kernel, (out, in, y, x), and no bias."""
    weight = torch.as_tensor(kernel, dtype=torch.float32)
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False, **options)
    layer.weight.data = weight
    return layer


def noise(count: int, height: int, width: int, channels: int = 1, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, channels), generator=generator, dtype=torch.uint8)


def fields_of(classifier: Classifier, images: Tensor, **options) -> dict[str, EffectiveField]:
    return {field.name: field for field in effective_fields(classifier, images, **options)}


def random_classifier(architecture: str, channels: int, **options) -> Classifier:
    """Return a network with random weights and statistics."""
    torch.manual_seed(4)
    network = build(architecture, channels=channels, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return Classifier(network, (0.5,) * channels, (0.25,) * channels).eval()


# By hand


def test_a_convolution_with_a_known_kernel():
    """PyTorch's convolution does not turn its kernel round, so the middle position (2, 3) sees it as it is."""
    kernel = np.array([[1.0, -2.0, 3.0], [0.0, 5.0, -6.0], [7.0, 4.0, -100.0]])
    field = fields_of(classifier_of(convolution(kernel[None, None], padding=1)), noise(3, 5, 7))["0"]
    expected = np.zeros((5, 7))
    expected[1:4, 2:5] = np.abs(kernel) / 100
    np.testing.assert_allclose(field.gradient, expected, rtol=1e-6)
    assert field.gradient.dtype == torch.float32
    assert field.size == pytest.approx(math.sqrt(4))  # 5, 6, 7 and 100 are at least 4.55 % of 100, and 4 is not
    assert field.operator == "convolution"


@pytest.mark.parametrize(("height", "width"), [(1, 6), (6, 1)])
def test_size_and_spread_of_two_pixels(height, width):
    """Squared gradients 16 and 9, 5 pixels apart: the variance is 16 · 9 / 25² · 5² = 5.76."""
    kernel = torch.tensor([4.0, 0, 0, 0, 0, -3]).reshape(1, 1, height, width)
    field = fields_of(classifier_of(convolution(kernel)), noise(2, 10, 11))["0"]
    assert field.spread == pytest.approx(2.4)
    assert field.size == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_stacked_boxes_give_their_convolution(depth):
    boxes = classifier_of(*(convolution(torch.ones(1, 1, 3, 3), padding=1) for _ in range(depth)))
    field = fields_of(boxes, noise(2, 13, 17))[str(depth - 1)]
    profile = np.ones(1)
    for _ in range(depth):
        profile = np.convolve(profile, np.ones(3))
    expected = np.zeros((13, 17))
    expected[6 - depth : 7 + depth, 8 - depth : 9 + depth] = np.outer(profile, profile) / profile.max() ** 2
    np.testing.assert_allclose(field.gradient, expected, rtol=1e-5)
    assert field.size == pytest.approx(math.sqrt((expected >= 0.0455).sum()))


def test_a_deep_stack_tends_to_a_gaussian_far_smaller_than_the_theoretical_field():
    """A box of 3 has variance 2/3, so 24 of them have standard deviation 4 (Luo et al., section 2)."""
    deep = classifier_of(*(convolution(torch.full((1, 1, 3, 3), 1 / 9), padding=1) for _ in range(24)))
    field = fields_of(deep, noise(1, 61, 53))["23"]
    y, x = np.arange(61)[:, None] - 30, np.arange(53) - 26
    np.testing.assert_allclose(field.gradient, np.exp(-(y**2 + x**2) / (2 * 4**2)), atol=0.01)
    assert field.spread == pytest.approx(4, rel=0.02)
    radius = 4 * math.sqrt(2 * math.log(1 / 0.0455))
    assert field.size == pytest.approx(math.sqrt(math.pi) * radius, rel=0.02)
    theoretical = receptive_fields(deep.network, (1, 61, 53))["23"]
    assert theoretical.size == (49, 49)
    assert field.size < 0.4 * 49


def test_a_linear_layer_sees_the_whole_image():
    linear = nn.Linear(35, 1, bias=False)
    linear.weight.data = torch.arange(1.0, 36)[None]
    field = fields_of(classifier_of(nn.Flatten(), linear), noise(2, 5, 7))["1"]
    np.testing.assert_allclose(field.gradient, np.arange(1, 36).reshape(5, 7) / 35, rtol=1e-6)
    assert field.size == pytest.approx(math.sqrt(34))  # 1 / 35 is below 4.55 %
    assert field.operator == "linear"


def test_stride_and_pooling_move_the_middle():
    """Of 3 × 4 positions the middle is (1, 2): its 2 × 2 pixels begin at (2, 4)."""
    field = fields_of(classifier_of(nn.AvgPool2d(2)), noise(2, 6, 8))["0"]
    assert field.gradient.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
    assert field.size == pytest.approx(2)
    assert field.spread == pytest.approx(math.sqrt(0.5))


# Channels, images and signs


def test_channels_that_would_cancel_do_not():
    kernel = torch.tensor([[1.0, 2.0, 4.0]]).reshape(1, 1, 1, 3)
    layers = fields_of(classifier_of(convolution(torch.cat([kernel, -kernel]))), noise(8, 3, 5))
    np.testing.assert_allclose(layers["0"].gradient[1], [0, 0.25, 0.5, 1, 0], rtol=1e-6)


def test_channels_are_added_up_and_image_channels_squared():
    """Three output channels see one pixel each: with (3, 4) over the image's channels, 10 and (−6, 8)."""
    kernel = torch.zeros(3, 2, 1, 3)
    kernel[0, :, 0, 0] = torch.tensor([3.0, 4.0])
    kernel[1, 1, 0, 1] = 10
    kernel[2, :, 0, 2] = torch.tensor([-6.0, 8.0])
    field = fields_of(classifier_of(convolution(kernel)), noise(2, 3, 5, channels=2))["0"]
    np.testing.assert_allclose(field.gradient[1], [0, 0.5, 1, 1, 0], rtol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 2, None])
def test_the_mean_is_over_squares_of_images(micro_batch):
    """A ReLU lets the left pixel through in one image, with weight 3, and the right one in the other, with weight 4."""
    kernel = torch.zeros(2, 1, 1, 2)
    kernel[0, 0, 0, 0], kernel[1, 0, 0, 1] = 3, 4
    layer = convolution(kernel)
    layer.bias = nn.Parameter(torch.tensor([-1.5, -2.0]))  # at half of the full range
    images = torch.zeros(2, 1, 2, 1, dtype=torch.uint8)
    images[0, 0, 0], images[1, 0, 1] = 255, 255
    layers = fields_of(classifier_of(layer, nn.ReLU()), images, micro_batch=micro_batch)
    np.testing.assert_allclose(layers["1"].gradient, [[0.75, 1]], rtol=1e-6)
    alone = fields_of(classifier_of(layer, nn.ReLU()), images[:1])["1"]
    np.testing.assert_allclose(alone.gradient, [[1, 0]], rtol=1e-6)


def test_the_mean_square_is_that_of_the_single_channels():
    """Over many images, random signs give the norm of the Jacobian's columns, here from torch itself."""
    classifier = random_classifier("lenet-k3", 1)
    network, images = classifier.network, noise(1, 32, 32).expand(400, -1, -1, -1)
    field = fields_of(classifier, images, layers=["conv2"])["conv2"]
    features = nn.Sequential(network.conv1, network.relu1, network.pool1, network.conv2)
    jacobian = torch.autograd.functional.jacobian(lambda x: features(x)[0, :, 6, 6], classifier.scaled(images[:1]))
    expected = jacobian.square().sum((0, 1, 2)).sqrt()
    # Of 400 draws the root mean square is off by 1 / √800 = 3.5 % (one standard deviation), and so is the peak.
    np.testing.assert_allclose(field.gradient, expected / expected.max(), atol=0.15)
    assert field.gradient[expected == 0].count_nonzero() == 0


def test_results_are_reproducible_and_signs_are_of_the_seed():
    classifier, images = random_classifier("resnet14", 3), noise(5, 20, 12, 3)
    first, second, other = (effective_fields(classifier, images, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.gradient, two.gradient)
        assert (one.size, one.spread) == (two.size, two.spread)
    assert not torch.allclose(first[-1].gradient, other[-1].gradient, rtol=1e-2)
    assert not torch.allclose(first[0].gradient, other[0].gradient, rtol=1e-2)


@pytest.mark.parametrize("micro_batch", [1, 2, 64])
def test_micro_batches_change_nothing_but_rounding(micro_batch):
    classifier, images = random_classifier("resnet14", 1), noise(5, 20, 12)
    together = effective_fields(classifier, images, micro_batch=5)
    for one, other in zip(together, effective_fields(classifier, images, micro_batch=micro_batch), strict=True):
        np.testing.assert_allclose(one.gradient, other.gradient, rtol=1e-4, atol=1e-5)


def test_a_layer_does_not_depend_on_which_others_are_followed():
    classifier, images = random_classifier("resnet14", 3), noise(2, 20, 12, 3)
    every = fields_of(classifier, images)
    chosen = fields_of(classifier, images, layers=("layer2.*.relu2", "linear"))
    assert list(chosen) == ["layer2.0.relu2", "layer2.1.relu2", "linear"]
    for name, field in chosen.items():
        assert torch.equal(field.gradient, every[name].gradient)
    with pytest.raises(OnepixError, match="'conv9' fits no layer of the network; did you mean 'conv1'"):
        effective_fields(classifier, images, layers=("conv9",))


# Against theoretical fields and propagation maps


@pytest.mark.parametrize(
    ("architecture", "height", "width", "channels"),
    [("lenet", 32, 32, 1), ("lenet", 32, 32, 3), ("resnet14", 20, 12, 1), ("resnet14", 20, 12, 3)],
)
def test_gradients_lie_inside_the_theoretical_field(architecture, height, width, channels):
    classifier, images = random_classifier(architecture, channels), noise(3, height, width, channels)
    theoretical = receptive_fields(classifier.network, (channels, height, width))
    layers = effective_fields(classifier, images)
    maps = propagation_maps(classifier, images[:1], images[:1], micro_batch=2)
    assert [(layer.name, layer.operator) for layer in layers] == [(layer.name, layer.operator) for layer in maps]
    followed = 0
    for layer, shape in zip(layers, (layer.maximum.shape[1:] for layer in maps), strict=True):
        assert layer.gradient.max() == 1
        assert layer.gradient.shape == (height, width)
        field = theoretical[layer.name]
        if field is None:
            continue
        first = [start + n // 2 * jump for start, jump, n in zip(field.start, field.jump, shape, strict=True)]
        rows, columns = (slice(max(at, 0), at + size) for at, size in zip(first, field.size, strict=True))
        outside = layer.gradient.clone()
        outside[rows, columns] = 0
        assert outside.count_nonzero() == 0, layer.name
        assert layer.size <= math.sqrt(math.prod(layer.gradient[rows, columns].shape))
        followed += 1
    assert followed >= 6


# What networks may do


def test_operations_in_place_destroy_nothing():
    inverted = convolution([[[[-1.0]]]])
    layers = fields_of(classifier_of(inverted, nn.ReLU(inplace=True)), noise(2, 3, 5) | 1)
    assert layers["0"].gradient.nonzero().tolist() == [[1, 2]]
    assert layers["1"].gradient.count_nonzero() == 0
    assert math.isnan(layers["1"].size)
    assert math.isnan(layers["1"].spread)


def test_an_operation_in_place_on_what_a_gradient_is_computed_from():
    layers = fields_of(classifier_of(nn.ReLU(inplace=True), nn.Sigmoid(), nn.ReLU(inplace=True)), noise(2, 3, 5))
    assert [layer.gradient.nonzero().tolist() for layer in layers.values()] == [[[1, 2]]] * 3


class Constant(nn.Module):
    """Put out something that no pixel can change a little: a parameter, or whole numbers."""

    def __init__(self, learnt: bool) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 4))
        self.learnt = learnt
        self.linear = nn.Identity()

    def forward(self, images):
        whole = images.flatten(1).argmax(1, keepdim=True)
        return self.linear(self.token.expand(len(images), 4) if self.learnt else whole)


@pytest.mark.parametrize("learnt", [True, False])
def test_a_layer_that_depends_on_no_pixel_has_no_gradient(learnt):
    (field,) = effective_fields(classifier_of(Constant(learnt)), noise(2, 4, 6), layers=["0.linear"])
    assert torch.equal(field.gradient, torch.zeros(4, 6))
    assert math.isnan(field.size)


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Identity()

    def forward(self, images):
        return self.last(images.sqrt())


def test_a_gradient_that_is_not_finite_is_not_called_none():
    (field,) = effective_fields(classifier_of(Root()), torch.zeros(1, 3, 3, 1, dtype=torch.uint8), layers=["0.last"])
    assert field.gradient[1, 1].isnan()
    assert math.isnan(field.size)
    assert math.isnan(field.spread)


class Tokens(nn.Module):
    """Patches of 4 × 4 after a class token that does not see the image, then attention."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 8))
        self.before = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = self.before(torch.cat([self.class_token.expand(len(tokens), 1, 8), tokens], 1))
        if not self.attention.batch_first:
            tokens = tokens.transpose(0, 1)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(tokens[:, 0] if self.attention.batch_first else tokens[0])


def test_tokens_lie_on_the_patch_grid_and_the_class_token_is_apart():
    """Of 3 × 2 patches the middle is (1, 1): rows 4 to 7, columns 4 to 7."""
    torch.manual_seed(0)
    classifier, images = classifier_of(Tokens()), noise(4, 12, 8)
    layers = {name.removeprefix("0."): field for name, field in fields_of(classifier, images).items()}
    summed = ["add()", "add()@extra"]
    assert list(layers) == ["patches", "before", "before@extra", "attention", "attention@extra", *summed, "head"]
    assert [f"0.{name}" for name in layers] == [layer.name for layer in propagation_maps(classifier, images, images)]
    for name in ("patches", "before"):
        seen = layers[name].gradient != 0
        assert seen[4:8, 4:8].all()
        assert seen.sum() == 16
    assert layers["before@extra"].gradient.count_nonzero() == 0
    for name in ("attention", "attention@extra", *summed, "head"):
        assert (layers[name].gradient > 0).all()


class Registers(nn.Module):
    """Two tokens of a pixel each, in two channels that would cancel, and then the image's own pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Identity()

    def forward(self, images):
        pixels = images.flatten(2).transpose(1, 2)
        return self.last(torch.cat([pixels[:, [0, 5]], pixels], 1) * torch.tensor([1.0, -1.0]))


def test_all_tokens_without_a_place_are_taken():
    layers = fields_of(classifier_of(Registers()), noise(16, 3, 4), layers=["0.last"])
    assert list(layers) == ["0.last", "0.last@extra"]
    assert layers["0.last"].gradient.nonzero().tolist() == [[1, 2]]
    assert layers["0.last@extra"].gradient.nonzero().tolist() == [[0, 0], [1, 1]]


def test_tokens_first_and_images_first_give_the_same_fields():
    found = []
    for batch_first in (True, False):
        torch.manual_seed(0)
        found.append(effective_fields(classifier_of(Tokens(batch_first)), noise(4, 12, 8)))
    assert [field.name for field in found[0]] == [field.name for field in found[1]]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.gradient, other.gradient, atol=1e-5, rtol=1e-4)


def test_a_layer_that_does_not_hold_the_images_along_its_first_axis_is_left_out():
    class Windows(nn.Linear):
        def forward(self, images):
            return super().forward(images.reshape(4 * len(images), -1))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.windows = Windows(24, 6)
            self.head = nn.Linear(24, 3)

        def forward(self, images):
            return self.head(self.windows(images).reshape(len(images), -1))

    layers = effective_fields(Classifier(Network(), 0.5, 0.25).eval(), noise(3, 12, 8))
    assert [layer.name for layer in layers] == ["head"]


def test_the_network_is_left_as_it_was():
    classifier, images = random_classifier("resnet14", 3), noise(2, 20, 12, 3)
    classifier.network.conv1.weight.requires_grad_(False)
    before = {name: (value.requires_grad, value.clone()) for name, value in classifier.named_parameters()}
    effective_fields(classifier, images)
    for name, value in classifier.named_parameters():
        assert value.requires_grad == before[name][0]
        assert value.grad is None
        assert torch.equal(value, before[name][1])
    assert not any(module._forward_hooks or module.training for module in classifier.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_come_whatever_the_mode_and_the_frozen_parameters(mode):
    classifier, images = random_classifier("resnet14", 3), noise(2, 20, 12, 3)
    expected = effective_fields(classifier, images)
    classifier.requires_grad_(False)
    with mode():
        found = effective_fields(classifier, images.clone())
        assert not torch.is_grad_enabled()
    assert all(torch.equal(one.gradient, two.gradient) for one, two in zip(expected, found, strict=True))


# Mistakes


def test_no_images():
    with pytest.raises(OnepixError, match=r"^effective receptive fields: no images, expected at least one$"):
        effective_fields(random_classifier("lenet", 1), noise(0, 32, 32))


class Broken(nn.Module):
    """Writes over what its own gradient is computed from."""

    def forward(self, images):
        return images.exp().mul_(2)


@pytest.mark.parametrize(
    ("classifier", "reason"),
    [
        (random_classifier("lenet", 1), r"\(LeNet\) cannot run on an image of .* \(1, 18, 16\): .*mat1 and mat2"),
        (
            classifier_of(Broken(), nn.ReLU()),
            r"Sequential has no gradient on images of .* \(18, 16, 1\): RuntimeError: one of the vari",
        ),
    ],
)
def test_a_network_that_has_no_gradient_is_told_in_one_line(classifier, reason):
    with pytest.raises(OnepixError, match=rf"^effective receptive fields: (the )?network {reason}[^\n]*$"):
        effective_fields(classifier, noise(2, 18, 16))
