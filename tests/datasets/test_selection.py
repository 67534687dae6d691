"""Which images a run attacks."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepix.config.reading import validated
from onepix.config.selection import Selection
from onepix.config.study import Run
from onepix.datasets.selection import ids_in_file, listed_ids, select
from onepix.errors import OnepixError
from onepix.jobs import datasets as fetch_dataset
from onepix.jobs import selection as select_job

LABELS = np.array([0, 1, 1, 0, 2, 2, 1, 0, 2, 1])
IDS = np.array([3, 5, 8, 10, 21, 22, 30, 31, 32, 40])


def chosen(**rule):
    return select(Selection(**rule), IDS, LABELS, "runs.0.images")


def test_the_first_images_stand_first_in_the_dataset():
    assert chosen(first=3) == (3, 5, 8)
    assert chosen(first=10) == tuple(IDS.tolist())
    reversed_order = select(Selection(first=2), IDS[::-1], LABELS[::-1], "")
    assert reversed_order == (32, 40), "the first of the dataset, ascending"


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_so_many_of_each_class(seed, count):
    ids = chosen(per_class=count, seed=seed)
    labels = [int(LABELS[image_id == IDS][0]) for image_id in ids]
    assert sorted(labels) == sorted([0, 1, 2] * count)
    assert list(ids) == sorted(set(ids))
    assert set(chosen(per_class=max(count - 1, 1), seed=seed)) <= set(ids), "more of them add to fewer"


def test_each_image_of_a_class_is_drawn_equally_often():
    """Class 1 has four images; in 4,000 draws of one each comes 1,000 times, with a standard deviation of 27."""
    drawn = [next(i for i in chosen(per_class=1, seed=seed) if i in (5, 8, 30, 40)) for seed in range(4000)]
    _, counts = np.unique(drawn, return_counts=True)
    assert len(counts) == 4
    assert np.abs(counts - 1000).max() < 4 * 27.4


def test_the_seed_decides():
    assert chosen(per_class=1, seed=1) == chosen(per_class=1, seed=1)
    assert len({chosen(per_class=1, seed=seed) for seed in range(20)}) > 1


def test_a_file_of_ids(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("# those of the paper\n5\n7-9, 3   # and these\n\n5\n")
    assert ids_in_file(path) == (3, 5, 7, 8, 9)
    assert listed_ids(Selection(file=str(path))) == (3, 5, 7, 8, 9)
    assert listed_ids("0-2, 9") == (0, 1, 2, 9)


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ("", "ids.txt: no image id; expected ids or ranges such as 0-49, one per line"),
        ("# nothing\n", "ids.txt: no image id"),
        ("3\nfour\n", "ids.txt, line 2: cannot read 'four'; expected ids such as 7"),
        ("9-3\n", "ids.txt, line 1: cannot read '9-3'"),
        (b"\xff\xfe\x00", "ids.txt: not a text file; expected a text file of image ids"),
        (None, "ids.txt: No such file or directory; expected a text file of image ids"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, contents, told):
    path = tmp_path / "ids.txt"
    if contents is not None:
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(OnepixError) as caught:
        ids_in_file(path)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"first": 11}, "runs.0.images: first: 11 is more than the 10 images of the dataset"),
        ({"per_class": 4}, "runs.0.images: per_class: 4 is more than the 3 images of class 0"),
    ],
)
def test_more_than_there_are(rule, told):
    with pytest.raises(OnepixError) as caught:
        chosen(**rule)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ({}, "expected one of first, per_class and file, got none"),
        ({"first": 3, "per_class": 2}, "expected one of first, per_class and file, got first and per_class"),
        ({"first": 0}, "greater than or equal to 1"),
        ({"frist": 3}, "unknown key 'frist'; did you mean 'first'?"),
    ],
)
def test_rules_that_are_none(images, told):
    values = {"dataset": "d", "networks": ["n"], "attacks": ["a"], "images": images}
    with pytest.raises(OnepixError) as caught:
        validated(Run, values, "study.yaml")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_job_lists_ids(tmp_path):
    fetch_dataset.run(json.dumps({"dataset": {"source": "bundled"}}), tmp_path / "d" / "manifest.json")
    settings = json.dumps({"images": {"per_class": 1, "seed": 2}})
    select_job.run(settings, tmp_path / "d" / "manifest.json", tmp_path / "ids.txt")
    assert len(ids_in_file(tmp_path / "ids.txt")) == 10, "CIFAR-10 has ten classes"
