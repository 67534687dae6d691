"""Tensors found by what fits: any prefix, wrapper or nesting; what is ambiguous is said, what is left over named."""

import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal
from safetensors.torch import save_file
from torch import nn

from onepix.networks.checkpoints import read_tensors
from onepix.networks.matching import match, told
from onepix.networks.weights import fill

PART = st.text(string.ascii_lowercase + "_", min_size=1, max_size=6)


class Small(nn.Module):
    """A convolution with batch normalisation in a container, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 10)


class Around(nn.Module):
    """The same network as the attribute of another one."""

    def __init__(self):
        super().__init__()
        self.backbone = Small()


class Tied(nn.Module):
    """A linear layer under two names, beside another one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.head = nn.Linear(4, 2)


def state(seed=0, kind=Small):
    torch.manual_seed(seed)
    return kind().state_dict()


def named(tensors, change):
    return {change(name): tensor for name, tensor in tensors.items()}


def filled(tensors, key=None, kind=Small):
    """Fill a network; return which of seeds 0 and 1 made its tensors, and the match."""
    network = kind()
    found = fill(network, tensors, "a file", key)
    own = list(network.state_dict().values())
    seeds = [
        seed for seed in (0, 1) if all(torch.equal(a, b) for a, b in zip(own, state(seed, kind).values(), strict=True))
    ]
    return seeds, found


@pytest.mark.parametrize(
    "prefix",
    [
        *("model.", "net.", "module.", "_orig_mod.", "ema.", "backbone.", "wrapped_by_my_script."),
        *("model._orig_mod.", "ema.module.backbone.", "state_dict.module.module.", "0.", "fc.", "features."),
    ],
)
def test_a_prefix_is_found_whatever_it_is(prefix):
    seeds, found = filled(named(state(), lambda name: prefix + name))
    assert seeds == [0]
    assert found.facts == {"taken_from": prefix.rstrip(".")}


@given(parts=st.lists(PART, max_size=4))
def test_any_prefix_at_all(parts):
    prefix = "".join(f"{part}." for part in parts)
    assert match(Small(), named(state(), lambda name: prefix + name)).prefix == ".".join(parts)


def test_a_prefix_of_the_networks_own_names():
    seeds, found = filled(named(state(kind=Around), lambda name: name.removeprefix("backbone.")), kind=Around)
    assert seeds == [0]
    assert found.facts == {"added": ["backbone"]}
    other = named(state(kind=Around), lambda name: name.replace("backbone.", "encoder.module."))
    assert filled(other, kind=Around)[0] == [0], "another prefix on each side"


def test_the_same_set_under_two_prefixes_is_one_set():
    network = nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))))
    tensors = {f"x{name[1:]}": tensor for name, tensor in network.state_dict().items()}  # 0.0.0.weight: x.0.0.weight
    assert match(network, tensors).facts == {"taken_from": "x", "added": ["0"]}


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("features.", "features.module."),
        lambda name: name.replace("fc.", "fc._fsdp_wrapped_module."),
        lambda name: f"model.{name.replace('features.', 'features._orig_mod.module.')}",
        lambda name: f"backbone.{name}" if name.startswith("features") else f"head.{name}",
    ],
)
def test_wrappers_of_single_modules(change):
    seeds, found = filled(named(state(), change))
    assert seeds == [0]
    assert found.dropped


def test_wrappers_in_the_network():
    network = Small()
    network.features = nn.Sequential()
    network.features.inner = Small().features
    names = match(network, state()).names
    assert names["features.inner.0.weight"] == "features.0.weight"


def test_exact_names_win_over_a_prefix():
    tensors = {**named(state(1), lambda name: f"ema.{name}"), **state(0)}
    seeds, found = filled(tensors)
    assert seeds == [0]
    assert found.others == ("ema",)
    assert told(found.facts) == (
        "taken: the tensors without prefix; the tensors of ema would fit, too (weights_key chooses)"
    )


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        ("student.", "teacher.", 0),  # as plain: the first in the file
        ("teacher.", "student.", 0),
        ("ema.module.", "model.", 1),  # the plainest
        ("a.b.c.", "d.e.", 1),
    ],
)
def test_of_two_sets_one_is_taken_and_both_are_named_and_a_key_chooses(first, second, taken):
    tensors = {**named(state(0), lambda name: first + name), **named(state(1), lambda name: second + name)}
    seeds, found = filled(tensors)
    prefixes = [first.rstrip("."), second.rstrip(".")]
    assert seeds == [taken]
    assert (found.prefix, found.others) == (prefixes[taken], (prefixes[1 - taken],))
    for index, prefix in enumerate((first, second)):
        for key in (prefix, prefix.rstrip("."), prefix.partition(".")[0]):
            seeds, chosen = filled(tensors, key)
            assert seeds == [index], key
            assert chosen.prefix == prefixes[index]
            assert len(chosen.left_over) == 8, "the counter of batches is no weight"


def test_a_key_inside_a_prefix_and_one_that_is_not_there():
    tensors = {f"state_dict.{name}": tensor for name, tensor in state().items()}
    tensors = {**named(tensors, lambda name: f"x.{name}"), **named(state(1), lambda name: f"y.{name}")}
    assert filled(tensors, "state_dict")[0] == [0]
    assert filled(tensors, "x.state_dict")[0] == [0]
    message = refusal(filled, tensors, "ema")
    assert message == "cannot load a file: weights_key: no tensor lies under 'ema'; names begin with x, y"


def test_what_is_left_over_is_counted_and_named():
    further = {"loss.weight": torch.ones(10), "loss.margin": torch.ones(2), "projector.weight": torch.ones(3, 3)}
    _, found = filled(named({**state(), **further}, lambda name: f"model.{name}") | {"optimizer.step": torch.ones(3)})
    assert found.facts["left_over"] == {
        "count": 4,
        "first": ["model.loss.weight", "model.loss.margin", "model.projector.weight"],
    }
    assert told(found.facts) == (
        "taken: the tensors of model; left over: 4 tensors (model.loss.weight, model.loss.margin, "
        "model.projector.weight, …)"
    )


@pytest.mark.parametrize(
    ("name", "shape"), [("features.2.weight", (4, 4, 3, 3)), ("fc.scale", (10,)), ("features.1.more", (4,))]
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_file_of_another_network_all_of_whose_names_fit_is_refused(name, shape, prefix):
    tensors = named({**state(), name: torch.ones(shape)}, lambda own: prefix + own)
    assert refusal(filled, tensors) == f"cannot load a file: 1 are unexpected, the first is {prefix}{name}"


def test_counts_that_profilers_leave_in_modules_are_no_other_network():
    counts = {"features.0.total_ops": torch.zeros(1, dtype=torch.float64), "fc.position_ids": torch.arange(5)}
    assert filled({**state(), **counts})[1].left_over == ("features.0.total_ops", "fc.position_ids")


def test_nothing_is_half_loaded():
    lacking = {name: tensor for name, tensor in state().items() if name != "features.1.running_var"}
    network = Small()
    before = [tensor.clone() for tensor in network.state_dict().values()]
    message = refusal(fill, network, named(lacking, lambda name: f"net.{name}"), "a file")
    assert message == (
        "cannot load a file: 1 tensors are missing, the first is features.1.running_var (of the tensors of net)"
    )
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))


def test_two_incomplete_sets_are_not_mixed():
    tensors = {
        **{f"student.{name}": tensor for name, tensor in state(0).items() if name.startswith("features")},
        **{f"teacher.{name}": tensor for name, tensor in state(1).items()},
    }
    assert filled(tensors)[0] == [1], "the whole one"
    assert "tensors are missing, the first is fc.weight" in refusal(filled, tensors, "student")


def test_counters_of_batches_need_not_be_there():
    assert filled({name: tensor for name, tensor in state().items() if "num_batches" not in name})[0] == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_other_floating_point_is_converted(dtype):
    network = Small()
    fill(network, {name: tensor.to(dtype) for name, tensor in state().items()}, "a file")
    assert network.fc.weight.dtype == torch.float32
    assert torch.equal(network.fc.weight, state()["fc.weight"].to(dtype).float())


@pytest.mark.parametrize(
    "convert",
    [
        lambda tensor: tensor.to(torch.int8),
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_numbers_that_mean_something_else_are_refused(convert):
    message = refusal(filled, {**state(), "fc.weight": convert(state()["fc.weight"])})
    assert "fc.weight has the type" in message
    assert "expected floating point" in message


def test_of_tied_tensors_one_is_enough():
    tensors = state(kind=Tied)
    for missing in ("first.", "second."):
        some = {name: tensor for name, tensor in tensors.items() if not name.startswith(missing)}
        assert filled(named(some, lambda name: f"module.{name}"), kind=Tied)[0] == [0]


def test_lazy_layers_take_the_shapes_of_the_file():
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    fill(network, named(made.state_dict(), lambda name: f"net.{name}"), "a file")
    assert torch.equal(network[0].weight, made[0].weight)


def test_the_same_for_safetensors(tmp_path):
    save_file(named(state(), lambda name: f"ema.module.{name}"), tmp_path / "a.safetensors")
    assert filled(read_tensors(tmp_path / "a.safetensors", Small()))[1].facts == {"taken_from": "ema.module"}
