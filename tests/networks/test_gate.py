"""Whatever a user's network raises, returns or lacks ends in one line; common forms of outputs and scalings work."""

import json

import numpy as np
import pytest
import strange_networks
import torch
from refusals import refusal
from safetensors.torch import load_file
from strange_networks import CASES, Tiny, plain, seeded
from torch import nn

import onepix
from onepix.attacks.attack import attack_images
from onepix.config.attacks import Scan
from onepix.config.engine import Engine
from onepix.config.networks import Network
from onepix.datasets.bundled import load_bundled
from onepix.engine.evaluator import Evaluator
from onepix.errors import OnepixError
from onepix.files.manifests import read_manifest
from onepix.images import ImageSet
from onepix.jobs import networks as networks_job
from onepix.layers.effective_field import effective_fields
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import receptive_fields
from onepix.networks.classifier import Classifier
from onepix.networks.gate import words
from onepix.networks.storing import stored_and_loaded
from onepix.networks.weights import load_network_file, save_classifier


def noise(count=4, side=8, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, side, side, channels), generator=generator, dtype=torch.uint8)


def wrapped(case):
    return Classifier(CASES[case][0](), 0.5, 0.25, case).eval()


# Outputs


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("plain", "output"),
        ("with_logits", "output.logits"),
        ("with_key", 'output["logits"]'),
        ("with_tuple", "output[0]"),
    ],
)
@pytest.mark.parametrize("windows", [False, True])
def test_an_output_in_any_form_gives_the_results_of_a_plain_tensor(case, part, windows):
    """Screening, folded, traced and on windows; scans; propagation maps; fields and gradients."""
    images = noise(2)
    expected, found = [], []
    for classifier, results in ((wrapped("plain"), expected), (wrapped(case), found)):
        engine = Engine(precision="float32", windows=windows, micro_batch=16)
        labels = classifier(images).argmax(1).numpy()
        pictures = ImageSet(images.numpy(), labels, np.arange(2), tuple("0123456789"), "noise")
        done = attack_images(classifier, pictures, Scan(method="scan", budget=40), engine, keep_maps=True)
        results += [done.records.to_dict("list"), np.nan_to_num(done.maps.margins)]
        evaluator = Evaluator(classifier, engine, (8, 8, 3))
        assert evaluator.classify(images).shape == (2, 10)
        assert evaluator.facts["logits"] == (part if results is found else "output")
        results += [layer.maximum.numpy() for layer in propagation_maps(classifier, images, 255 - images)]
        results += [field.gradient.numpy() for field in effective_fields(classifier, images)]
        fields = receptive_fields(classifier.network, (3, 8, 8))
        results += [fields["conv"], fields["fc"]]
    assert len(found) == len(expected) > 6
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_equal(other, one)


@pytest.mark.parametrize("case", ["other_key", "nothing", "one_logit", "flat", "labels", "maps"])
def test_an_output_that_is_no_logits_is_told_with_the_cure(case):
    classifier = wrapped(case)
    with pytest.raises(OnepixError, match=CASES[case][1]) as caught:
        classifier(noise())
    assert str(caught.value).startswith(f"network {case} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["raising", "leaving", "recursive"])
def test_whatever_a_network_raises_is_told_in_its_own_words(case):
    told = refusal(wrapped(case), noise())
    assert told.startswith(f"network {case} cannot take images of 8×8×3 (height, width, channels): ")
    assert {"raising": "KeyError", "leaving": "SystemExit: weights are missing", "recursive": "RecursionError"}[
        case
    ] in told
    assert "(strange_networks.py, line " in told


def test_an_assertion_without_words_is_quoted():
    told = refusal(wrapped("wordless"), noise())
    assert "AssertionError: assert x.shape[-1] == 224 (strange_networks.py, line " in told


def test_words_are_one_line_of_bounded_length():
    assert words(ValueError("\n first\x1b[31m\nsecond")) == "ValueError: first [31m"
    assert (
        words(RuntimeError("Error(s) in loading:\n\tsize mismatch"))
        == "RuntimeError: Error(s) in loading: size mismatch"
    )
    assert words(KeyError()) == "KeyError"
    assert len(words(ValueError("x" * 10_000))) < 400


def test_an_interrupt_is_passed_on():
    class Interrupted(Tiny):
        def forward(self, _):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Classifier(Interrupted()).eval()(noise())


def test_a_notebook_names_the_class_of_the_network():
    images, labels = noise(1).numpy(), [0]
    told = refusal(lambda: onepix.attack(Classifier(CASES["asserting"][0]()).eval(), images, labels))
    assert told.startswith("network Asserting cannot take images of 8×8×3")
    assert "Input size (8) doesn't match model (224)" in told


def test_another_number_of_logits_from_pass_to_pass():
    class Growing(Tiny):
        def forward(self, x):
            return super().forward(x)[:, : 10 if len(x.unique()) > 1 else 9]

    evaluator = Evaluator(
        Classifier(Growing()).eval(), Engine(precision="float32", fold=False, windows=False), (8, 8, 3)
    )
    evaluator.classify(noise())
    assert refusal(evaluator.classify, torch.zeros_like(noise())) == (
        "network Growing gives 9 logits, before it gave 10"
    )
    mixed = torch.cat([noise(), torch.zeros_like(noise())])
    evaluator = Evaluator(Classifier(Growing()).eval(), Engine(micro_batch=4, fold=False, windows=False), (8, 8, 3))
    assert refusal(evaluator.classify, mixed) == "network Growing gives 9 logits in one pass and 10 in another"


def test_a_network_without_layers_is_told():
    class Bare(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    told = refusal(propagation_maps, Classifier(Bare()).eval(), noise(1), noise(1))
    assert told == "network Bare: none of its layers can be followed"


# Scaling, device and type


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        np.array,
        lambda numbers: np.array(numbers, np.float32),
        lambda numbers: np.array(numbers).reshape(1, 3, 1, 1),
        torch.tensor,
        lambda numbers: torch.tensor(numbers, dtype=torch.float64, requires_grad=True).reshape(3, 1, 1),
        lambda numbers: [np.float64(number) for number in numbers],
    ],
)
def test_mean_and_std_in_any_form(form):
    mean, std, images = [0.5, 0.25, 0.125], [0.25, 0.5, 1.0], noise()
    classifier = Classifier(plain(), form(mean), form(std))
    assert classifier.scaling == {"mean": (0.5, 0.25, 0.125), "std": (0.25, 0.5, 1.0)}
    assert classifier.mean.dtype == torch.float32
    expected = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(classifier(images), plain()(expected))


@pytest.mark.parametrize("number", [0.5, np.float64(0.5), np.array(0.5), torch.tensor(0.5, dtype=torch.float64)])
def test_one_number_holds_for_all_channels(number):
    classifier = Classifier(plain(), number, 1)
    assert classifier.scaling == {"mean": 0.5, "std": 1.0}
    assert torch.equal(classifier(noise()), Classifier(plain(), [0.5] * 3)(noise()))


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        ([0.5] * 3, [0.5] * 2, "mean has 3 and std has 2 numbers, expected as many, one for each channel"),
        ([0.5] * 3, [0.5, 0.0, 0.5], "std must be positive, got [0.5, 0, 0.5]"),
        ([0.5, float("nan"), 0.5], 1.0, "mean: expected a number, or one for each channel, got [0.5, nan, 0.5]"),
        ([], 1.0, "mean: expected a number, or one for each channel, got []"),
        (np.zeros((3, 32, 32)), 1.0, "mean: expected a number, or one for each channel"),
        ("half", 1.0, "mean: expected a number, or one for each channel, got 'half'"),
        (None, 1.0, "mean: expected a number"),
    ],
)
def test_mean_and_std_that_do_not_fit(mean, std, told):
    assert refusal(Classifier, plain(), mean, std).startswith(f"network Tiny: {told}")


@pytest.mark.parametrize(
    ("mean", "std", "instead"),
    [
        (
            [123.675, 116.28, 103.53],
            [58.395, 57.12, 57.375],
            "mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225]",
        ),
        (
            [123.68, 116.779, 103.939],
            [1.0, 1.0, 1.0],
            "mean [0.485, 0.458, 0.4076] and std [0.003922, 0.003922, 0.003922]",
        ),
        (127.5, 127.5, "mean [0.5] and std [0.5]"),
        (0.0, 255.0, "mean [0] and std [1]"),
        ([123.675] * 3, [0.229] * 3, "mean [0.485, 0.485, 0.485] and std [0.229, 0.229, 0.229]"),
        ([0.485] * 3, [58.395] * 3, "mean [0.485, 0.485, 0.485] and std [0.229, 0.229, 0.229]"),
    ],
)
def test_a_scaling_in_units_of_255_is_told_with_the_numbers_to_write(mean, std, instead):
    told = refusal(Classifier, plain(), mean, std)
    assert told.endswith(f"are in units of 0–255; onepix divides images by 255 first: write {instead}")


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1 / 255), (0.5, 0.5), ([-0.1, 0.2, 1.9], [0.01, 3.0, 1.0])])
def test_a_scaling_that_may_be_meant_is_taken(mean, std):
    assert Classifier(plain(), mean, std)(noise()).shape == (4, 10)


def test_the_networks_device_counts():
    with torch.device("meta"):
        network = Tiny()
    classifier = Classifier(network, [0.5] * 3, 0.5)
    assert classifier.mean.device == classifier.std.device == torch.device("meta")


@pytest.mark.parametrize("case", ["double", "half"])
def test_a_network_in_another_precision_runs_as_it_is(case):
    classifier = wrapped(case)
    network = CASES[case][0]()
    images = noise()
    logits = classifier(images)
    seen = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    assert logits.dtype == torch.float32
    assert torch.equal(logits, network(seen.to(next(network.parameters()).dtype)).float())
    evaluator = Evaluator(classifier, Engine(precision="bfloat16"), (8, 8, 3))
    assert evaluator.precision == "float32"


def test_a_network_that_writes_into_its_input_leaves_the_images_alone():
    classifier, images = wrapped("in_place"), noise()
    before = images.clone()
    first = classifier(images)
    assert torch.equal(images, before)
    assert torch.equal(classifier(images), first)


def test_what_is_no_module_or_has_no_weights_yet():
    assert refusal(Classifier, plain) == "expected a torch.nn.Module, got function"
    assert "network Lazy: 2 of its tensors have no shape yet, the first is conv.weight" in refusal(
        Classifier, seeded(strange_networks.Lazy)
    )


# Storing


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entry(case):
    return Network(architecture=f"strange_networks:{case}", weights="factory", mean=[0.5] * 3, std=[0.25] * 3)


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("tied", {"fc.weight", "head.weight"}),
        ("two_names", {"conv.weight", "backbone.first.weight"}),
        ("old_weight_norm", {"conv.weight_g", "conv.weight_v"}),
        ("new_weight_norm", {"conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"}),
        ("old_spectral_norm", {"conv.weight_orig", "conv.weight_u"}),
        ("warmed_up", {"conv.weight"}),
        ("double", {"conv.weight"}),
        ("parallel", {"module.conv.weight"}),
    ],
)
def test_networks_with_odd_tensors_are_stored_by_the_job_and_loaded_again(case, names, folder):
    """Tied weights stand under both names, so that a network without the tie could be filled, too."""
    output = folder / case / "manifest.json"
    networks_job.run(json.dumps({"network": entry(case).model_dump(mode="json")}), output)
    assert names < set(load_file(output.with_name("weights.safetensors")))
    again, images = load_network_file(output.with_name("weights.safetensors")), noise(side=32)
    assert again.name == case
    assert torch.equal(again(images), Classifier(CASES[case][0](), [0.5] * 3, [0.25] * 3).eval()(images))


@pytest.mark.parametrize(
    "case", ["scripted", pytest.param("traced", marks=pytest.mark.slow), "quantised", "lazy", "units"]
)
def test_what_no_run_could_use_is_refused_by_the_job(case, folder):
    settings = entry(case).model_dump(mode="json") | strange_networks.OTHER_SCALES.get(case, {})
    output = folder / case / "manifest.json"
    told = refusal(networks_job.run, json.dumps({"network": settings}), output)
    with pytest.raises(AssertionError, match=CASES[case][1]):
        raise AssertionError(told)
    assert not output.exists()


def test_what_a_state_dict_does_not_hold_is_found_before_the_attack(folder):
    """The job of an attack builds the network anew, and would attack another one."""
    told = refusal(
        networks_job.run, json.dumps({"network": entry("forgotten").model_dump(mode="json")}), folder / "m.json"
    )
    assert told.startswith("network ")
    assert "answers differently after it is stored and loaded again" in told


@pytest.mark.parametrize(
    ("case", "part"), [("plain", "output"), ("with_logits", "output.logits"), ("asserting", "output")]
)
def test_the_manifest_says_what_the_logits_are(case, part, folder):
    """One network takes images of 224 × 224 pixels only: other sizes are tried."""
    output = folder / case / "manifest.json"
    networks_job.run(json.dumps({"network": entry(case).model_dump(mode="json")}), output)
    assert read_manifest(output)["metadata"]["logits"] == part


def test_a_state_that_safetensors_cannot_hold(tmp_path):
    class Extra(Tiny):
        def get_extra_state(self):
            return {"a": 1}

    told = refusal(save_classifier, Classifier(Extra()), tmp_path / "x.safetensors", {})
    assert told.startswith(
        "network Extra cannot be stored: _extra_state in its state_dict is dict, expected plain tensors"
    )
    assert not list(tmp_path.iterdir())


def test_a_bundled_network_stays_the_same():
    classifier = onepix.bundled_network("lenet")
    settings = Network(architecture="lenet")
    again = stored_and_loaded(classifier, settings, {"architecture": "lenet", "classes": 10, "channels": 3})
    images = torch.from_numpy(load_bundled().images[:4])
    assert torch.equal(again(images), classifier(images))
    assert again.name == classifier.name == "lenet"
