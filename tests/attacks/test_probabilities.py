"""Class probabilities in records: all of few classes; of many, the likeliest before and after, and those concerned."""

import numpy as np
import pytest
import torch
from analytic import blank
from torch import nn

from onepix.attacks.attack import attack_images
from onepix.attacks.probabilities import probability_columns
from onepix.config.attacks import RandomSearch, Scan
from onepix.files.records import read_records, write_records
from onepix.images import ImageSet
from onepix.networks.classifier import Classifier

SCAN = Scan(method="scan", gradient=False)  # the networks here have none
NAMES = ["probability_classes", "probabilities_before", "probabilities_after"]


class Fixed(nn.Module):
    """The logits of a blank image are given, those of an image with any red in it are others."""

    def __init__(self, clean, changed):
        super().__init__()
        self.clean, self.changed = torch.tensor(clean).float(), torch.tensor(changed).float()

    def forward(self, x):
        red = x[:, 0].amax((1, 2)) > 0
        return torch.where(red[:, None], self.changed, self.clean)


def of_classes(count: int, images: int, labels) -> ImageSet:
    made = blank(images, 2, 3)
    return ImageSet(made.images, np.array(labels), made.ids, tuple(map(str, range(count))), "made by a test")


@pytest.mark.parametrize("classes", [3, 20])
def test_up_to_twenty_classes_all_are_recorded(classes, tmp_path):
    clean, changed = np.arange(classes) / 10, np.arange(classes)[::-1] / 10
    images = of_classes(classes, 2, [classes - 1, 0])
    records = attack_images(Classifier(Fixed(clean, changed)).eval(), images, SCAN).records
    write_records(records, tmp_path / "records.parquet")
    attacked, not_eligible = (row for _, row in read_records([tmp_path / "records.parquet"])[NAMES].iterrows())
    before, after = (np.exp(logits) / np.exp(logits).sum() for logits in (clean, changed))
    for row in (attacked, not_eligible):
        assert row["probability_classes"].tolist() == list(range(classes))
        np.testing.assert_allclose(row["probabilities_before"], before, rtol=1e-6)
    np.testing.assert_allclose(attacked["probabilities_after"], after, rtol=1e-6)
    assert not_eligible["probabilities_after"] is None


def test_of_many_classes_the_likeliest_and_those_concerned():
    """Seven classes come first before the attack or after it; the target, 15, does neither."""
    clean, changed = np.zeros(21), np.zeros(21)
    clean[[20, 3, 8, 9, 1, 2]] = 9, 8, 7, 6, 5, 4
    changed[[8, 20, 3, 0, 4, 2]] = 9, 8, 7, 6, 5, 4
    classifier = Classifier(Fixed(clean, changed)).eval()
    aimed = RandomSearch(method="random_search", target=15, budget=10)
    records = attack_images(classifier, of_classes(21, 3, [20, 18, 15]), aimed).records
    assert records["eligible"].tolist() == [True, False, False]
    classes = [row.tolist() for row in records["probability_classes"]]
    assert classes == [[0, 1, 3, 4, 8, 9, 15, 20], [1, 3, 8, 9, 15, 18, 20], [1, 3, 8, 9, 15, 20]]
    for name, logits in (("probabilities_before", clean), ("probabilities_after", changed)):
        share = (np.exp(logits) / np.exp(logits).sum())[classes[0]]
        np.testing.assert_allclose(records[name][0], share, rtol=1e-5)
    assert records["probabilities_after"].isna().tolist() == [False, True, True]


def test_probabilities_are_those_of_the_other_columns():
    """The true class's probability, the target's and the largest are among them, to the last bit."""
    classifier = Classifier(Fixed([5, 1, 2], [1, 2, 5])).eval()
    record = attack_images(classifier, of_classes(3, 1, [0]), SCAN.model_copy(update={"target": 2})).records.iloc[0]
    before, after = record["probabilities_before"], record["probabilities_after"]
    assert (before[0], after[0]) == (record["true_probability_before"], record["true_probability_after"])
    assert after[2] == record["target_probability_after"] == record["adversarial_confidence"] == after.max()


def test_ties_go_to_the_first_classes():
    """So that a record does not depend on how a library sorts."""
    even = np.full((1, 30), 1 / 30, np.float32)
    columns = probability_columns(even, even, np.array([True]), np.array([[29, -1]]))
    assert columns["probability_classes"][0].tolist() == [0, 1, 2, 3, 4, 29]
