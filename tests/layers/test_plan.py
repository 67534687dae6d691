"""What is followed in a network: maps of blocks and functional operations against forwards written by hand."""

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.inception import InceptionA

from onepix.errors import OnepixError
from onepix.layers.effective_field import effective_fields
from onepix.layers.plan import plan
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import receptive_fields
from onepix.layers.watching import watching
from onepix.networks.build import build
from onepix.networks.classifier import Classifier
from onepix.notebook import bundled_network


def pictures(height=16, width=16, channels=3, count=2, pixel=(5, 9)):
    """Return random images, and the same with one pixel changed."""
    generator = torch.Generator().manual_seed(5)
    clean = torch.randint(0, 256, (count, height, width, channels), generator=generator, dtype=torch.uint8)
    attacked = clean.clone()
    attacked[:, *pixel] = 255 - attacked[:, *pixel]
    return clean, attacked


def holds(classifier, by_hand, clean, attacked, batch=4):
    """Compare propagation maps with the maps (N, C, y, x) that a forward written by hand gives, by layer."""
    found = {layer.name: layer for layer in propagation_maps(classifier, clean, attacked, micro_batch=batch)}
    with torch.no_grad():
        before, after = (by_hand(classifier.scaled(images)) for images in (clean, attacked))
    assert set(before) <= set(found), set(before) - set(found)
    for name in before:
        change = (before[name] - after[name]).abs()
        assert change.max() > 0
        torch.testing.assert_close(found[name].maximum, change.amax(1), rtol=1e-4, atol=1e-5, msg=name)
        torch.testing.assert_close(found[name].mean, change.mean(1), rtol=1e-4, atol=1e-5, msg=name)
    fields = receptive_fields(classifier.network, (clean.shape[3], *clean.shape[1:3]))
    assert {name.removesuffix("@extra") for name in found} <= set(fields)
    return found


def test_each_block_of_the_bundled_resnet20():
    classifier = bundled_network("resnet20")
    network = classifier.network

    def by_hand(maps):
        kept, maps = {}, network.relu(network.bn1(network.conv1(maps)))
        for name in ("layer1", "layer2", "layer3"):
            for index, block in enumerate(getattr(network, name)):
                new = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(maps)))))
                channels = (new.shape[1] - maps.shape[1]) // 2
                stride = maps.shape[2] // new.shape[2]
                total = new + F.pad(maps[:, :, ::stride, ::stride], (0, 0, 0, 0, channels, channels))
                maps = kept[f"{name}.{index}.relu2"] = total.clamp(min=0)  # which is the block's output
                kept[f"{name}.{index}.add()"] = total
        return kept

    found = holds(classifier, by_hand, *pictures(32, 32))
    assert {layer.operator for layer in found.values()} == {"convolution", "activation", "sum", "pooling", "linear"}


def test_each_layer_of_a_densenet():
    torch.manual_seed(0)
    classifier = Classifier(build("densenet-bc-10-4"), 0.5, 0.25).eval()
    network = classifier.network

    def by_hand(maps):
        kept, maps = {}, network.conv1(maps)
        for stage in (1, 2, 3):
            for index, layer in enumerate(getattr(network, f"block{stage}")):
                new = layer.conv1(layer.bn1(maps).relu())
                maps = torch.cat([maps, layer.conv2(layer.bn2(new).relu())], 1)
                kept[f"block{stage}.{index}"] = maps
            maps = getattr(network, f"transition{stage}")(maps) if stage < 3 else maps
        return kept

    found = holds(classifier, by_hand, *pictures())
    assert not any(name.endswith("cat()") for name in found), "a block stands for the concatenation in which it ends"


def test_an_inception_module():
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixed = InceptionA(3, pool_features=4)
            self.head = nn.Linear(64 + 64 + 96 + 4, 5)

        def forward(self, images):
            return self.head(F.adaptive_avg_pool2d(F.max_pool2d(self.mixed(images), 2), 1).flatten(1))

    classifier = Classifier(Network(), 0.5, 0.25).eval()
    mixed = classifier.network.mixed

    def by_hand(maps):
        def unit(layer, maps):
            return layer.bn(layer.conv(maps)).relu()

        pooled = F.avg_pool2d(maps, 3, 1, 1)
        double = unit(mixed.branch3x3dbl_2, unit(mixed.branch3x3dbl_1, maps))
        branches = (
            unit(mixed.branch1x1, maps),
            unit(mixed.branch5x5_2, unit(mixed.branch5x5_1, maps)),
            unit(mixed.branch3x3dbl_3, double),
            unit(mixed.branch_pool, pooled),
        )
        out = torch.cat(branches, 1)
        return {
            "mixed.branch1x1": branches[0],  # a convolution, a normalisation, and F.relu in place
            "mixed.branch3x3dbl_2": double,
            "mixed.avg_pool2d()": pooled,
            "mixed": out,
            "max_pool2d()": F.max_pool2d(out, 2),
            "adaptive_avg_pool2d()": F.max_pool2d(out, 2).mean((2, 3), keepdim=True),
        }

    found = holds(classifier, by_hand, *pictures(17, 17))
    assert found["mixed"].operator == "block"
    assert found["mixed.avg_pool2d()"].operator == "pooling"


class Block(nn.Module):
    """A residual block whose last step is a sum in place, on the output of its last layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, maps):
        out = self.conv2(F.relu(self.conv1(maps), inplace=True))
        out += maps
        return out


class InPlace(nn.Module):
    """What factories do: sums in place, functional activations, a branch that joins, pooling; arithmetic beside."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.Sequential(Block(), Block())
        self.weight = nn.Parameter(torch.randn(4, 8, 1, 1))
        self.bias = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, images):
        maps = (2 * self.stem(images) + self.bias - 1).relu_()
        maps = self.blocks(maps)
        maps = F.conv2d(torch.cat([maps, maps.tanh()], 1), self.weight)
        out = torch.add(maps, F.avg_pool2d(maps, 3, 1, 1))
        return F.linear(out.mean((2, 3)), self.head.weight, self.head.bias)


def test_a_factory_with_sums_in_place_and_functional_layers():
    torch.manual_seed(0)
    classifier = Classifier(InPlace(), 0.5, 0.25).eval()
    network = classifier.network

    def by_hand(maps):
        kept = {"stem": network.stem(maps)}
        maps = kept["relu()"] = torch.relu(2 * kept["stem"] + network.bias - 1)
        for index, block in enumerate(network.blocks):
            first = kept[f"blocks.{index}.conv1"] = block.conv1(maps)
            kept[f"blocks.{index}.relu()"] = first.clamp(min=0)
            second = kept[f"blocks.{index}.conv2"] = block.conv2(first.clamp(min=0))
            maps = kept[f"blocks.{index}"] = second + maps
        kept["tanh()"] = maps.tanh()
        both = kept["cat()"] = torch.cat([maps, maps.tanh()], 1)
        maps = kept["conv2d()"] = torch.einsum("nchw,dc->ndhw", both, network.weight[:, :, 0, 0])
        pooled = kept["avg_pool2d()"] = F.avg_pool2d(maps, 3, 1, 1)
        total = kept["add()"] = maps + pooled
        kept["mean()"] = total.mean((2, 3), keepdim=True)
        kept["linear()"] = network.head(total.mean((2, 3)))[:, :, None, None]
        return kept

    clean, attacked = pictures()
    found = holds(classifier, by_hand, clean, attacked)
    assert len(found) == 17, "arithmetic with constants is not followed, and nothing twice"
    operators = ("relu()", "cat()", "conv2d()", "avg_pool2d()", "add()", "mean()", "linear()")
    assert [found[name].operator for name in operators] == [
        *("activation", "concatenation", "convolution", "pooling", "sum", "pooling", "linear")
    ]
    assert plan(network, (3, 16, 16)).unfollowed == ()
    assert [field.name for field in effective_fields(classifier, clean)] == list(found)
    fields = receptive_fields(network, (3, 16, 16))
    assert [fields[name].size for name in ("relu()", "blocks.0.relu()", "tanh()", "conv2d()", "avg_pool2d()")] == [
        *((1, 1), (3, 3), (9, 9), (9, 9), (11, 11))
    ]


def test_functional_operations_are_chosen_by_pattern():
    classifier = Classifier(InPlace(), 0.5, 0.25).eval()
    chosen = propagation_maps(classifier, *pictures(), ("*relu()", "blocks.1"), micro_batch=4)
    assert [layer.name for layer in chosen] == ["relu()", "blocks.0.relu()", "blocks.1.relu()", "blocks.1"]


@pytest.mark.parametrize("name", ["relu()", "blocks.0", "blocks.1", "cat()", "add()", "stem"])
def test_any_step_can_be_replaced(name):
    """With the output of another image in its place, all that follows is that image's."""
    torch.manual_seed(0)
    network = InPlace().eval()
    here, there = torch.rand(2, 1, 3, 8, 8)
    with torch.no_grad():
        kept = {}
        with watching(network, [name], lambda _name, _operator, out: kept.setdefault("there", out.clone())):
            expected = network(there)
        with watching(network, [name], lambda *_: kept["there"].clone()):
            assert torch.equal(network(here), expected)
        assert not torch.equal(network(here), expected)


def test_an_operation_in_place_whose_result_is_not_used_can_be_replaced():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, images):
            maps = self.conv(images)
            maps.relu_()
            return maps.flatten(1)

    network = Network().eval()
    with torch.no_grad(), watching(network, ["relu()"], lambda _n, _o, out: torch.full_like(out, 7.0)):
        assert (network(torch.rand(2, 1, 3, 3)) == 7).all()


def test_a_sum_that_is_written_elsewhere():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, images):
            out = torch.zeros_like(images)
            torch.add(self.conv(images), images, out=out)
            return out.flatten(1)

    classifier = Classifier(Network(), 0.5, 0.25).eval()
    holds(classifier, lambda x: {"add()": classifier.network.conv(x) + x}, *pictures())


def test_watching_does_not_change_what_a_network_says():
    torch.manual_seed(0)
    network, images = InPlace().eval(), torch.rand(3, 3, 8, 8)
    with torch.inference_mode():
        before = network(images)
        with watching(network, "auto", lambda *_: None):
            assert torch.equal(network(images), before)
        assert torch.equal(network(images), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@dataclasses.dataclass
class Answer:
    hidden: torch.Tensor
    more: tuple


class Output(OrderedDict):
    """As libraries have it: a mapping whose entries are attributes, too."""

    def __getattr__(self, name):
        return self[name]


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda x: {"hidden": x, "more": None}, lambda out: out["hidden"]),
        (lambda x: Output(last_hidden_state=x), lambda out: out.last_hidden_state),
        (lambda x: Answer(x, (x,)), lambda out: out.hidden),
        (lambda x: [[x], None], lambda out: out[0][0]),
        (lambda x: torch.max(x, 1, keepdim=True), lambda out: out.values),
    ],
)
def test_blocks_that_return_more_than_a_tensor(wrap, unwrap):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, images):
            return wrap(self.conv(images) * images)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, images):
            return unwrap(self.inner(images)).flatten(1)

    network, images = Network().eval(), torch.rand(2, 1, 4, 4)
    assert [step.name for step in plan(network, (1, 4, 4)).followed.values()] == ["inner.conv", "inner"]
    with torch.no_grad(), watching(network, ["inner"], lambda _n, _o, out: out + 1):
        changed = network(images)
    with torch.no_grad():
        torch.testing.assert_close(changed, network(images) + 1)


def test_a_layer_that_fails_and_is_caught_hides_nothing_after_it():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.fails = nn.Conv2d(5, 5, 1)

        def forward(self, images):
            try:
                images = self.fails(images)
            except RuntimeError:
                images = images.relu()
            return (images + images.tanh()).flatten(1)

    network = Network().eval()
    assert [step.name for step in plan(network, (1, 4, 4)).followed.values()] == ["relu()", "tanh()", "add()"]
    assert {"relu()", "tanh()", "add()"} <= set(receptive_fields(network, (1, 4, 4)))
    seen = []
    with torch.no_grad(), watching(network, "auto", lambda name, *_: seen.append(name)):
        network(torch.rand(2, 1, 4, 4))
    assert seen == ["relu()", "tanh()", "add()"]


def test_modules_and_functions_used_again_get_a_number():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()
            self.same = self.block

        def forward(self, images):
            return (self.same(self.block(images)) + images).relu().flatten(1)

    names = plan(Network().eval(), (4, 5, 5)).ran
    assert names == (
        *("block.conv1", "block.relu()", "block.conv2", "block.add()", "block"),
        *("block.conv1#2", "block.relu()#2", "block.conv2#2", "block.add()#2", "block#2"),
        *("add()", "relu()"),
    )


def test_a_module_may_have_the_name_of_an_operation():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("add()", nn.Conv2d(1, 1, 1))

        def forward(self, images):
            return (self._modules["add()"](images) + images).flatten(1)

    network = Network().eval()
    assert list(receptive_fields(network, (1, 4, 4))) == ["add()", "add()#2", ""]
    assert [step.operator for step in plan(network, (1, 4, 4)).followed.values()] == ["convolution", "sum"]


def test_a_way_that_depends_on_the_images_is_followed_as_far_as_it_is_common():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bright = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

        def forward(self, images):
            maps = self.conv(images)
            if images.mean() > 0.6:
                maps = self.bright(maps)
            return (maps + images).flatten(1)

    classifier = Classifier(Network()).eval()
    for shade in (10, 250):
        clean = torch.full((1, 4, 4, 1), shade, dtype=torch.uint8)
        attacked = clean.clone()
        attacked[0, 1, 2] = 0
        names = [layer.name for layer in propagation_maps(classifier, clean, attacked, micro_batch=2)]
        assert names == ["conv", "add()"]


# What is not followed


class Transforming(nn.Module):
    """Operations that are no layers of any kind that is followed."""

    def __init__(self):
        super().__init__()
        self.up = nn.Upsample(scale_factor=2)
        self.conv = nn.Conv2d(1, 2, 1)
        self.rows = nn.GRU(16, 6, batch_first=True)
        self.gate = nn.Conv2d(2, 2, 1)

    def forward(self, images):
        maps = self.conv(self.up(images))
        maps = maps * self.gate(maps)
        maps = torch.fft.ifft2(torch.fft.fft2(maps)).real
        maps = torch.einsum("nchw,ndhw->ncdhw", maps, maps).flatten(1, 2)
        rows, _ = self.rows(F.layer_norm(maps.mean(1), [16]))
        return rows.flatten(1)


def test_what_is_not_followed_is_listed_by_its_name_in_the_code():
    listed = plan(Transforming().eval(), (1, 8, 8)).unfollowed
    assert listed == ("up.interpolate()", "mul()", "fft_fft2()", "fft_ifft2()", "einsum()", "mean()", "rows.gru()")


def test_a_module_that_leaves_torch_is_listed():
    class NumPy(nn.Module):
        def forward(self, maps):
            return torch.from_numpy(np.sort(maps.numpy(), 1))

    listed = plan(nn.Sequential(nn.Conv2d(1, 3, 1), NumPy(), nn.Flatten()).eval(), (1, 4, 4)).unfollowed
    assert listed == ("1: computed outside of torch",)


class Bare(nn.Module):
    """No layers at all: a product with a parameter, or with nothing that can be followed."""

    def __init__(self, product):
        super().__init__()
        self.weight, self.product = nn.Parameter(torch.rand(16, 2)), product

    def forward(self, images):
        return images.flatten(1) @ self.weight if self.product else images.flatten(1)[:, :2] * 2 + 1


def test_a_network_without_layers_is_followed_or_refused_in_one_line():
    clean, attacked = pictures(4, 4, 1, pixel=(1, 2))
    (layer,) = propagation_maps(Classifier(Bare(True)).eval(), clean, attacked, micro_batch=4)
    assert (layer.name, layer.maximum.shape) == ("matmul()", (2, 1, 1))
    assert plan(Bare(True).eval(), (1, 4, 4)).required().unfollowed == ()
    refused = r"^layers: no step of the network can be followed, expected at least one$"
    with pytest.raises(OnepixError, match=refused):
        plan(Bare(False).eval(), (1, 4, 4)).required()
    with pytest.raises(OnepixError, match=refused):
        effective_fields(Classifier(Bare(False)).eval(), clean)


def test_what_is_not_followed_is_a_short_list():
    class Mixing(nn.Module):
        def forward(self, maps):
            return maps.softmax(1) @ maps.cumsum(1)

    listed = plan(nn.Sequential(nn.Conv2d(1, 1, 1), *(Mixing() for _ in range(12))).eval(), (1, 4, 4)).unfollowed
    assert listed == ("*.softmax() (×12)", "*.cumsum() (×12)", "*.matmul() (×12)")


def test_bundled_networks_are_followed_altogether():
    for name in ("lenet", "resnet8", "allconv", "densenet-bc-10-4"):
        assert plan(build(name).eval(), (3, 32, 32)).unfollowed == ()


@pytest.mark.slow
def test_a_compiled_module_is_followed():
    network = nn.Sequential(torch.compile(Block(), backend="eager"), nn.Flatten()).eval()
    names = [step.name for step in plan(network, (4, 5, 5)).followed.values()]
    assert names == ["0._orig_mod.conv1", "0._orig_mod.relu()", "0._orig_mod.conv2", "0._orig_mod"]
    seen = []
    with torch.no_grad(), watching(network, "auto", lambda name, *_: seen.append(name)):
        network(torch.rand(2, 4, 5, 5))
    assert seen == names
