"""The order of a scan's candidates: by gradients, by what was seen nearby, and on ever finer lattices."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from analytic import blank, rule
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import onepix
from onepix.attacks import scan as scanning
from onepix.attacks.attack import attack_images, budget
from onepix.attacks.goal import Goal
from onepix.attacks.order import (
    LEAST_SLOPE,
    MEAN_WEIGHT,
    OPTIMISM,
    PRIOR_WEIGHT,
    SHARED,
    SLOPE,
    SLOPE_WEIGHT,
    FirstOrder,
    coarse_to_fine,
    expected_margins,
    first_order,
    total,
)
from onepix.config.attacks import Scan
from onepix.config.engine import Engine
from onepix.errors import OnepixError
from onepix.images import ImageSet
from onepix.networks.classifier import Classifier


def scan(**settings) -> Scan:
    return Scan(method="scan", **settings)


class Linear(nn.Module):
    """Logits that are linear in the pixels, 0–255: so their margins are known for every colour."""

    def __init__(self, weights: torch.Tensor, offsets: torch.Tensor) -> None:
        super().__init__()
        self.weights, self.offsets = nn.Parameter(weights), nn.Parameter(offsets)  # (classes, C, H, W), (classes,)

    def forward(self, scaled):
        return ((scaled * 255)[:, None] * self.weights).sum((2, 3, 4)) + self.offsets


def linear(classes=4, channels=3, height=5, width=7) -> Classifier:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(classes, channels, height, width, generator=generator) / 255
    network = Linear(weights, torch.randn(classes, generator=generator))
    return Classifier(network, (0.1,) * channels, (0.3,) * channels).eval()


def pictures(count, height=5, width=7, channels=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, height, width, channels), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("target", [-1, 2])
def test_of_a_linear_network_the_first_order_is_the_margin(channels, target):
    """With two classes; the margin of every candidate is computed on its changed image."""
    classifier = linear(classes=3, channels=channels)
    images = pictures(3, channels=channels)
    goal = Goal(torch.tensor([0, 1, 0]), torch.full((3,), target))
    colours = torch.tensor(list(itertools.product([0, 200], repeat=channels)), dtype=torch.uint8).expand(3, -1, -1)
    found = first_order(classifier, images, goal, colours)
    for image, colour, row, column in itertools.product(range(3), range(colours.shape[1]), range(5), range(7)):
        changed = images[image : image + 1].clone()
        changed[0, row, column] = colours[image, colour]
        expected = goal[torch.tensor([image])].margin(classifier(changed)).item()
        estimate = (found.clean[image] + found.change[image, colour, row, column]).item()
        assert estimate == pytest.approx(expected, abs=2e-4)
    torch.testing.assert_close(found.clean, goal.margin(classifier(images)), rtol=0, atol=1e-5)


def test_only_the_nearest_classes_count():
    """The third class would be nearest after a change; two others are nearer before, and they alone are estimated."""
    weights = torch.zeros(4, 1, 2, 2)
    weights[3, 0, 1, 1] = 1.0
    classifier = Classifier(Linear(weights, torch.tensor([9.0, 6.0, 5.0, 1.0])), (0.0,), (1.0,)).eval()
    black = torch.zeros(1, 2, 2, 1, dtype=torch.uint8)
    colours = torch.tensor([[[200]]], dtype=torch.uint8)
    found = first_order(classifier, black, Goal(torch.tensor([0]), torch.tensor([-1])), colours)
    assert found.clean.tolist() == [3.0]
    assert found.change.flatten().tolist() == [0.0] * 4


def naive(margins, clean, change):
    """Compute what `expected_margins` does, candidate by candidate; (K, H, W)."""
    colours, height, width = margins.shape
    cells = list(itertools.product(range(colours), range(height), range(width)))
    seen = [cell for cell in cells if not np.isnan(margins[cell])]
    scale = np.mean([change[cell] ** 2 for cell in cells])
    over = sum((margins[cell] - clean) * change[cell] for cell in seen) + SLOPE_WEIGHT * scale * SLOPE
    slope = max(over / (sum(change[cell] ** 2 for cell in seen) + SLOPE_WEIGHT * scale), LEAST_SLOPE) if scale else 0
    residual = {cell: margins[cell] - clean - slope * change[cell] for cell in seen}
    mean = sum(residual.values()) / (len(seen) + MEAN_WEIGHT)
    deviation = np.sqrt(sum((value - mean) ** 2 for value in residual.values()) / max(len(seen), 1))
    expected = np.empty(margins.shape)
    for cell in cells:
        near = weights = 0.0
        for other in seen:
            rows, columns = (abs(a - b) for a, b in zip(cell[1:], other[1:], strict=True))
            weight = max(1 - rows / 3, 0) * max(1 - columns / 3, 0)
            weight *= (1 - SHARED) * (cell[0] == other[0]) + SHARED
            near, weights = near + weight * (residual[other] - mean), weights + weight
        doubt = PRIOR_WEIGHT / (weights + PRIOR_WEIGHT)
        expected[cell] = clean + slope * change[cell] + mean + near / (weights + PRIOR_WEIGHT)
        expected[cell] -= OPTIMISM * deviation * np.sqrt(doubt)
    return expected


def in_the_middle(values):
    """Leave out two positions along the border, where boxes of zeros beyond the map make the kernel another one."""
    return values[:, 2:-2, 2:-2]


@pytest.mark.parametrize("known", [0.0, 0.15])
@pytest.mark.parametrize("gradient", [0.0, 1.0])
def test_expected_margins_are_those_of_a_naive_loop(known, gradient):
    generator = np.random.default_rng(4)
    margins = generator.normal(size=(3, 7, 9))
    margins[generator.random(margins.shape) > known] = np.nan
    change = gradient * generator.normal(size=margins.shape)
    given = torch.from_numpy(margins)[None].float(), torch.from_numpy(change)[None].float()
    found = expected_margins(given[0], FirstOrder(torch.tensor([0.7]), given[1]))[0].numpy()
    expected = naive(
        margins.astype(np.float32).astype(float), np.float64(np.float32(0.7)), given[1][0].double().numpy()
    )
    np.testing.assert_allclose(in_the_middle(found), in_the_middle(expected), rtol=0, atol=1e-9)


def test_an_image_does_not_influence_another():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(5, 3, 6, 11, generator=generator)
    margins[torch.rand(margins.shape, generator=generator) > 0.2] = torch.nan
    known = FirstOrder(torch.randn(5, generator=generator), torch.randn(margins.shape, generator=generator))
    whole = expected_margins(margins, known)
    for index in range(5):
        one = slice(index, index + 1)
        assert torch.equal(expected_margins(margins[one], FirstOrder(known.clean[one], known.change[one])), whole[one])


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=40))
def test_a_total_leaves_nothing_out(values):
    given_values = torch.tensor([values, [2 * value for value in values]], dtype=torch.float64)
    assert total(given_values).flatten().tolist() == [sum(values), 2 * sum(values)]


def test_unknown_candidates_are_taken_on_ever_finer_lattices():
    order = coarse_to_fine(1, 8, 8)
    points = [(index // 8, index % 8) for index in order.tolist()]
    assert set(points[:1]) == {(0, 0)}
    assert set(points[:4]) == set(itertools.product((0, 4), repeat=2))
    assert set(points[:16]) == set(itertools.product((0, 2, 4, 6), repeat=2))
    first = coarse_to_fine(8, 32, 32)[:1024]
    assert sorted((first % 1024).tolist()) == list(range(1024)), "each position once, before any has a second colour"
    of_lattice = first[:64] // 1024
    assert torch.bincount(of_lattice, minlength=8).tolist() == [8] * 8


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
def test_each_candidate_is_taken_once(colours, height, width):
    order = coarse_to_fine(colours, height, width)
    assert sorted(order.tolist()) == list(range(colours * height * width))


def test_the_gradient_points_at_the_first_candidate():
    """Of a linear network, the candidate of least margin comes first: one query beside the two backward passes."""
    classifier, images = linear(height=3, width=2), pictures(40, height=3, width=2)
    labels = classifier(images).argmax(1).numpy()
    given_set = ImageSet(images.numpy(), labels, np.arange(40), tuple("abcd"), "made by a test")
    records = attack_images(classifier, given_set, scan(stop="first")).records
    flipped = records[records["success"].astype(bool)]
    assert len(flipped) > 5
    assert (flipped["queries_to_success"] == 3).mean() > 0.9, "unless a third class is reached"
    without = attack_images(classifier, given_set, scan(stop="first", gradient=False)).records
    assert without["backward_passes"].tolist() == [0] * 40
    assert (without.loc[flipped.index, "queries_to_success"] > 3).any()
    assert without["success"].tolist() == records["success"].tolist()


@pytest.mark.parametrize("name", ["lenet", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_both_orders_give_equal_maps_to_the_last_bit(name):
    """Under bfloat16 with windows: which margins are float32's depends on neither order nor stop rule."""
    images = onepix.bundled_images()
    network = onepix.bundled_network(name)
    some = images.select(images.ids[[3, 5]].tolist())
    engine = Engine(precision="bfloat16")
    done = [attack_images(network, some, scan(gradient=g), engine, keep_maps=True) for g in (True, False)]
    assert done[0].records["eligible"].all()
    np.testing.assert_array_equal(done[0].maps.margins, done[1].maps.margins)
    np.testing.assert_array_equal(done[0].maps.classes, done[1].maps.classes)
    first = attack_images(network, some, scan(stop="first"), engine, keep_maps=True)
    evaluated = first.maps.evaluated
    np.testing.assert_array_equal(first.maps.margins[evaluated], done[0].maps.margins[evaluated])
    pd.testing.assert_series_equal(first.records["queries_to_success"], done[0].records["queries_to_success"])


class Stubborn(nn.Module):
    """Class 1 where a pixel is red; its backward pass raises, or there is none."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.ones(1))

    def forward(self, x):
        if self.how == "detached":
            x = x.detach()
        if self.how == "raises":
            x = Raising.apply(x)
        if self.how == "not finite":
            x = x + (x - x).sqrt()
        margin = (x[:, 0, 1, 2] - 0.5) * self.weight
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


class Raising(torch.autograd.Function):
    @staticmethod
    def forward(_context, x):
        return x.clone()

    @staticmethod
    def backward(_context, _gradient):
        raise ValueError("no way back")


@pytest.mark.parametrize(
    ("how", "said", "passes"),
    [
        ("detached", "network Stubborn has no gradient", 0),
        ("raises", "network Stubborn has no gradient: ValueError: no way back", 0),
        ("not finite", "used", 1),
    ],
)
@pytest.mark.filterwarnings("ignore:network Stubborn")
def test_a_network_without_gradients_is_scanned_without_them_and_the_record_says_so(how, said, passes):
    network = Classifier(Stubborn(how)).eval()
    done = attack_images(network, blank(2, 4, 5), scan(), keep_maps=True)
    plain = attack_images(network, blank(2, 4, 5), scan(gradient=False), keep_maps=True)
    assert done.evaluation["gradient"].startswith(said)
    assert plain.evaluation["gradient"] == "not wanted"
    assert done.records["backward_passes"].tolist() == [passes] * 2
    assert (done.records["queries"] - passes).tolist() == plain.records["queries"].tolist() == [8 * 20] * 2
    assert done.records["success"].all()
    np.testing.assert_array_equal(done.maps.margins, plain.maps.margins)


def test_the_lack_of_gradients_is_told_once():
    with pytest.warns(UserWarning, match="has no gradient.*; the scan orders its candidates without it") as told:
        attack_images(Classifier(Stubborn("detached")).eval(), blank(3, 4, 5), scan())
    assert len(told) == 1


def test_a_budget_holds_the_scan_its_gradient_and_its_refinement():
    """416 candidates of the set, two backward passes among them, and 96 of refinement, in four rounds of 24."""
    never = rule(lambda x: x[:, 0].amax((1, 2)) / 256 - 2)
    settings = scan(budget=512, refine=4, gradient=False)
    done = attack_images(never, blank(1, 32, 32), settings, keep_maps=True)
    assert done.records["queries"].tolist() == [512]
    assert done.maps.evaluated.sum() == 416
    with_gradient = attack_images(never, blank(1, 32, 32), scan(budget=512, refine=4), keep_maps=True)
    assert with_gradient.records["queries"].tolist() == [512]
    assert with_gradient.maps.evaluated.sum() == 415
    given = attack_images(never, blank(1, 32, 32), scan(budget=512, refine=4, refine_budget=60), keep_maps=True)
    assert given.maps.evaluated.sum() == 512 - 1 - 48
    assert given.records["queries"].tolist() == [512]


def test_a_budget_larger_than_the_set_leaves_refinement_its_share():
    never = rule(lambda x: x[:, 0].amax((1, 2)) / 256 - 2)
    records = attack_images(never, blank(1, 4, 6), scan(budget=1000, refine=2)).records
    assert records["queries"].tolist() == [1 + 8 * 24 + 16 * 12]
    assert budget(scan(budget=1000, refine=2), (4, 6, 3)) == 2 + 8 * 24 + 16 * 12


def test_refinement_within_a_budget_finds_a_colour_between_those_of_the_set():
    classifier = rule(lambda x: 2.5 - (x[:, 0, 3, 2] - 200).abs(), 1)
    done = attack_images(classifier, blank(1, 5, 4, channels=1), scan(budget=60, refine=1, refine_budget=18))
    assert done.records["success"].item()
    assert done.records["values"].item()[0][0] in range(198, 203)
    assert 41 < done.records["queries_to_success"].item() <= 60


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"budget": 20, "refine": 4},
            "of a budget of 20, 2 backward passes and 24 candidates of refinement leave nothing",
        ),
        ({"refine": 4, "refine_budget": 20}, "refine_budget 20 is smaller than one round of refinement, which has 24"),
    ],
)
def test_a_budget_that_is_too_small(settings, said):
    with pytest.raises(OnepixError, match=said):
        attack_images(
            linear(),
            ImageSet(
                pictures(1).numpy(), np.zeros(1, np.int64), np.zeros(1, np.int64), tuple("abcd"), "made by a test"
            ),
            scan(**settings),
        )
    with pytest.raises(OnepixError, match=said):
        budget(scan(**settings), (5, 7, 3))


def test_a_budget_without_room_for_the_gradient():
    labels = linear()(pictures(1)).argmax(1).numpy()
    images = ImageSet(pictures(1).numpy(), labels, np.zeros(1, np.int64), tuple("abcd"), "made by a test")
    done = attack_images(linear(), images, scan(budget=2))
    assert done.evaluation["gradient"] == "not used: a budget of 2 has no room for 2 backward passes and a candidate"
    assert (done.records["queries"].item(), done.records["backward_passes"].item()) == (2, 0)
    done = attack_images(linear(), images, scan(budget=3))
    assert (done.records["queries"].item(), done.records["backward_passes"].item()) == (3, 2)


def test_refinement_larger_than_the_budget():
    with pytest.raises(ValueError, match="refine_budget 90 leaves nothing of the budget of 80"):
        scan(budget=80, refine=3, refine_budget=90)


def test_many_colours_are_scanned_a_few_images_at_once(monkeypatch):
    """Maps of all active images are in memory at once."""
    monkeypatch.setattr(scanning, "MOST_CELLS", 2 * 8 * 20)
    active = []
    room = scanning.Scanning.room
    monkeypatch.setattr(scanning.Scanning, "room", lambda self, n: active.append(len(self.active)) or room(self, n))
    records = attack_images(rule(lambda x: x[:, 0, 1, 1] - 255.5), blank(5, 4, 5), scan()).records
    assert records["queries"].tolist() == [161] * 5
    assert max(active) == 2
