"""A result is a function of the image: what answers differently is refused, and the likely module is named."""

import warnings

import numpy as np
import pytest
import torch
from refusals import refusal
from strange_networks import CASES, Tiny, plain
from torch import nn

import onepix
from onepix.attacks.attack import attack_images
from onepix.config.attacks import Scan
from onepix.config.engine import Engine
from onepix.datasets.bundled import load_bundled
from onepix.engine import trial
from onepix.engine.trial import tried
from onepix.networks.classifier import Classifier


def noise(count, side, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, side, side, channels), generator=generator, dtype=torch.uint8)


def wrapped(case):
    return Classifier(CASES[case][0](), 0.5, 0.25, case).eval()


RANDOM = ["dropping", "rarely_dropping", "kept_dropout", "noisy", "counting"]
MIXING = ["centred", "first_of_all", "batch_statistics", "kept_batch_norm", "attending"]


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("micro_batch", [1, 8, 128])
@pytest.mark.parametrize("case", RANDOM + MIXING)
def test_what_is_no_function_of_the_image_is_refused_and_the_module_named(case, micro_batch, count):
    """With one image, others are made up; with micro-batches of one, two are tried."""
    told = refusal(tried, wrapped(case), noise(count, 16), micro_batch)
    with pytest.raises(AssertionError, match=CASES[case][1]):
        raise AssertionError(told)


@pytest.mark.parametrize("case", ["rarely_dropping", "centred"])
def test_it_is_refused_before_anything_is_attacked(case):
    pictures = load_bundled().select([0, 1])
    told = refusal(lambda: onepix.attack(wrapped(case), pictures.images, pictures.labels, method="scan"))
    with pytest.raises(AssertionError, match=CASES[case][1]):
        raise AssertionError(told)


def test_a_functional_call_is_named_by_the_block_in_which_it_is():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return nn.functional.dropout(self.conv(x), 0.1)

    network = nn.Sequential(nn.ReLU(), Block(), nn.Flatten(), nn.Linear(192, 5))
    assert "; likely in '1' (Block); " in refusal(tried, Classifier(network).eval(), noise(2, 8), 8)


def test_tokens_on_the_first_axis_and_windows_side_by_side_are_told_apart_by_image():
    """The dropout lies behind layers whose tensors have the images on other axes; those before it are not blamed."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.fc = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.drop = nn.Dropout(0.2)

        def forward(self, x):
            tokens = self.first(x.flatten(2).permute(2, 0, 1))  # (T, N, C)
            windows = self.second(tokens.transpose(0, 1).reshape(-1, 8, 4))  # (N · windows, 8, C)
            return self.fc(self.drop(windows).reshape(len(x), -1, 4).mean(1))

        def train(self, mode=True):
            super().train(mode)
            self.drop.train()
            return self

    assert "; likely in 'drop' (Dropout); " in refusal(tried, Classifier(Tokens()).eval(), noise(2, 8), 8)


def test_the_networks_of_onepix_pass():
    images = torch.from_numpy(load_bundled().images)
    for name in ("lenet", "resnet20"):
        assert tried(onepix.bundled_network(name), images, 128) == []


def test_a_network_in_training_mode_is_told_so():
    images = noise(1, 8).numpy()
    assert "network Tiny is in training mode" in refusal(onepix.attack, Classifier(plain().train()), images, [0])
    assert "network EvalIgnored is in training mode" in refusal(
        onepix.attack, Classifier(CASES["eval_ignored"][0]()).eval(), images, [0]
    )


def test_a_network_is_tried_at_most_64_times_in_one_shape():
    sizes = []

    class Sized(Tiny):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    classifier = Classifier(Sized()).eval()
    tried(classifier, noise(100, 32), 128)
    assert sizes == [64] * 4
    sizes.clear()
    tried(classifier, noise(3, 96), 5)
    assert sizes == [5] * 12, "16 images in three whole batches"


# Outputs that are no logits


@pytest.mark.parametrize(
    ("case", "said"), [("softmax", "look like probabilities"), ("log_softmax", "look like a log-softmax")]
)
def test_probabilities_are_warned_of_once_with_the_cure(case, said):
    pictures = load_bundled().select([0, 1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attack_images(wrapped(case), pictures, Scan(method="scan", budget=4), Engine(precision="float32"))
    (warning,) = caught
    assert said in str(warning.message)
    assert str(warning.message).endswith("return what goes into that function instead")
    assert warning.filename == __file__, "the warning points to the caller"


class Constant(nn.Module):
    """Gives the same logits for each image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits), requires_grad=False)

    def forward(self, x):
        return self.logits.expand(len(x), -1) + 0 * x.mean((1, 2, 3))[:, None]


@pytest.mark.parametrize(
    ("logits", "said"),
    [
        ((0.25, 0.75), "each row sums to 1"),
        ((0.9, 0.3, 0.1), "a sigmoid"),
        ((-0.1054, -2.3026), "a log-softmax"),
        ((0.0, -100.0), None),  # the logarithm of a certain class, but as likely plain logits
        ((0.5, 0.5), None),
        ((0.1, 0.2, 0.1), None),
        ((-1.5, 2.5), None),
        ((3.0, -2.0), None),
        ((-1.0, -2.0), None),
    ],
)
def test_which_outputs_look_like_probabilities(logits, said):
    told = tried(Classifier(Constant(*logits)).eval(), noise(1, 8), 4)
    assert len(told) == (said is not None)
    assert said is None or said in told[0]


# Screening


@pytest.mark.parametrize("case", ["shared", "old_weight_norm", "old_spectral_norm"])
def test_a_network_that_folding_would_change_is_screened_as_it_is(case):
    """One convolution with two normalisations behind it; weights that are computed at each call."""
    from onepix.engine.evaluator import Evaluator
    from onepix.pixels import Perturbation

    classifier, images = wrapped(case), noise(4, 16)
    classifier(images)
    evaluator = Evaluator(classifier, Engine(precision="float32", windows=False), (16, 16, 3))
    zeros = torch.zeros(4, 1, dtype=torch.int64)
    candidates = Perturbation(zeros, zeros, torch.zeros(4, 1, 3, dtype=torch.uint8))
    owners = torch.arange(4)
    exact = evaluator.exact(images, owners, candidates)
    torch.testing.assert_close(evaluator.screen(images, owners, candidates), exact, rtol=0, atol=1e-5)
    assert exact.std() > 0.01


def test_a_network_that_cannot_be_copied_is_attacked():
    """It holds a lock, and the tensors of old weight norms have a history."""
    import threading

    for network in (plain(), CASES["old_weight_norm"][0]()):
        network.lock = threading.Lock()
        pictures = load_bundled().select([0])
        classifier = Classifier(network, 0.5, 0.25).eval()
        labels = classifier(torch.from_numpy(pictures.images)).argmax(1).numpy()
        table, _ = onepix.attack(classifier, pictures.images, labels, "scan", budget=20)
        assert table["queries"].tolist() == [20]


def test_code_outside_of_pytorch_is_screened_in_float32():
    from onepix.engine.evaluator import Evaluator

    class ViaNumpy(Tiny):
        def forward(self, x):
            return torch.from_numpy(np.asarray(super().forward(x).detach()) * 2)

    evaluator = Evaluator(Classifier(ViaNumpy()).eval(), Engine(), (8, 8, 3))
    assert evaluator.precision == "float32"


# The published families, with random weights

TORCHVISION = {
    **dict.fromkeys(("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "densenet121"), 64),
    **dict.fromkeys(("vgg11_bn", "regnet_y_400mf", "convnext_tiny", "swin_t", "mnasnet0_5"), 64),
    **{"squeezenet1_1": 96, "alexnet": 96, "googlenet": 96, "inception_v3": 128, "vit_b_32": 224},
}
TIMM = {
    **dict.fromkeys(("resnet18", "convnext_atto", "mobilenetv3_small_050", "efficientnet_lite0", "regnetx_002"), 64),
    **dict.fromkeys(("ghostnet_050", "poolformer_s12", "mobilevit_xxs", "res2net50d"), 64),
    **dict.fromkeys(("vit_tiny_patch16_224", "mixer_s32_224", "levit_128s", "xcit_nano_12_p16_224"), 224),
}


def passes(network, side):
    for module in network.modules():  # heads of zeros would hide everything
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.05)
    assert tried(Classifier(network, 0.5, 0.25).eval(), noise(2, side), 8) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_pass(name):
    from onepix.networks.build import build

    passes(build(f"torchvision:{name}"), TORCHVISION[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timms_networks_pass(name):
    passes(pytest.importorskip("timm").create_model(name, pretrained=False), TIMM[name])


def test_the_tolerance_is_for_the_index_in_the_batch_only(monkeypatch):
    """A difference of one rounding between two passes is refused; between two indices of a batch it is not."""

    class Rounding(Tiny):
        def forward(self, x):
            return super().forward(x) + 1e-6 * torch.arange(len(x))[:, None]

    assert tried(Classifier(Rounding()).eval(), noise(2, 8), 8) == []
    monkeypatch.setattr(trial, "ROUNDING", 0.0)
    assert "depends on its index in the batch" in refusal(tried, Classifier(Rounding()).eval(), noise(2, 8), 8)
