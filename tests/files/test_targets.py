"""Keys and goals of attacks, by hand; goals also by tensors, which searches judge."""

import numpy as np
import pandas as pd
import pytest
import torch

from onepix.files.records import successes
from onepix.files.targets import keys, keys_of, reached, targets_of

RECORDS = pd.DataFrame(
    {
        "image_id": [4, 4, 7],
        "target": pd.array([None, 2, 0], dtype="Int64"),
        "success": pd.array([True, None, False], dtype="boolean"),
    }
)


def test_keys_of_records():
    assert targets_of(RECORDS).tolist() == [-1, 2, 0]
    assert keys_of(RECORDS) == [(4, -1), (4, 2), (7, 0)] == keys(np.array([4, 4, 7]), [-1, 2, 0])
    with pytest.raises(ValueError, match="shorter"):
        keys([1, 2], [0])


def test_the_successes_of_records_some_of_which_were_not_attacked():
    assert successes(RECORDS)["image_id"].tolist() == [4]
    assert len(successes(RECORDS[:0])) == 0


CLASSES, LABELS, TARGETS = [3, 1, 1, 2, 0], [3, 3, 3, 3, 3], [-1, -1, 1, 1, -1]
EXPECTED = [False, True, True, False, True]


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_a_goal_is_its_target_or_any_class_but_the_label(array):
    assert reached(array(CLASSES), array(LABELS), array(TARGETS)).tolist() == EXPECTED
    maps = array([[[3, 1]], [[1, 3]]])
    labels, targets = array([3, 3]).reshape(-1, 1, 1), array([-1, 3]).reshape(-1, 1, 1)
    assert reached(maps, labels, targets).tolist() == [[[False, True]], [[False, True]]]
