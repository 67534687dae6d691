"""Architectures of the field: sizes from their papers, structure by hand, and that the rest of onepix follows them."""

import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.optimization import fuse
from windowed import computed

from onepix.attacks.attack import attack_images
from onepix.config.attacks import Scan
from onepix.config.engine import Engine
from onepix.config.networks import Recipe
from onepix.engine.evaluator import Evaluator, logit_margin
from onepix.errors import OnepixError
from onepix.files.records import attacked_images
from onepix.images import ImageSet
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import ReceptiveField, receptive_fields
from onepix.layers.watching import EXTRA
from onepix.networks.build import FAMILIES, KINDS, build, family_of
from onepix.networks.classifier import Classifier
from onepix.networks.densenet import DenseLayer
from onepix.networks.training import RECIPES, recipe_for, train
from onepix.networks.wide_resnet import WideBlock
from onepix.pixels import Perturbation

SMALL = ["nin", "allconv", "vgg16", "wrn-10-1", "densenet-bc-10-4", "vit-lite-1-8"]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def lively(architecture: str, classes: int = 10, channels: int = 3) -> nn.Module:
    """Return a network in evaluation mode in which no change dies away, as it would with PyTorch's own weights."""
    torch.manual_seed(0)
    network = build(architecture, classes, channels).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return network


def square(size: int, jump: int, start: int) -> ReceptiveField:
    return ReceptiveField(size=(size, size), jump=(jump, jump), start=(start, start))


def noise(count: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 32, 32, channels), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        # Kernel² · in · out + out. 14,592 + 30,880 + 15,456; 460,992 + 37,056 + 37,056; 331,968 + 37,056 + 1,930.
        ("nin", 966_986),
        # 2,688 + 83,040 + 83,040; 166,080 + 331,968 + 331,968; 331,968 + 37,056 + 1,930.
        ("allconv", 1_369_738),
        # Convolutions without bias, their batch norms, and the linear layers 512 (with batch norm) and 10.
        ("vgg16", 14_710_464 + 8_448 + 262_656 + 1_024 + 5_130),
        ("wrn-28-10", 36_479_194),
        ("densenet-bc-100-12", 769_162),
    ],
)
def test_parameters_to_the_last(architecture, count):
    with torch.device("meta"):
        assert parameters(build(architecture)) == count


@pytest.mark.parametrize(
    ("architecture", "millions", "digits"),
    [  # as the papers' tables round them
        ("allconv", 1.4, 1),  # Springenberg et al., table 3, say 1.3: they cut off
        ("vgg16", 15, 0),  # Li et al., table 1: 1.5e7
        ("wrn-40-2", 2.2, 1),
        ("wrn-40-4", 8.9, 1),
        ("wrn-16-8", 11.0, 1),
        ("wrn-28-10", 36.5, 1),
        ("densenet-bc-100-12", 0.8, 1),
        ("densenet-bc-250-24", 15.3, 1),
        ("densenet-bc-190-40", 25.6, 1),
    ],
)
def test_parameters_of_the_papers(architecture, millions, digits):
    with torch.device("meta"):
        assert round(parameters(build(architecture)) / 1e6, digits) == millions


@pytest.mark.parametrize(("depth", "patch", "millions"), [(7, 4, 3.72), (6, 4, 3.19), (7, 8, 3.74), (7, 16, 3.89)])
def test_parameters_of_vision_transformers(depth, patch, millions):
    """Hassani et al., table 2. Their queries, keys and values have no biases (3 · 256 a block); torchvision's have."""
    with torch.device("meta"):
        network = build(f"vit-lite-{depth}-{patch}")
    assert round((parameters(network) - depth * 768) / 1e6, 2) == millions


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("architecture", SMALL)
def test_output(architecture, channels):
    logits = lively(architecture, 7, channels)(torch.randn(3, channels, 32, 32))
    assert logits.shape == (3, 7)
    assert (logits[0] != logits[1]).any(), "the output depends on the image"


@pytest.mark.parametrize("architecture", ["nin", "allconv", "wrn-10-1", "densenet-bc-10-4"])
def test_images_of_other_sizes(architecture):
    network = lively(architecture, 7, 1)
    assert network(torch.zeros(2, 1, 40, 28)).shape == (2, 7)
    assert network(torch.zeros(2, 1, 21, 33)).shape == (2, 7)


@pytest.mark.parametrize("architecture", SMALL)
def test_every_activation_is_a_module_that_runs_once(architecture):
    network = lively(architecture)
    runs = []
    kinds = (nn.ReLU, nn.GELU, nn.Conv2d)
    chosen = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    for name, module in chosen.items():
        module.register_forward_hook(lambda _module, _inputs, _output, name=name: runs.append(name))
    network(torch.zeros(1, 3, 32, 32))
    assert sorted(runs) == sorted(chosen)
    convolutions = {"nin": 9, "allconv": 9, "vgg16": 13, "wrn-10-1": 9, "densenet-bc-10-4": 9, "vit-lite-1-8": 1}
    activations = {"nin": 8, "allconv": 8, "vgg16": 14, "wrn-10-1": 7, "densenet-bc-10-4": 9, "vit-lite-1-8": 1}
    assert sum(isinstance(module, nn.Conv2d) for module in chosen.values()) == convolutions[architecture]
    assert sum(not isinstance(module, nn.Conv2d) for module in chosen.values()) == activations[architecture]


@pytest.mark.parametrize("architecture", ["nin", "allconv"])
def test_logits_without_linear_layers_are_averages_of_maps(architecture):
    network = lively(architecture)
    seen = {}
    network.conv9.register_forward_hook(lambda _module, _inputs, output: seen.update(maps=output))
    logits = network(torch.randn(2, 3, 32, 32))
    assert seen["maps"].shape == (2, 10, *{"nin": (8, 8), "allconv": (6, 6)}[architecture])
    assert (logits < 0).any(), "what may be negative cannot die at zero"
    torch.testing.assert_close(logits, seen["maps"].mean((2, 3)))


def test_wide_block_by_hand():
    """With identity convolutions and batch norms, a block is x + relu(relu(x)); a new width changes the shortcut."""
    block = WideBlock(2, 2, stride=1).eval()
    assert block.shortcut is None
    for conv in (block.conv1, block.conv2):
        nn.init.dirac_(conv.weight)
    maps = torch.tensor([[[[-1.0, 2.0, -3.0]], [[4.0, -5.0, 6.0]]]])
    expected = torch.tensor([[[[-1.0, 4.0, -3.0]], [[8.0, -5.0, 12.0]]]])
    torch.testing.assert_close(block(maps), expected, rtol=1e-4, atol=0)
    # Without the convolutions, what is left is the shortcut: of the rectified maps, at every second position.
    wider = WideBlock(2, 3, stride=2).eval()
    nn.init.zeros_(wider.conv2.weight)
    nn.init.ones_(wider.shortcut.weight)
    expected = torch.tensor([[[[4.0, 6.0]]]]).expand(1, 3, 1, 2)
    torch.testing.assert_close(wider(maps), expected, rtol=1e-4, atol=0)


def test_wide_resnet_starts_and_ends_as_pre_activation_networks_do():
    network = build("wrn-16-2")
    assert [name for name, _ in network.named_children()] == [
        *("conv1", "layer1", "layer2", "layer3"),
        *("bn", "relu", "avgpool", "linear"),
    ]
    assert [len(stage) for stage in (network.layer1, network.layer2, network.layer3)] == [2, 2, 2]
    shapes = []
    for stage in (network.layer1, network.layer2, network.layer3):
        stage.register_forward_hook(lambda _module, _inputs, output: shapes.append(output.shape[1:]))
    network(torch.zeros(2, 3, 32, 32))
    assert shapes == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]


def test_dense_layer_keeps_its_input_and_adds_maps():
    layer = DenseLayer(5, growth=3)
    maps = torch.randn(2, 5, 6, 4)
    out = layer(maps)
    assert out.shape == (2, 8, 6, 4)
    assert torch.equal(out[:, :5], maps)
    assert layer.conv1.out_channels == 12


def test_dense_blocks_by_hand():
    """DenseNet-BC-40-12: six layers a block. 24 + 6 · 12 = 96, halved to 48; 120 to 60; 132."""
    network = build("densenet-bc-40-12")
    shapes = []
    for name in ("conv1", "block1", "transition1", "block2", "transition2", "block3"):
        part = network.get_submodule(name)
        part.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.zeros(2, 3, 32, 32))
    assert shapes == [
        *((24, 32, 32), (96, 32, 32), (48, 16, 16)),
        *((120, 16, 16), (60, 8, 8), (132, 8, 8)),
    ]


def test_vision_transformer_of_grey_images_keeps_the_initialisation():
    torch.manual_seed(0)
    grey, colour = (build("vit-lite-1-4", channels=channels).conv_proj for channels in (1, 3))
    assert grey.weight.shape == (256, 1, 4, 4)
    assert not grey.bias.any()
    # A normal distribution of standard deviation 1/√(fan-in), here cut off far outside.
    assert grey.weight.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert colour.weight.std().item() == pytest.approx(1 / 48**0.5, rel=0.05)


def test_tokens_of_the_vision_transformer():
    """8 × 8 patches of 4 × 4 pixels and a class token, all of 256 channels, with learnt positions."""
    network = build("vit-lite-2-4")
    seen = {}
    network.encoder.register_forward_hook(lambda _module, _inputs, output: seen.update(shape=output.shape))
    network(torch.zeros(2, 3, 32, 32))
    assert seen["shape"] == (2, 65, 256)
    assert network.encoder.pos_embedding.requires_grad
    assert [block.num_heads for block in network.encoder.layers] == [4, 4]


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ("wrn-27-10", r"depth 6n \+ 4 \(10, 16, 22, 28, …\), got 27"),
        ("wrn-4-10", "got 4"),
        ("wrn-28-0", "width of at least 1, got 0"),
        ("densenet-bc-99-12", r"depth 6n \+ 4 \(10, 16, 22, …, 100, …\), got 99"),
        ("densenet-bc-100-0", "growth of at least 1, got 0"),
        ("vit-lite-0-4", "depth of at least 1, got 0"),
        ("vit-lite-7-5", "patches of 1, 2, 4, 8, 16 or 32, got 5"),
        ("vit-lite-7-0", "patches of 1, 2, 4, 8, 16 or 32, got 0"),
        (
            "vgg17",
            "'vgg17' is unknown; expected lenet.*nin, allconv, vgg16, wrn-28-10.*densenet-bc-100-12.*vit-lite-7-4",
        ),
        ("NIN", "unknown; .*torchvision:NAME or package.module:factory$"),
    ],
)
def test_architectures_that_cannot_be_built(architecture, told):
    with pytest.raises(OnepixError, match=told) as caught:
        build(architecture)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"network architecture '{architecture}'")


@pytest.mark.parametrize(
    ("architecture", "classes", "count"),
    [  # torchvision's own documentation of its weights for 1000 classes
        ("torchvision:resnet18", None, 11_689_512),
        ("torchvision:squeezenet1_1", None, 1_235_496),
        ("torchvision:resnet18", 10, 11_689_512 - 990 * 513),
    ],
)
def test_networks_of_torchvision(architecture, classes, count):
    with torch.device("meta"):
        assert parameters(build(architecture, classes)) == count


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_further_outputs(name):
    """Nothing is warned of, published weights fit, and training sees logits only."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        network = build(f"torchvision:{name}")
    entries = list(network.state_dict())
    assert {entry.split(".")[0] for entry in entries} & {"aux1", "AuxLogits"}
    with torch.device("meta"):
        assert isinstance(network.train()(torch.zeros(2, 3, 299, 299)), torch.Tensor)


@pytest.mark.parametrize(
    ("architecture", "channels", "told"),
    [
        ("torchvision:resnet19", 3, "is unknown to torchvision; did you mean 'resnet18'"),
        ("torchvision:fcn_resnet50", 3, "is unknown to torchvision"),  # segmentation
        ("torchvision:", 3, "is unknown to torchvision; expected one of: alexnet, "),
        ("torchvision:resnet18", 1, "take images of 3 channels, got 1"),
    ],
)
def test_networks_that_torchvision_does_not_have(architecture, channels, told):
    with pytest.raises(OnepixError, match=told) as caught:
        build(architecture, channels=channels)
    assert "\n" not in str(caught.value)


def test_torchvision_is_imported_only_where_it_is_needed():
    program = "import sys, onepix.networks.build as m; m.build('wrn-10-1'); print('torchvision' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_families_and_their_recipes():
    assert set(RECIPES) <= set(FAMILIES)
    members = {
        **{"lenet-k3": "lenet", "resnet110": "resnet", "nin": "nin", "allconv": "allconv", "vgg16": "vgg"},
        **{"wrn-16-8": "wrn", "densenet-bc-40-12": "densenet", "vit-lite-6-4": "vit"},
    }
    for architecture, family in members.items():
        assert family_of(architecture) == family
        assert recipe_for(architecture) == RECIPES[family]
    assert recipe_for("keras-resnet32") == RECIPES["resnet"]
    for other in ("torchvision:resnet18", "mine:make"):
        assert family_of(other) is None
        assert recipe_for(other) == RECIPES["resnet"]
    assert RECIPES["vit"].optimiser == "adamw"
    assert RECIPES["vit"].initialisation == "own"
    for name in ("lenet", "lenet-k3", "resnet20", "nin", "wrn-28-10", "densenet-bc-100-12", "vit-lite-7-4"):
        assert name in KINDS
        assert family_of(name)


# --- What the rest of onepix makes of them.

# Last field by hand: a kernel k adds (k − 1) · jump to its size, padding p moves its start by −p · jump.
LAST_FIELDS = {
    # 5 | pool 7, jump 2 | 15 | pool 19, jump 4 | 27. Starts: −2, −2, −6, −6, −10.
    "nin": ("conv9", square(27, 4, -10)),
    # 3, 5, 7 with jump 2 | 11, 15, 19 with jump 4 | 27 without padding. Starts: −1, −2, −3, −5, −7, −9, −9.
    "allconv": ("conv9", square(27, 4, -9)),
    # As in github.com/google-research/receptive_field.
    "vgg16": ("features", square(212, 32, -90)),
    # 3 | 5, 7 | 9, jump 2: 13 | 17, jump 4: 25. Starts: −1, −2, −3, −4, −6, −8, −12.
    "wrn-10-1": ("relu", square(25, 4, -12)),
    # 3 | 5 | pool 6, jump 2 | 10 | pool 12, jump 4 | 20. Starts: −1, −2, −2, −4, −4, −8.
    "densenet-bc-10-4": ("relu", square(20, 4, -8)),
    "vit-lite-1-8": ("conv_proj", square(8, 8, 0)),
}


@pytest.mark.parametrize("architecture", SMALL)
def test_propagation_is_followed_and_stays_in_the_cone(architecture):
    network = lively(architecture)
    fields = receptive_fields(network, (3, 32, 32))
    last, expected = LAST_FIELDS[architecture]
    assert fields[last] == expected
    clean = noise(1)
    attacked = clean.clone()
    row, column = 9, 22
    attacked[:, row, column] = 255 - attacked[:, row, column]
    layers = propagation_maps(Classifier(network, 0.5, 0.25).eval(), clean, attacked, micro_batch=2)
    assert len({layer.name for layer in layers}) == len(layers)
    followed = {layer.name.removesuffix(EXTRA) for layer in layers}
    kinds = (nn.Conv2d, nn.ReLU, nn.GELU, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, WideBlock, DenseLayer)
    named = {name for name, module in network.named_modules() if isinstance(module, kinds) and "out_proj" not in name}
    # A block that ends with its last layer's output, as torchvision's do, is not followed again.
    assert named - {"encoder.layers.encoder_layer_0.mlp"} <= followed
    for layer in layers:
        changed = layer.maximum[0] > 0
        field = fields.get(layer.name)
        if layer.spatial and field is not None:
            cone = torch.zeros_like(changed)
            cone[field.cone(row, column, tuple(changed.shape))] = True
            assert not (changed & ~cone).any(), layer.name
        assert layer.maximum.isfinite().all()
    assert layers[-1].maximum.shape == (1, 1, 1)
    assert float(layers[-1].maximum) > 0, "the change reaches the logits"


def test_a_class_token_is_told_from_the_patches():
    layers = propagation_maps(Classifier(lively("vit-lite-1-8"), 0.5, 0.25).eval(), noise(1), noise(1))
    shapes = {layer.name: tuple(layer.maximum.shape[1:]) for layer in layers}
    block = "encoder.layers.encoder_layer_0"
    assert shapes["conv_proj"] == shapes[block] == shapes[f"{block}.self_attention"] == (4, 4)
    assert shapes[block + EXTRA] == shapes[f"{block}.self_attention{EXTRA}"] == (1, 1)


@pytest.mark.parametrize("architecture", SMALL)
def test_screening_with_windows_and_folding_agrees_with_the_network(architecture):
    network = lively(architecture)
    classifier = Classifier(network, 0.5, 0.25).eval()
    evaluator = Evaluator(classifier, Engine(precision="float32", windows=True, micro_batch=8), (32, 32, 3))
    assert evaluator.facts["windows"]
    assert evaluator.facts["folded"]
    generator = torch.Generator().manual_seed(2)
    corners = torch.tensor([[0, 0], [0, 31], [31, 0], [31, 31]])
    places = torch.cat([corners, torch.randint(0, 32, (12, 2), generator=generator)])
    colours = torch.randint(0, 256, (16, 1, 3), generator=generator, dtype=torch.uint8)
    candidates = Perturbation(places[:, :1], places[:, 1:], colours)
    images, owners = noise(2), torch.arange(16) % 2
    found = evaluator.screen(images, owners, candidates)
    changed = images[owners].clone()
    for image, (row, column), colour in zip(changed, places.tolist(), colours[:, 0], strict=True):
        image[row, column] = colour
    with torch.inference_mode():
        expected, unchanged = classifier(changed), classifier(images)[owners]
    difference = (found - expected).abs().amax(1)
    effect = (expected - unchanged).abs().amax(1)
    assert (difference < 0.01 * effect + 1e-5 * expected.abs().max()).all()
    assert (effect > 1e-4 * expected.abs().max()).all(), "each change has an effect to be missed"


@pytest.mark.parametrize(
    ("architecture", "first"),
    [  # 5 × 5 up to the pool, and then 4 + 4 of 16: (5 + 3 − 1) / 2 rounded up
        ("nin", [(5, 5)] * 3 + [(8, 8)] * 3),
        ("allconv", [(3, 3), (5, 5), (4, 4), (6, 6), (8, 8), (5, 5)]),
        ("vgg16", [(3, 3), (5, 5), (5, 5), (7, 7)]),
        ("wrn-16-2", [(3, 3), (5, 5), (7, 7)]),
        ("densenet-bc-16-4", [(3, 3), (3, 3), (5, 5), (5, 5), (7, 7)]),
    ],
)
def test_convolutions_are_computed_on_windows(architecture, first):
    assert computed(fuse(build(architecture).eval()), (3, 32, 32))[: len(first)] == first


@pytest.mark.parametrize("architecture", SMALL)
def test_a_scan_on_windows_finds_what_the_network_says(architecture):
    classifier = Classifier(lively(architecture), 0.5, 0.25).eval()
    pictures = noise(1)
    with torch.inference_mode():
        label = classifier(pictures).argmax(1)
    images = ImageSet(pictures.numpy(), label.numpy(), np.arange(1), tuple("abcdefghij"), "made by a test")
    engine = Engine(precision="float32", windows=True, micro_batch=16)
    attacked = attack_images(classifier, images, Scan(method="scan", budget=48, gradient=False), engine, keep_maps=True)
    assert attacked.evaluation["windows"]
    evaluated = np.argwhere(attacked.maps.classes[0] >= 0)
    assert len(evaluated) == 48
    changed = pictures.repeat(48, 1, 1, 1)
    for image, (colour, row, column) in zip(changed, evaluated, strict=True):
        image[row, column] = torch.from_numpy(attacked.maps.colours[0, colour])
    with torch.inference_mode():
        expected = logit_margin(classifier(changed), label.expand(48)).numpy()
        scale = classifier(pictures).abs().max().item()
    found = attacked.maps.margins[0][tuple(evaluated.T)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
    assert np.ptp(expected) > 0
    rebuilt = torch.from_numpy(attacked_images(images.images, attacked.records))
    with torch.inference_mode():
        probability = classifier(rebuilt).softmax(1)[0, label].item()
    assert attacked.records["true_probability_after"].iloc[0] == pytest.approx(probability, rel=1e-4)


# --- Training, on very few images.

# With peak learning rates for a handful of steps; those of the recipes are reached after thousands.
TINY = {"nin": 0.005, "allconv": 0.005, "wrn-10-1": 0.1, "densenet-bc-10-4": 0.1, "vit-lite-1-8": 5e-4}
BATCH = 8


def coloured(count: int) -> ImageSet:
    """Return noisy images whose class is the channel that is lightest."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = generator.integers(0, 120, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 130
    return ImageSet(images.astype(np.uint8), labels, np.arange(count), ("red", "green", "blue"), "made by a test")


def trained(architecture: str, recipe: Recipe, images: ImageSet, folder: Path) -> Classifier:
    torch.manual_seed(5)
    classifier = Classifier(build(architecture, 3), 0.5, 0.25)
    folder.mkdir()
    train(classifier, images, recipe, 5, folder / "checkpoint", "cpu")
    return classifier


def losses(classifier: Classifier, images: ImageSet) -> float:
    with torch.inference_mode():
        return float(F.cross_entropy(classifier(torch.from_numpy(images.images)), torch.from_numpy(images.labels)))


@pytest.mark.parametrize(("architecture", "rate"), TINY.items())
def test_members_of_each_family_learn_and_can_be_repeated(architecture, rate, tmp_path):
    """Precision, optimiser and initialisation are those of their recipes."""
    images = coloured(3 * BATCH)
    update = {"epochs": 4, "batch_size": BATCH, "peak_learning_rate": rate}
    recipe = recipe_for(architecture).model_copy(update=update)
    first, again = (trained(architecture, recipe, images, tmp_path / name) for name in ("first", "again"))
    assert losses(first, images) < 0.9 * math.log(3), "a guess costs log 3"
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_one_step_of_vgg16(tmp_path):
    recipe = recipe_for("vgg16").model_copy(update={"epochs": 1, "batch_size": 4})
    classifier = trained("vgg16", recipe, coloured(4), tmp_path / "once")
    torch.manual_seed(5)
    fresh = build("vgg16", 3)
    for name, module in fresh.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert not torch.equal(module.weight, classifier.network.get_submodule(name).weight)
    assert all(value.isfinite().all() for value in classifier.state_dict().values())
