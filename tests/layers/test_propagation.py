"""Propagation maps of networks whose maps are known by hand, and against a naive oracle that holds everything."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from onepix.analysis.maps import measures
from onepix.engine.evaluator import logits
from onepix.errors import OnepixError
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import receptive_fields
from onepix.layers.watching import operator_of
from onepix.networks.build import build
from onepix.networks.classifier import Classifier
from onepix.pixels import Perturbation


def classifier_of(*layers: nn.Module, channels: int = 1) -> Classifier:
    """Wrap layers as a classifier that sees raw pixel values."""
    return Classifier(nn.Sequential(*layers), (0.0,) * channels, (1 / 255,) * channels).eval()


def convolution(kernel, **options) -> nn.Conv2d:
    """Return a convolution with a known kernel, (out, in / groups, y, x), and no bias."""
    weight = torch.tensor(kernel, dtype=torch.float32)
    groups = options.get("groups", 1)
    layer = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], weight.shape[2:], bias=False, **options)
    layer.weight.data = weight
    return layer


def follow(classifier, row, column, value, height=5, width=7, channels=1, background=10, **options):
    """Change one pixel of a plain image and return its maps and measures by layer."""
    clean = torch.full((1, height, width, channels), background, dtype=torch.uint8)
    attacked = clean.clone()
    attacked[0, row, column] = torch.tensor(value, dtype=torch.uint8)
    fields = receptive_fields(classifier.network, (channels, height, width))
    place = np.array([[row]]), np.array([[column]])
    found = {}
    for layer in propagation_maps(classifier, clean, attacked, micro_batch=4, **options):
        measured = measures(layer, fields.get(layer.name), (height, width), *place)
        found[layer.name] = SimpleNamespace(**vars(layer) | measured)
    return found


KERNEL = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]


def test_a_convolution_with_a_known_kernel():
    """A change of 2 appears as twice the kernel, turned round, about the pixel; the peak is the plain interior's."""
    layer = follow(classifier_of(convolution([[KERNEL]], padding=1)), 2, 3, 12)["0"]
    expected = np.zeros((5, 7))
    expected[1:4, 2:5] = 2 * np.array(KERNEL)[::-1, ::-1]
    np.testing.assert_allclose(layer.maximum[0], expected, rtol=1e-6)
    np.testing.assert_allclose(layer.mean[0], expected, rtol=1e-6)
    assert layer.clean_peak.item() == pytest.approx(450)
    assert layer.delta_peak.item() == pytest.approx(18)
    assert layer.reach.item() == pytest.approx(9 / 35)
    assert layer.reach_1pct.item() == pytest.approx(7 / 35)  # 2 · 1 and 2 · 2 are below 4.5
    assert layer.delta_energy.item() == pytest.approx(4 * 285)  # 1² + … + 9²
    assert layer.outside_cone.item() == 0
    weights = np.arange(9, 0, -1) / 45  # by position, row by row
    rows, columns = np.repeat([1, 2, 3], 3), np.tile([2, 3, 4], 3)
    centre = weights @ rows, weights @ columns
    assert layer.distance.item() == pytest.approx(np.hypot(centre[0] - 2, centre[1] - 3), rel=1e-5)
    variance = weights @ ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2)
    assert layer.spread.item() == pytest.approx(np.sqrt(variance), rel=1e-5)
    assert (layer.operator, layer.shape) == ("convolution", (1, 5, 7))


def test_maximum_and_mean_over_channels():
    identity, negative = [[[1.0]]], [[[-3.0]]]
    layer = follow(classifier_of(convolution([identity, negative])), 4, 6, 15)["0"]
    assert layer.maximum[0, 4, 6].item() == pytest.approx(15)  # |−3 · 5|
    assert layer.mean[0, 4, 6].item() == pytest.approx((5 + 15) / 2)
    assert layer.maximum[0].count_nonzero() == 1
    assert layer.clean_peak.item() == pytest.approx(30)


def test_grouped_convolution():
    """Each output channel sees one input channel only."""
    layers = classifier_of(convolution([[[[2.0]]], [[[5.0]]]], groups=2), channels=2)
    layer = follow(layers, 1, 1, (14, 11), channels=2)["0"]
    assert layer.maximum[0, 1, 1].item() == pytest.approx(8)  # max(2 · 4, 5 · 1)
    assert layer.mean[0, 1, 1].item() == pytest.approx(6.5)


def test_stride_and_pooling():
    stride = follow(classifier_of(convolution([[[[1.0]]]], stride=2)), 2, 4, 11)["0"]
    assert stride.shape == (1, 3, 4)
    assert stride.maximum[0].nonzero().tolist() == [[1, 2]]
    missed = follow(classifier_of(convolution([[[[1.0]]]], stride=2)), 1, 4, 11)["0"]
    assert missed.delta_peak.item() == missed.reach.item() == 0
    average = follow(classifier_of(nn.AvgPool2d(2)), 3, 5, 14)["0"]
    assert average.maximum[0].nonzero().tolist() == [[1, 2]]
    assert average.delta_peak.item() == pytest.approx(1)
    unseen = follow(classifier_of(nn.MaxPool2d(2)), 3, 5, 4)["0"]  # darker than its neighbours
    assert unseen.delta_peak.item() == unseen.delta_energy.item() == 0
    assert np.isnan(unseen.distance.item()), "what has died out is nowhere"
    for layer, distance in ((stride, 0), (average, np.hypot(0.5, 0.5))):  # a 2 × 2 window's centre lies between pixels
        assert layer.distance.item() == pytest.approx(distance)
        assert layer.spread.item() == 0


def test_linear_and_pooled_layers_have_maps_of_one_position():
    linear = nn.Linear(35, 2, bias=False)
    linear.weight.data = torch.stack([torch.ones(35), -2 * torch.arange(35.0)])
    layers = follow(classifier_of(nn.AdaptiveAvgPool2d((5, 7)), nn.Flatten(), linear), 1, 2, 13)
    assert layers["2"].maximum.shape == (1, 1, 1)
    assert layers["2"].maximum.item() == pytest.approx(3 * 2 * (7 + 2))  # pixel 9 of 35, change 3
    assert layers["2"].mean.item() == pytest.approx((3 + 54) / 2)
    assert layers["2"].reach.item() == 1
    assert np.isnan([layers["2"].distance.item(), layers["2"].spread.item()]).all(), "there is no space to measure in"
    assert layers["2"].operator == "linear"


class Residual(nn.Module):
    """x + 3x, without an activation at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = convolution([[[[3.0]]]])

    def forward(self, x):
        return x + self.branch(x)


def test_residual_sum_is_a_block():
    layers = follow(classifier_of(Residual()), 0, 0, 12)
    assert list(layers) == ["0.branch", "0"]
    assert [layer.operator for layer in layers.values()] == ["convolution", "block"]
    assert layers["0.branch"].delta_peak.item() == pytest.approx(6)
    assert layers["0"].delta_peak.item() == pytest.approx(8)


def test_an_in_place_relu_does_not_overwrite_what_was_seen_before_it():
    layers = follow(classifier_of(convolution([[[[-1.0]]]]), nn.ReLU(inplace=True)), 2, 2, 20)
    assert layers["0"].clean_peak.item() == pytest.approx(10)
    assert layers["0"].delta_peak.item() == pytest.approx(10)
    assert layers["1"].clean_peak.item() == layers["1"].delta_peak.item() == 0
    assert layers["1"].reach.item() == 0


def test_a_module_used_twice_gives_two_entries():
    shared = convolution([[[[2.0]]]])
    layers = follow(classifier_of(shared, nn.ReLU(), shared), 0, 6, 11)
    assert [(name, layer.delta_peak.item()) for name, layer in layers.items()] == [("0", 2), ("1", 2), ("0#2", 4)]


def naive(classifier, clean, attacked):
    """Keep every output of every followed module, one image at a time, and reduce at the end."""
    results = {}
    for image in range(len(clean)):
        kept = {}
        for moment, batch in (("clean", clean), ("attacked", attacked)):
            handles = [
                module.register_forward_hook(
                    lambda _m, _i, out, kept=kept, key=(name, moment): kept.__setitem__(key, out.detach().clone())
                )
                for name, module in classifier.network.named_modules()
                if operator_of(module) in ("convolution", "activation", "pooling", "linear")
            ]
            classifier(batch[image : image + 1])
            for handle in handles:
                handle.remove()
        for name in dict.fromkeys(name for name, _ in kept):
            before, after = kept[name, "clean"][0].double(), kept[name, "attacked"][0].double()
            change = (before - after).abs()
            results.setdefault(name, []).append((change.amax(0), change.mean(0), before.abs().max()))
    return results


@pytest.mark.parametrize(("architecture", "height", "width"), [("lenet", 32, 32), ("resnet14", 20, 12)])
def test_maps_equal_a_naive_oracle(architecture, height, width):
    classifier, clean, attacked, _ = attacked_noise(architecture, height, width, count=3)
    with torch.no_grad():
        expected = naive(classifier, clean, attacked)
    followed = propagation_maps(classifier, clean, attacked, micro_batch=4)
    layers = [layer for layer in followed if layer.operator != "sum"]  # the oracle knows modules only
    assert [layer.name for layer in layers] == list(expected)
    for layer in layers:
        for image, (maximum, mean, peak) in enumerate(expected[layer.name]):
            scale = float(peak) + 1e-12
            for found, wanted in ((layer.maximum[image], maximum), (layer.mean[image], mean)):
                difference = (
                    found.reshape(wanted.shape).double() if wanted.ndim else found.double().squeeze()
                ) - wanted
                assert difference.abs().max() < 1e-5 * scale
            assert layer.clean_peak[image].item() == pytest.approx(float(peak), rel=1e-5)


def attacked_noise(architecture, height, width, count, channels=3):
    """Return a random network, random images and the images with one random pixel changed."""
    torch.manual_seed(4)
    network = build(architecture, channels=channels)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    classifier = Classifier(network, (0.5,) * channels, (0.25,) * channels).eval()
    generator = torch.Generator().manual_seed(6)
    clean = torch.randint(0, 256, (count, height, width, channels), generator=generator, dtype=torch.uint8)
    change = Perturbation(
        torch.randint(0, height, (count, 1), generator=generator),
        torch.randint(0, width, (count, 1), generator=generator),
        torch.randint(0, 256, (count, 1, channels), generator=generator, dtype=torch.uint8),
    )
    return classifier, clean, change.apply(clean), change


@pytest.mark.parametrize(
    ("architecture", "height", "width", "channels"),
    [("lenet", 32, 32, 1), ("resnet20", 32, 32, 3), ("resnet14", 28, 17, 1)],
)
def test_every_change_lies_inside_the_pixels_forward_cone(architecture, height, width, channels):
    classifier, clean, attacked, change = attacked_noise(architecture, height, width, 12, channels)
    fields = receptive_fields(classifier.network, (channels, height, width))
    rows, columns = change.rows.numpy(), change.columns.numpy()
    inside = spatial = 0
    for layer in propagation_maps(classifier, clean, attacked, micro_batch=8):
        field = fields[layer.name]
        if field is None:
            continue
        outside = layer.maximum.clone()
        for image in range(len(clean)):
            cone = field.cone(rows[image, 0].item(), columns[image, 0].item(), outside.shape[1:])
            inside += int(outside[image][cone].count_nonzero())
            outside[image][cone] = 0
            spatial += 1
        assert outside.count_nonzero() == 0, f"{layer.name} changes outside the cone"
        assert measures(layer, field, (height, width), rows, columns)["outside_cone"].tolist() == [0.0] * 12
    assert spatial >= 12 * 4
    assert inside > 0


def test_what_lies_outside_the_cone_is_counted():
    """Held against the cones of other pixels, far away, every changed position is outside."""
    classifier, clean, attacked, change = attacked_noise("resnet8", 32, 32, 3)
    layer = propagation_maps(classifier, clean, attacked, layers=("conv1",))[0]
    field = receptive_fields(classifier.network, (3, 32, 32))["conv1"]
    far = (change.rows.numpy() + 16) % 32
    outside = measures(layer, field, (32, 32), far, change.columns.numpy())["outside_cone"]
    assert outside.tolist() == layer.maximum.count_nonzero((1, 2)).tolist()
    assert (outside > 0).all()
    both = np.concatenate([far, change.rows.numpy()], 1), np.repeat(change.columns.numpy(), 2, 1)
    assert measures(layer, field, (32, 32), *both)["outside_cone"].tolist() == [0.0] * 3, "the cones of two pixels"


def test_maps_depend_neither_on_company_nor_on_micro_batches_filled_up():
    classifier, clean, attacked, _ = attacked_noise("resnet14", 20, 12, count=7)
    together = propagation_maps(classifier, clean, attacked, micro_batch=8)
    alone = propagation_maps(classifier, clean[5:6], attacked[5:6], micro_batch=8)
    for one, many in zip(alone, together, strict=True):
        assert torch.equal(one.maximum[0], many.maximum[5])
        assert torch.equal(one.clean_peak[0], many.clean_peak[5])


def test_watching_changes_no_logit_and_leaves_no_hook():
    classifier, clean, attacked, _ = attacked_noise("resnet14", 20, 12, count=2)
    before = logits(classifier, clean, 4)
    propagation_maps(classifier, clean, attacked)
    assert torch.equal(logits(classifier, clean, 4), before)
    assert not any(module._forward_hooks for module in classifier.modules())


def test_no_image_still_gives_every_layer():
    classifier, clean, attacked, _ = attacked_noise("lenet", 32, 32, count=1)
    layers = propagation_maps(classifier, clean[:0], attacked[:0])
    assert len(layers) == 11
    assert layers[0].maximum.shape == (0, 28, 28)


def test_layers_by_pattern():
    classifier, clean, attacked, _ = attacked_noise("resnet14", 20, 12, count=1)
    chosen = propagation_maps(classifier, clean, attacked, layers=("layer1.*.relu2", "linear"))
    assert [layer.name for layer in chosen] == ["layer1.0.relu2", "layer1.1.relu2", "linear"]
    normalised = propagation_maps(classifier, clean, attacked, layers=("layer1.0.bn*", "layer1.0", "layer1"))
    assert [(layer.name, layer.operator) for layer in normalised] == [
        ("layer1.0.bn1", "normalisation"),
        ("layer1.0.bn2", "normalisation"),
        ("layer1.0", "block"),
        ("layer1", "container"),
    ]
    with pytest.raises(OnepixError, match="'conv9' fits no layer of the network; did you mean 'conv1'"):
        propagation_maps(classifier, clean, attacked, layers=("conv9",))
