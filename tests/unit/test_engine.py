"""Evaluation in micro-batches of one shape."""

import pytest
import torch
from conftest import blank, rule

from onepix.engine import candidate_logits, choose_device, keep_memory, logit_margin, logits
from onepix.models import build
from onepix.models.classifier import Classifier
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
