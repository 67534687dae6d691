"""Sets of images."""

import numpy as np
import pytest
from analytic import blank

from onepix.errors import OnepixError
from onepix.images import ImageSet


def test_selection_is_by_id_and_in_the_order_asked_for(noise):
    chosen = noise.select([24, 0, 3])
    assert chosen.ids.tolist() == [24, 0, 3]
    assert np.array_equal(chosen.images, noise.images[[8, 0, 1]])
    assert np.array_equal(chosen.labels, noise.labels[[8, 0, 1]])


def test_an_id_outside_the_set_is_named(noise):
    with pytest.raises(OnepixError, match="1 is not in the set, which holds 9 images with ids 0–24"):
        noise.select([0, 1])


def test_no_image_may_be_selected():
    assert blank(2, 3, 4).select([]).images.shape == (0, 3, 4, 3)


@pytest.mark.parametrize(
    ("images", "labels", "ids", "told"),
    [
        (np.zeros((2, 4, 4, 3), float), [0, 1], [0, 1], "images must be uint8, got float64"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], [0, 1], r"shape \(image, y, x, channel\), got \(2, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0], [0, 1], r"labels must have the shape \(2,\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 2], [0, 1], "labels must lie in 0–1 .* got 2"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 1], [4, 4], "ids must be unique"),
        (np.zeros((2, 0, 4, 3), np.uint8), [0, 1], [0, 1], "images must have pixels"),
    ],
)
def test_what_is_not_a_set_of_images_is_refused(images, labels, ids, told):
    with pytest.raises(OnepixError, match=told):
        ImageSet(images, np.array(labels), np.array(ids), ("a", "b"), "made by a test")
