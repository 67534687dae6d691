"""The attack on networks whose vulnerable pixels and colours are known by hand, and the optimiser against scipy's."""

import numpy as np
import pandas as pd
import pytest
import torch
from analytic import blank, rule
from scipy import stats
from scipy.optimize import differential_evolution as scipy_differential_evolution

from onepix.attacks.attack import attack_images
from onepix.attacks.differential_evolution import Evolution, _distinct
from onepix.config.attacks import DifferentialEvolution
from onepix.config.engine import Engine
from onepix.engine.evaluator import logits
from onepix.errors import OnepixError
from onepix.files.records import attacked_images, read_records, write_records
from onepix.images import ImageSet
from onepix.networks.build import build
from onepix.networks.classifier import Classifier

SETTINGS = DifferentialEvolution(population=60, generations=25, seed=1)
FLOAT32 = Engine(precision="float32", micro_batch=16)
ATTACK_COLUMNS = ["success", "rows", "columns", "values", "adversarial_class", "queries_to_success"]


def attack(classifier, images, settings, engine=None) -> pd.DataFrame:
    return attack_images(classifier, images, settings, engine).records


@pytest.mark.parametrize(("row", "column"), [(0, 0), (8, 3), (8, 0), (4, 2), (0, 3)])
def test_one_pixel_decides(row, column):
    """Class 1 if the red of one pixel is above 100: on an image that is not square, its last row and column too."""
    classifier = rule(lambda x: x[:, 0, row, column] - 100.5)
    record = attack(classifier, blank(1, 9, 4), SETTINGS).iloc[0]
    assert record["success"]
    assert (record["rows"], record["columns"]) == ([row], [column])
    assert record["values"][0][0] > 100
    assert (record["clean_class"], record["adversarial_class"]) == (0, 1)


@pytest.mark.parametrize(("value", "sign"), [(255, 1), (0, -1)])
def test_the_extreme_colours_can_be_reached(value, sign):
    """Only exactly 255 (or exactly 0) somewhere flips the class."""
    margin = rule(lambda x: (sign * x).flatten(1).amax(1) - (sign * value - 0.5))
    record = attack(margin, blank(1, 3, 5, value=128), SETTINGS).iloc[0]
    assert record["success"]
    assert value in record["values"][0]


def test_one_channel():
    record = attack(rule(lambda x: x[:, 0, 1, 6] - 200.5, 1), blank(1, 2, 7, channels=1), SETTINGS).iloc[0]
    assert record["success"]
    assert (record["rows"], record["columns"]) == ([1], [6])
    assert len(record["values"][0]) == 1
    assert record["values"][0][0] > 200


def test_a_rebuilt_image_is_classified_as_recorded():
    torch.manual_seed(2)
    classifier = Classifier(build("resnet8", classes=4), (0.5,) * 3, (0.25,) * 3).eval()
    images = random_images(classifier, 12)
    records = attack(classifier, images, DifferentialEvolution(population=4, generations=1), engine=FLOAT32)
    eligible = records["eligible"].to_numpy()
    rebuilt = attacked_images(images.images[eligible], records[eligible])
    changed = (rebuilt != images.images[eligible]).any(3).sum((1, 2))
    assert (changed <= 1).all()
    outputs = logits(classifier, torch.from_numpy(rebuilt), 16)
    assert outputs.argmax(1).tolist() == records.loc[eligible, "adversarial_class"].tolist()
    true = outputs.softmax(1).gather(1, torch.from_numpy(images.labels[eligible])[:, None]).squeeze(1)
    np.testing.assert_array_equal(true, records.loc[eligible, "true_probability_after"].to_numpy(np.float32))
    wrong = records.loc[eligible, "adversarial_class"] != records.loc[eligible, "label"]
    assert (records.loc[eligible, "success"] == wrong).all()
    assert 0 < wrong.sum() < len(wrong), "the case must show both successes and failures"


def random_images(classifier: Classifier, count: int) -> ImageSet:
    """Return random images, three of four labelled as the classifier sees them."""
    pictures = np.random.default_rng(3).integers(0, 256, (count, 10, 6, 3)).astype(np.uint8)
    seen = logits(classifier, torch.from_numpy(pictures), 16).argmax(1).numpy()
    labels = np.where(np.arange(count) % 4 == 3, (seen + 1) % 4, seen)
    return ImageSet(pictures, labels, np.arange(count), ("a", "b", "c", "d"), "made by a test")


def test_only_correctly_classified_images_are_attacked():
    images = blank(4, 3, 3)
    images.labels[:] = [0, 1, 0, 1]
    records = attack(rule(lambda x: x[:, 0, 1, 1] - 100.5), images, SETTINGS)
    assert records["eligible"].tolist() == [True, False, True, False]
    assert records.loc[~records["eligible"], "queries"].tolist() == [0, 0]
    assert records.loc[~records["eligible"], ATTACK_COLUMNS].isna().all(axis=None)
    assert records.loc[records["eligible"], "success"].tolist() == [True, True]


def test_no_image_is_left_to_attack(tmp_path):
    images = blank(3, 3, 3, label=1)
    records = attack(rule(lambda x: x.sum((1, 2, 3)) * 0 - 1), images, SETTINGS)
    assert not records["eligible"].any()
    assert len(records) == 3
    write_records(records, tmp_path / "records.parquet")
    again = read_records([tmp_path / "records.parquet"])
    assert again["image_id"].tolist() == [0, 1, 2]
    assert again[["rows", "columns", "values", "success"]].isna().all().all()


def test_a_network_that_nothing_flips():
    records = attack(rule(lambda x: x[:, 0].amax((1, 2)) / 256 - 2), blank(2, 4, 4), SETTINGS)
    assert records["success"].tolist() == [False, False]
    assert records["queries"].tolist() == [60 * 26] * 2
    assert records["generations"].tolist() == [25] * 2
    assert records["queries_to_success"].isna().all()
    for values in records["values"]:  # the best candidate is the brightest red
        assert values[0][0] == 255


def test_success_in_the_first_population_is_seen_at_every_candidate():
    """A flip that is not the best candidate counts too: here the true class is the more probable, the redder the pixel
    that flips it."""

    class Trap(torch.nn.Module):
        def forward(self, x):
            red = (x[:, 0] * 255).round().amax((1, 2))
            flipped = red > 0
            # Where the class flips, it does by a hair; where it does not, the true class has barely half.
            return torch.stack([torch.where(flipped, 0.0, 1e-3), torch.where(flipped, 1e-3, 0.0)], dim=1)

    classifier = Classifier(Trap(), (0.0,) * 3, (1.0,) * 3).eval()
    record = attack(classifier, blank(1, 4, 4), SETTINGS).iloc[0]
    assert record["success"]
    assert (record["queries"], record["generations"]) == (60, 0)
    assert 1 <= record["queries_to_success"] <= 3  # three of four colours drawn have some red


def test_queries_to_success_counts_up_to_the_first_flip():
    """Against a loop over the first population, drawn again from the image's own stream."""
    images, settings = blank(1, 6, 6), DifferentialEvolution(population=50, generations=0, seed=4)
    images.ids[:] = 17
    stream = np.random.default_rng(np.random.SeedSequence(4, spawn_key=(17,)))
    positions = stream.uniform(0, (6, 6), size=(50, 2))
    reds = stream.normal(128, 127, size=(50, 3))[:, 0]
    first = next(n for n in range(50) if int(positions[n, 0]) == 5 and round(np.clip(reds[n], 0, 255)) > 100)
    record = attack(rule(lambda x: x[:, 0, 5].amax(1) - 100.5), images, settings).iloc[0]
    assert record["queries_to_success"] == first + 1
    assert record["queries"] == 50


def test_a_record_depends_on_neither_order_nor_company_nor_micro_batches():
    torch.manual_seed(2)
    classifier = Classifier(build("resnet8", classes=4), (0.5,) * 3, (0.25,) * 3).eval()
    images = random_images(classifier, 12)
    settings = DifferentialEvolution(population=20, generations=4, seed=9)
    whole = attack(classifier, images, settings, engine=FLOAT32)
    backwards = attack(classifier, images.select(images.ids[::-1].tolist()), settings, engine=FLOAT32)
    parts = [attack(classifier, images.select(ids), settings, engine=FLOAT32) for ids in ([0], [1, 2, 3, 4], [5, 6])]
    pd.testing.assert_frame_equal(whole, backwards.iloc[::-1].reset_index(drop=True))
    pd.testing.assert_frame_equal(whole[:7], pd.concat(parts, ignore_index=True))


def test_the_seed_is_what_differs():
    classifier = rule(lambda x: x.amax((1, 2, 3)) - 300)
    first, again, other = (
        attack(classifier, blank(2, 8, 8), DifferentialEvolution(population=8, generations=2, seed=seed))
        for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert first["rows"].tolist() != other["rows"].tolist() or first["columns"].tolist() != other["columns"].tolist()
    assert first["values"][0] != first["values"][1], "images have streams of their own"


def test_a_network_with_other_classes_than_the_images():
    with pytest.raises(OnepixError, match="the network has 2 classes, the images have 3"):
        images = blank(1, 2, 2)
        attack(
            rule(lambda x: x.sum((1, 2, 3))),
            ImageSet(images.images, images.labels, images.ids, ("a", "b", "c"), ""),
            SETTINGS,
        )


def test_logits_that_are_not_finite():
    with pytest.raises(OnepixError, match="not finite"):
        attack(rule(lambda x: x.sum((1, 2, 3)) / 0), blank(1, 2, 2), SETTINGS)


def test_parents_are_distinct_and_every_triple_is_as_likely_as_any_other():
    triples = _distinct(np.random.default_rng(0), 6, 6, 3)
    draws = np.concatenate([_distinct(np.random.default_rng(seed), 6, 6, 3) for seed in range(4000)])
    assert triples.shape == (6, 3)
    assert all(len(set(row)) == 3 for row in draws.tolist())
    _, counts = np.unique(draws @ [36, 6, 1], return_counts=True)
    assert len(counts) == 6 * 5 * 4
    assert stats.chisquare(counts).pvalue > 0.001


HEIGHT, WIDTH, GENERATIONS, MEMBERS, SEEDS = 3000, 2000, 12, 30, 60


def fitness(rows, columns, reds):
    """A bowl with its floor inside the bounds."""
    return ((rows - 1700) / HEIGHT) ** 2 + ((columns - 600) / WIDTH) ** 2 + ((reds - 120) / 255) ** 2


def ours(seeds, variant):
    """Return the best fitness for each seed, the optimiser driven by hand."""
    streams = [np.random.default_rng(np.random.SeedSequence(0, spawn_key=(seed,))) for seed in seeds]
    settings = DifferentialEvolution(population=MEMBERS, generations=GENERATIONS, variant=variant)
    optimiser = Evolution(settings, streams, (HEIGHT, WIDTH, 1), torch.device("cpu"))
    optimiser.admit(range(len(streams)))
    best = torch.full((len(streams),), torch.inf, dtype=torch.float64)
    while not optimiser.exhausted().all():
        candidates, valid = optimiser.propose()
        values = fitness(
            candidates.rows.double(), candidates.columns.double(), candidates.values[:, :, 0].double()
        ).reshape(valid.shape)
        optimiser.observe(values, values, values)
        best = torch.minimum(best, values.amin(1))
    assert optimiser.generation.tolist() == [GENERATIONS + 1] * len(streams)
    return best.tolist()


def scipys(seeds, variant):
    """Return scipy's best fitness for each seed, generation by generation."""
    options = {
        "paper": {"strategy": "rand1bin", "mutation": 0.5},
        "best1bin": {"strategy": "best1bin", "mutation": (0.5, 1.0), "init": "latinhypercube"},
    }[variant]
    best = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        members = np.column_stack(
            [
                generator.uniform(0, HEIGHT, MEMBERS),
                generator.uniform(0, WIDTH, MEMBERS),
                generator.normal(128, 127, MEMBERS).clip(0, 255),
            ]
        )
        result = scipy_differential_evolution(
            lambda x: fitness(np.floor(x[0]), np.floor(x[1]), np.round(x[2])),
            bounds=[(0, HEIGHT), (0, WIDTH), (0, 255)],
            **{"init": members, "popsize": MEMBERS // 3, **options},
            recombination=1.0,
            maxiter=GENERATIONS,
            updating="deferred",
            polish=False,
            tol=0,
            rng=generator,
        )
        best.append(result.fun)
    return best


@pytest.mark.parametrize("variant", ["paper", "best1bin"])
def test_the_optimiser_ends_as_well_as_scipys(variant):
    """Same distribution of the best fitness over seeds (Kolmogorov–Smirnov), and not that of the first population."""
    mine, theirs = ours(range(SEEDS), variant), scipys(range(1000, 1000 + SEEDS), variant)
    assert stats.ks_2samp(mine, theirs).pvalue > 0.01
    assert np.median(mine) < 0.1 * np.median([fitness_of_first(seed) for seed in range(SEEDS)])


def test_the_variants_differ():
    """The oracle can tell them apart: the test above could fail."""
    assert stats.ks_2samp(ours(range(SEEDS), "best1bin"), scipys(range(SEEDS), "paper")).pvalue < 1e-6


def fitness_of_first(seed):
    generator = np.random.default_rng(seed)
    return fitness(
        generator.uniform(0, HEIGHT, MEMBERS), generator.uniform(0, WIDTH, MEMBERS), generator.normal(128, 127, MEMBERS)
    ).min()


def test_images_that_the_network_cannot_take():
    classifier = Classifier(build("lenet", classes=2), (0.5,) * 3, (0.5,) * 3).eval()
    with pytest.raises(OnepixError, match=r"cannot take images of 20×12×3 \(height, width, channels\): "):
        attack(classifier, blank(1, 20, 12), SETTINGS)
    with pytest.raises(OnepixError, match="network LeNet takes images of 3 channels, got 1"):
        attack(classifier, blank(1, 32, 32, channels=1), SETTINGS)
