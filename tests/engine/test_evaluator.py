"""Evaluation in micro-batches of one shape."""

from unittest import mock

import pytest
import torch
from analytic import blank, rule

from onepix.config.engine import Engine
from onepix.engine.devices import choose_device, choose_micro_batch, choose_precision, keep_memory
from onepix.engine.evaluator import Evaluator, candidate_logits, logit_margin, logits
from onepix.errors import OnepixError
from onepix.networks.build import build
from onepix.networks.classifier import Classifier
from onepix.pixels import Perturbation


@pytest.fixture(scope="module")
def resnet() -> Classifier:
    torch.manual_seed(0)
    return Classifier(build("resnet8"), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).eval()


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 12, 9, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_logits_equal_those_of_one_pass(resnet, count):
    images = pictures(count)
    with torch.inference_mode():
        expected = resnet(images)
    torch.testing.assert_close(logits(resnet, images, 8), expected, rtol=1e-4, atol=1e-5)


def test_an_images_logits_do_not_depend_on_its_company(resnet):
    images = pictures(20)
    together = logits(resnet, images, 8)
    for index in (0, 7, 8, 19):
        assert torch.equal(logits(resnet, images[index : index + 1], 8)[0], together[index])
    assert torch.equal(logits(resnet, images.flip(0), 8).flip(0), together)


def test_candidates_are_applied_to_their_own_image(resnet):
    images = pictures(3)
    owners = torch.tensor([2, 0, 2, 1, 0])
    change = Perturbation(
        torch.tensor([[0], [11], [3], [5], [6]]),
        torch.tensor([[8], [0], [3], [4], [7]]),
        torch.tensor([[[1, 2, 3]], [[255, 0, 9]], [[4, 5, 6]], [[7, 8, 9]], [[0, 0, 0]]], dtype=torch.uint8),
    )
    expected = []
    for n, owner in enumerate(owners):
        image = images[owner].clone()
        image[change.rows[n, 0], change.columns[n, 0]] = change.values[n, 0]
        expected.append(logits(resnet, image[None], 4)[0])
    assert torch.equal(candidate_logits(resnet, images, owners, change, 4), torch.stack(expected))


def test_margin_is_the_true_logit_minus_the_best_other():
    values = torch.tensor([[3.0, 1.0, 2.5], [0.0, -1.0, 4.0], [5.0, 5.0, 1.0]])
    assert logit_margin(values, torch.tensor([0, 1, 0])).tolist() == [0.5, -5.0, 0.0]


def test_a_classifier_takes_bytes_and_scales_them_itself():
    with pytest.raises(TypeError, match=r"uint8 .* got torch\.float32"):
        rule(lambda x: x.sum((1, 2, 3)))(torch.zeros(1, 2, 2, 3))
    seen = []
    network = torch.nn.Module()
    network.forward = lambda scaled: seen.append(scaled) or scaled.sum((2, 3))
    image = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    Classifier(network, (0.5, 0.1, 0.0), (0.5, 0.1, 2.0))(image)
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([-1.0, 1.0, 0.5]))


def test_one_channel_images():
    classifier = rule(lambda x: x[:, 0, 2, 4] - 100.5, channels=1)
    images = torch.from_numpy(blank(2, 3, 5, channels=1).images)
    images[1, 2, 4, 0] = 101
    assert logits(classifier, images, 4).argmax(1).tolist() == [0, 1]


def test_device():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


def test_keeping_memory_changes_no_logit(resnet):
    images = pictures(8)
    before = logits(resnet, images, 8)
    keep_memory()
    assert torch.equal(logits(resnet, images, 8), before)


def test_float32_is_float32_on_a_gpu_too():
    """What cuDNN is allowed to do is read inside the forward pass, and is afterwards what it was before."""
    seen = []

    def margin(scaled):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic))
        return scaled.sum((1, 2, 3))

    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    images = torch.from_numpy(blank(1, 3, 3).images)
    pixel = Perturbation(torch.zeros(1, 1).long(), torch.zeros(1, 1).long(), torch.zeros(1, 1, 3, dtype=torch.uint8))
    logits(rule(margin), images, 1)
    candidate_logits(rule(margin), images, torch.zeros(1).long(), pixel, 1)
    assert seen == [(False, True)] * 2
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before


ENGINES = [
    Engine(precision=precision, fold=fold, windows=windows, micro_batch=8)
    for precision in ("float32", "bfloat16")
    for fold in (False, True)
    for windows in (False, True)
]


def random_candidates(count: int, pixels: int = 1) -> tuple[torch.Tensor, Perturbation]:
    generator = torch.Generator().manual_seed(3)
    owners = torch.randint(0, 3, (count,), generator=generator)
    rows, columns = (torch.randint(0, extent, (count, pixels), generator=generator) for extent in (12, 9))
    values = torch.randint(0, 256, (count, pixels, 3), generator=generator, dtype=torch.uint8)
    return owners, Perturbation(rows, columns, values)


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("pixels", [1, 3])
def test_screening_agrees_with_float32(engine, pixels):
    """Whatever is folded, windowed or rounded, with batch statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    network = build("resnet8")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    classifier = Classifier(network, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)).eval()
    evaluator = Evaluator(classifier, engine, (12, 9, 3))
    owners, candidates = random_candidates(21, pixels)
    images = pictures(3)
    exact = candidate_logits(classifier, images, owners, candidates, 5)
    assert torch.equal(
        evaluator.exact(images, owners, candidates), candidate_logits(classifier, images, owners, candidates, 8)
    )
    tolerance = 0.05 if engine.precision == "bfloat16" else 1e-5
    scale = exact.abs().max().item()
    torch.testing.assert_close(evaluator.screen(images, owners, candidates), exact, rtol=0, atol=tolerance * scale)
    assert evaluator.facts["windows"] == engine.windows
    assert evaluator.facts["folded"] == engine.fold
    assert (exact.std(0) > 2 * tolerance * scale / 100).any(), "the candidates must differ"


def test_the_head_stays_in_float32(resnet):
    """Logits of bfloat16 would have 8 bits."""
    owners, candidates = random_candidates(64)
    screened = Evaluator(resnet, Engine(precision="bfloat16"), (12, 9, 3)).screen(pictures(3), owners, candidates)
    assert screened.dtype == torch.float32
    assert not torch.equal(screened, screened.bfloat16().float())


def test_a_network_that_cannot_be_traced_is_evaluated_as_it_is():
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x.sum((2, 3)) if x.sum() > 0 else -x.sum((2, 3))

    evaluator = Evaluator(Classifier(Branching()).eval(), Engine(precision="float32"), (12, 9, 3))
    assert (evaluator.facts["folded"], evaluator.facts["windows"]) == (False, False)
    owners, candidates = random_candidates(5)
    images = pictures(3)
    torch.testing.assert_close(
        evaluator.screen(images, owners, candidates), candidates.apply(images[owners]).sum((1, 2)) / 255
    )


class Small(torch.nn.Module):
    """A network on a device that has room for five images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.sizes = room, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        return x.sum((2, 3))


def test_out_of_memory_the_micro_batch_is_halved():
    classifier = Classifier(Small(5)).eval()
    evaluator = Evaluator(
        classifier, Engine(precision="float32", micro_batch=16, fold=False, windows=False), (12, 9, 3)
    )
    owners, candidates = random_candidates(21)
    images = pictures(3)
    expected = candidates.apply(images[owners]).sum((1, 2)) / 255
    with pytest.warns(UserWarning, match="micro-batches of 4"):
        torch.testing.assert_close(evaluator.exact(images, owners, candidates), expected)
    torch.testing.assert_close(evaluator.screen(images, owners, candidates), expected)
    assert evaluator.facts["micro_batch"] == 4
    # Of 16 images, at least 8 are in a pass in float32; of 4, there are six passes for 21 candidates.
    assert classifier.network.sizes == [8, 8, 4, 4, 4, 4, 4, 4]


def test_no_memory_for_a_single_image():
    evaluator = Evaluator(Classifier(Small(0)).eval(), Engine(micro_batch=2, fold=False), (12, 9, 3))
    with pytest.warns(UserWarning, match="continuing"), pytest.raises(OnepixError, match="out of memory"):
        evaluator.exact(pictures(3), *random_candidates(3))


def test_settings_that_are_left_to_onepix():
    assert choose_precision("float32", "cpu") == "float32"
    able = torch.cpu.get_capabilities()
    expected = "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"
    assert choose_precision("auto", "cpu") == expected
    assert choose_micro_batch(7, "cpu", 32, 32) == 7
    assert [choose_micro_batch("auto", "cpu", side, side) for side in (28, 32, 64, 224)] == [128, 128, 32, 8]
    assert [choose_micro_batch("auto", "cuda", side, side) for side in (32, 224)] == [4096, 64]


def test_clean_maps_are_kept_as_long_as_an_image_is_screened(resnet):
    """Each image is evaluated once, twice if it comes back, whatever the order and however often it is in a call."""
    images, (_, candidates) = pictures(12), random_candidates(9)
    engine = Engine(precision="float32", windows=True, micro_batch=4)
    evaluator, seen = Evaluator(resnet, engine, (12, 9, 3)), []
    windowed = evaluator._windowed
    evaluator._windowed = mock.Mock(
        side_effect=windowed, clean=lambda maps: seen.append(len(maps)) or windowed.clean(maps)
    )
    passes = []
    for chosen in ([0, 1, 2], [2, 0], [1, 2, 2], list(range(2, 12)), [5, 0], [5, 0]):
        owners = torch.arange(9) % len(chosen)
        found = evaluator.screen(images[chosen], owners, candidates)
        assert torch.equal(found, Evaluator(resnet, engine, (12, 9, 3)).screen(images[chosen], owners, candidates))
        passes.append(len(seen))
    assert passes == [1, 1, 1, 3, 4, 4], "9 new images are two passes"
    assert set(seen) == {8}, "all passes have one shape"
    assert {len(maps) for maps in evaluator._clean.maps.values()} == {2}, "no more are kept than the call needed"
