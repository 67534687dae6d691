"""Which axis is which: tokens and maps laid out rightly, whichever way a network turns them, or left out by name."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from onepix.layers.plan import plan
from onepix.layers.propagation import propagation_maps
from onepix.layers.watching import watching
from onepix.networks.classifier import Classifier


def attacked_pictures(height, width, row, column, channels=3):
    generator = torch.Generator().manual_seed(5)
    clean = torch.randint(0, 256, (2, height, width, channels), generator=generator, dtype=torch.uint8)
    attacked = clean.clone()
    attacked[:, row, column] = 255 - attacked[:, row, column]
    return clean, attacked


def maps_of(network, height, width, row=0, column=0, layers="auto"):
    """Return propagation maps by name, for a change of one pixel."""
    classifier = Classifier(network, 0.5, 0.25).eval()
    clean, attacked = attacked_pictures(height, width, row, column)
    found = propagation_maps(classifier, clean, attacked, layers, micro_batch=4)
    return {layer.name: layer for layer in found}


class Encoder(nn.Module):
    """A ViT of PyTorch's own encoder: patches of 4 × 4, a class token, and as many tokens as channels."""

    def __init__(self, batch_first=False):
        super().__init__()
        self.batch_first = batch_first
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 16, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=batch_first)
        self.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        if self.batch_first:
            return self.head(self.norm(self.transformer(tokens))[:, 0])
        return self.head(self.norm(self.transformer(tokens.transpose(0, 1)))[0])


def encoded_by_hand(network, images):
    """Return the outputs of an encoder's layers, images first, by the formulas of "Attention Is All You Need"."""
    tokens = F.conv2d(images, network.patches.weight, network.patches.bias, 4).flatten(2).transpose(1, 2)
    tokens = torch.cat([network.token.expand(len(images), -1, -1), tokens], 1) + network.positions
    outputs = []
    for layer in network.transformer.layers:
        attention = layer.self_attn
        joint = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in joint.chunk(3, 2))
        weights = (query @ key.transpose(2, 3) / 8**0.5).softmax(3)
        new = F.linear((weights @ value).transpose(1, 2).flatten(2), attention.out_proj.weight, attention.out_proj.bias)
        tokens = layer.norm1(tokens + new)
        tokens = layer.norm2(tokens + layer.linear2(layer.linear1(tokens).clamp(min=0)))
        outputs.append(tokens)
    return outputs


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_encoder_with_tokens_first_is_the_one_written_by_hand(batch_first):
    torch.manual_seed(0)
    network = Encoder(batch_first).eval()  # 5 × 3 patches of images of 20 × 12
    found = maps_of(network, 20, 12, 9, 6)
    clean, attacked = attacked_pictures(20, 12, 9, 6)
    with torch.no_grad():
        both = [encoded_by_hand(network, Classifier(network, 0.5, 0.25).scaled(images)) for images in (clean, attacked)]
    for index, (before, after) in enumerate(zip(*both, strict=True)):
        change = (before - after).abs()
        layer = found[f"transformer.layers.{index}"]
        assert layer.operator == "block"
        assert layer.spatial
        laid_out = change[:, 1:].unflatten(1, (5, 3))
        torch.testing.assert_close(layer.maximum, laid_out.amax(3), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(layer.mean, laid_out.mean(3), rtol=1e-3, atol=1e-5)
        extra = found[f"transformer.layers.{index}@extra"]
        assert not extra.spatial
        torch.testing.assert_close(extra.maximum, change[:, :1].amax(2)[:, None], rtol=1e-3, atol=1e-5)
    assert found["transformer.layers.0.linear1"].maximum.shape == (2, 5, 3)
    assert plan(network, (3, 20, 12)).unfollowed == ()


def test_watching_and_the_fast_path_of_an_encoder_say_the_same():
    torch.manual_seed(0)
    network = Encoder(batch_first=True).eval()
    images = torch.rand(2, 3, 20, 12)
    with torch.inference_mode():
        fast = network(images)
        names: list[str] = []
        with watching(network, "auto", lambda name, *_: names.append(name)):
            followed = network(images)
    assert "transformer.layers.1" in names
    torch.testing.assert_close(followed, fast, rtol=1e-4, atol=1e-5)


class Mixer(nn.Module):
    """MLP-Mixer with 256 channels: a token-mixing layer's output (N, 256, tokens) would fill maps of 16 × 16."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 256, 4, 4)
        self.tokens1, self.tokens2 = nn.Linear(16, 9), nn.Linear(9, 16)
        self.channels = nn.Linear(256, 256)
        self.head = nn.Linear(256, 5)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens + self.tokens2(F.gelu(self.tokens1(tokens.transpose(1, 2)))).transpose(1, 2)
        tokens = tokens + self.channels(tokens)
        return self.head(tokens.mean(1))


def test_channels_that_fill_a_square_are_not_taken_for_a_map():
    network = Mixer().eval()
    found = maps_of(network, 16, 16, 5, 9)
    for name in ("tokens1", "gelu()", "tokens2"):
        assert not found[name].spatial
        assert found[name].maximum.shape == (2, 1, 1)
    for name in ("patches", "add()", "channels", "add()#2"):
        assert found[name].maximum.shape == (2, 4, 4)
    reached = "its output is not laid out as a map"
    assert plan(network, (3, 16, 16)).unfollowed == tuple(
        f"{name}: {reached}" for name in ("tokens1", "gelu()", "tokens2")
    )
    assert found["patches"].maximum[0].nonzero().tolist() == [[1, 2]]


class Turned(nn.Module):
    """Turns maps somehow, lets nn.Identity see them, and takes their mean."""

    def __init__(self, turn):
        super().__init__()
        self.turn, self.seen, self.head = turn, nn.Identity(), nn.Linear(3, 2)

    def forward(self, images):
        self.seen(self.turn(images))
        return self.head(images.mean((2, 3)))


def patches(images, side=2):
    """Return patches as tokens, by reshaping alone."""
    count, channels, height, width = images.shape
    cut = images.reshape(count, channels, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, side * side * channels)


TURNS = {
    "channels last": (lambda x: x.permute(0, 2, 3, 1), (6, 4), (3, 2)),
    "columns before rows": (lambda x: x.transpose(2, 3), (6, 4), (3, 2)),
    "images in the middle": (lambda x: x.permute(2, 0, 1, 3), (6, 4), (3, 2)),
    "images last": (lambda x: x.permute(1, 2, 3, 0), (6, 4), (3, 2)),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), (6, 4), (3, 2)),
    "tokens last": (lambda x: x.flatten(2), (6, 4), (3, 2)),
    "tokens first": (lambda x: x.flatten(2).permute(2, 0, 1), (6, 4), (3, 2)),
    "tokens and laid back": (lambda x: x.flatten(2).transpose(1, 2).unflatten(1, (6, 4)), (6, 4), (3, 2)),
    "tokens before others": (lambda x: F.pad(x.flatten(2), (0, 3)), (6, 4), (3, 2)),
    "tokens after others": (lambda x: torch.cat([x.new_ones(len(x), 3, 2), x.flatten(2)], 2), (6, 4), (3, 2)),
    "patches": (patches, (3, 2), (1, 1)),
    "heads": (lambda x: x.flatten(2).unsqueeze(1).expand(-1, 2, -1, -1), (6, 4), (3, 2)),
    "beside zeros": (lambda x: torch.cat([x, torch.zeros_like(x)], 1), (6, 4), (3, 2)),
    "a layer norm over all": (lambda x: F.layer_norm(x, x.shape[1:]), (6, 4), (3, 2)),
    "written into zeros": (
        lambda x: torch.zeros(len(x), 5, 6, 4).index_copy(1, torch.tensor([0, 2, 4]), x),
        (6, 4),
        (3, 2),
    ),
}


@pytest.mark.parametrize("name", TURNS)
def test_maps_are_laid_out_whichever_way_they_are_turned(name):
    turn, shape, position = TURNS[name]
    layer = maps_of(Turned(turn), 6, 4, 3, 2, ["seen"])["seen"]
    assert layer.maximum.shape == (2, *shape)
    for image in layer.maximum:
        assert image.argmax().item() == position[0] * shape[1] + position[1]


ASTRAY = {
    "flipped": lambda x: x.flip(3),
    "rolled": lambda x: x.roll((2, 1), (2, 3)),
    "tokens column by column": lambda x: x.transpose(2, 3).flatten(2),
    "shuffled": lambda x: x.flatten(2)[:, :, torch.randperm(24, generator=torch.Generator().manual_seed(0))],
    "rows with all that is in them": lambda x: x.permute(0, 2, 3, 1).flatten(2),
    "mixed over positions": lambda x: x.flatten(2) @ torch.linspace(0, 1, 24 * 24).reshape(24, 24),
    "a spectrum": lambda x: torch.fft.rfft2(x).abs(),
    "two maps side by side": lambda x: torch.cat([x, x], 3),
    "tokens twice": lambda x: x.flatten(2).repeat(1, 1, 2),
    "all in one row": lambda x: x.flatten(1),
}


@pytest.mark.parametrize("name", ASTRAY)
def test_what_has_left_its_position_is_not_laid_out(name):
    layer = maps_of(Turned(ASTRAY[name]), 6, 4, 3, 2, ["seen"])["seen"]
    assert not layer.spatial
    assert layer.maximum.shape == (2, 1, 1)


@pytest.mark.parametrize("turn", [lambda x: x.flatten(0, 1), lambda x: torch.cat([x, x]), lambda x: x.mean(0)])
def test_what_has_no_axis_of_images_is_left_out_by_name(turn):
    network = Turned(turn).eval()
    assert maps_of(network, 6, 4, 3, 2, ["seen", "head"]).keys() == {"head"}
    assert plan(network, (3, 6, 4), ["seen"]).unfollowed == ("seen: its output has no axis of images",)


def test_windows_are_left_out_by_name_and_blocks_laid_out():
    torch.manual_seed(0)
    small = {"patch_size": [2, 2], "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": [4, 4]}
    network = torchvision.models.SwinTransformer(**small, num_classes=3).eval()
    found = maps_of(network, 16, 16, 5, 9)
    assert found["features.1.0"].maximum.shape == found["features.1.1"].maximum.shape == (2, 8, 8)
    assert found["features.1.0"].maximum[0].nonzero().tolist() == [[y, x] for y in range(4) for x in range(4, 8)]
    assert not found["features.1.0.attn"].spatial
    listed = plan(network, (3, 16, 16)).unfollowed
    assert "features.*.*.attn (×2): its output is not laid out as a map" in listed
    assert "features.*.*.attn.linear() (×4): its output has no axis of images" in listed


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_reads_rows_which_are_no_map(kind):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader = kind(24, 8, batch_first=True, bidirectional=True)
            self.act, self.head = nn.ReLU(), nn.Linear(16, 2)

        def forward(self, images):
            rows, _ = self.reader(images.permute(0, 2, 3, 1).flatten(2))
            return self.head(self.act(rows)[:, -1])

    network = Reader().eval()
    found = maps_of(network, 8, 8)
    assert list(found) == ["act", "head"]
    assert not found["act"].spatial
    name = "rnn_tanh" if kind is nn.RNN else kind.__name__.lower()
    assert plan(network, (3, 8, 8)).unfollowed == (f"reader.{name}()", "act: its output is not laid out as a map")
    chosen = maps_of(network, 8, 8, layers=["reader"])["reader"]
    assert not chosen.spatial
    assert chosen.shape == (8, 16)
