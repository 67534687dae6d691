"""Which layers are followed, and token outputs laid back on the image's grid."""

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onepix.layers.axes import Grid
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import receptive_fields
from onepix.layers.watching import EXTRA, feature_maps, operator_of, watching
from onepix.networks.build import build
from onepix.networks.classifier import Classifier


def names_of(network, image, layers="auto"):
    """Return what is seen when a network runs on an image."""
    seen = []
    with torch.no_grad(), watching(network.eval(), layers, lambda *entry: seen.append(entry)):
        network(image)
    return [(name, operator) for name, operator, _ in seen]


@pytest.mark.parametrize(
    ("module", "operator"),
    [
        (nn.Conv2d(1, 1, 1), "convolution"),
        (nn.PReLU(), "activation"),
        (nn.MultiheadAttention(4, 2), "attention"),
        (nn.AdaptiveAvgPool2d(1), "pooling"),
        (nn.Linear(1, 1), "linear"),
        (nn.BatchNorm2d(1), "normalisation"),
        (nn.LayerNorm(1), "normalisation"),
        (nn.Dropout(), "dropout"),
        (nn.Sequential(nn.ReLU()), "container"),
        (nn.Flatten(), "other"),
    ],
)
def test_operators(module, operator):
    assert operator_of(module) == operator


def test_auto_follows_blocks_that_add_something_to_their_last_layer():
    names = names_of(build("resnet8"), torch.zeros(1, 3, 16, 16))
    assert names[:7] == [
        ("conv1", "convolution"),
        ("relu", "activation"),
        ("layer1.0.conv1", "convolution"),
        ("layer1.0.relu1", "activation"),
        ("layer1.0.conv2", "convolution"),
        ("layer1.0.add()", "sum"),
        ("layer1.0.relu2", "activation"),
    ]
    assert "block" not in {operator for _, operator in names}, "each block's output is that of its last activation"


def test_what_is_seen_can_be_replaced():
    """A clone saves an activation from the in-place operation that follows."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True)).eval()
    network[0].weight.data.fill_(-1)
    network[0].bias.data.zero_()
    kept = {}
    with torch.no_grad(), watching(network, "auto", lambda name, _, out: kept.setdefault(name, out).clone()):
        network(torch.ones(1, 1, 2, 2))
    assert (kept["0"] == -1).all()
    assert (kept["1"] == 0).all()


def test_tokens_are_laid_back_row_by_row():
    tokens = torch.arange(7.0)[None, :, None].repeat(1, 1, 2) * torch.tensor([1.0, 10.0])
    maps = feature_maps(tokens, Grid(1, 1, 2, 3, first=1))
    assert maps[""].shape == (1, 2, 2, 3)
    assert maps[""][0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert maps[""][0, 1].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert maps[EXTRA].shape == (1, 2, 1, 1)
    assert maps[EXTRA].flatten().tolist() == [0, 0]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 4), st.integers(0, 2), st.integers(1, 3))
def test_every_token_is_in_its_place(height, width, before, after, channels):
    """Tokens before the grid and behind it are taken apart from it."""
    maps = torch.rand(2, channels, height, width)
    first, last = torch.rand(2, before, channels), torch.rand(2, after, channels)
    tokens = torch.cat([first, maps.flatten(2).transpose(1, 2), last], 1)
    found = feature_maps(tokens, Grid(1, 1, height, width, first=before))
    assert torch.equal(found[""], maps)
    others = torch.cat([first, last], 1).transpose(1, 2)[:, :, None]
    assert torch.equal(found.get(EXTRA, others[..., :0]), others)


def test_channels_may_come_last():
    maps = torch.rand(2, 6, 4, 5)
    last = maps.permute(0, 2, 3, 1)
    assert torch.equal(feature_maps(last, Grid(1, 2, 4, 5))[""], maps)
    assert torch.equal(feature_maps(maps, Grid(2, 3, 4, 5))[""], maps)
    assert torch.equal(feature_maps(maps.mT, Grid(3, 2, 4, 5))[""], maps)


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "mobilenet_v3_small", "squeezenet1_1"])
def test_classifiers_of_torchvision(name):
    """Every layer's maps: no larger than the image, its proportions kept, the same number of images."""
    torch.manual_seed(0)
    small = {"image_size": 64, "num_layers": 2, "hidden_dim": 48, "mlp_dim": 96, "num_heads": 3, "patch_size": 16}
    if name == "vit_b_16":
        network = torchvision.models.VisionTransformer(**small, num_classes=10)
        nn.init.normal_(network.heads.head.weight)  # torchvision starts with zeros
    else:
        network = torchvision.models.get_model(name, weights=None, num_classes=10)
    classifier = Classifier(network, 0.5, 0.25).eval()
    clean = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    attacked = clean.clone()
    attacked[:, 20, 41] = 255 - attacked[:, 20, 41]
    layers = propagation_maps(classifier, clean, attacked, micro_batch=4)
    assert len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        assert layer.maximum.shape[0] == 2
        assert layer.maximum.isfinite().all()
        if layer.spatial:
            height, width = layer.maximum.shape[1:]
            assert height == width <= 64
    assert layers[-1].maximum.shape[1:] == (1, 1)
    assert (layers[-1].maximum > 0).all(), "the change reaches the logits"
    if name == "vit_b_16":
        first = layers[0].maximum[0] > 0
        assert first.nonzero().tolist() == [[1, 2]], "one patch of 16 × 16 holds the pixel"
        names = [layer.name for layer in layers]
        assert "encoder.layers.encoder_layer_1" in names
        assert "encoder.layers.encoder_layer_1.self_attention@extra" in names
        assert receptive_fields(network, (3, 64, 64))["encoder.layers.encoder_layer_1"] is None


class Attending(nn.Module):
    """Tokens of 4 × 4 pixels, attention with tokens first or images first, and a linear layer."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.linear = nn.Linear(8, 3)
        self.batch_first = batch_first

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens if self.batch_first else tokens.transpose(0, 1)
        tokens, _ = self.attention(tokens, tokens, tokens)
        return self.linear(tokens.mean(1 if self.batch_first else 0))


@pytest.mark.parametrize("replacing", [False, True])
def test_tokens_first_or_images_first_is_the_same(replacing):
    seen = []
    for batch_first in (True, False):
        torch.manual_seed(1)
        network = Attending(batch_first).eval()

        def see(name, _operator, output):
            seen.append((name, output))
            return output.clone() if replacing else None

        with torch.no_grad(), watching(network, "auto", see):
            network(torch.arange(2 * 16 * 12.0).reshape(2, 1, 16, 12) / 100)
    assert [name for name, _ in seen] == ["patches", "attention", "mean()", "linear"] * 2
    for (_, one), (_, other) in zip(seen[:4], seen[4:], strict=True):
        torch.testing.assert_close(one, other)
    assert seen[1][1].shape == (2, 12, 8)


def test_an_output_without_the_images_along_its_first_axis_is_left_out():
    class Windows(nn.Module):
        def forward(self, x):
            return x.reshape(len(x) * 4, -1)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.windows = Windows()
            self.relu = nn.ReLU()
            self.linear = nn.Linear(16, 2)

        def forward(self, x):
            return self.linear(self.relu(self.windows(x)).reshape(len(x), -1))

    classifier = Classifier(Network(), 0.5, 0.25).eval()
    clean = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    assert [layer.name for layer in propagation_maps(classifier, clean, clean, micro_batch=4)] == ["linear"]
