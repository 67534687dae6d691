"""Pixel changes: 8-bit values, reachable bounds, rows and columns in their places."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onepix.pixels import Perturbation, from_genes


@given(st.data())
def test_apply_is_the_naive_loop(data):
    count, height, width, channels, pixels = (data.draw(st.integers(1, high)) for high in (4, 6, 5, 4, 3))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    images = generator.integers(0, 256, (count, height, width, channels)).astype(np.uint8)
    rows = generator.integers(0, height, (count, pixels))
    columns = generator.integers(0, width, (count, pixels))
    values = generator.integers(0, 256, (count, pixels, channels)).astype(np.uint8)
    expected = images.copy()
    for n in range(count):
        for p in range(pixels):
            expected[n, rows[n, p], columns[n, p]] = values[n, p]
    before = torch.from_numpy(images.copy())
    changed = Perturbation(*map(torch.from_numpy, (rows, columns, values))).apply(before)
    assert np.array_equal(changed.numpy(), expected)
    assert np.array_equal(before.numpy(), images), "the original must not change"


@pytest.mark.parametrize(
    ("genes", "row", "column", "value"),
    [
        ((0.0, 0.0, 0.0), 0, 0, 0),
        ((3.0, 9.0, 255.0), 2, 8, 255),  # the upper bound belongs to the last pixel
        ((2.999, 8.999, 254.6), 2, 8, 255),
        ((1.0, 0.99, 254.4), 1, 0, 254),
        ((0.5, 4.0, 0.5), 0, 4, 0),
    ],
)
def test_genes_of_an_image_that_is_not_square(genes, row, column, value):
    change = from_genes(torch.tensor([[genes]], dtype=torch.float64), height=3, width=9)
    assert (change.rows.item(), change.columns.item(), change.values.item()) == (row, column, value)


def test_every_row_column_and_colour_is_equally_likely():
    height, width, steps = 3, 5, 4
    rows = torch.linspace(0, height, steps * height + 1, dtype=torch.float64)[:-1]
    columns = torch.linspace(0, width, steps * width + 1, dtype=torch.float64)[:-1]
    counts = [
        from_genes(torch.stack([r, c, c], -1)[:, None], height, width)
        for r, c in ((rows, torch.zeros_like(rows)), (torch.zeros_like(columns), columns))
    ]
    assert torch.bincount(counts[0].rows.flatten()).tolist() == [steps] * height
    assert torch.bincount(counts[1].columns.flatten()).tolist() == [steps] * width


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5))
def test_whatever_the_genes_the_pixel_lies_in_the_image(genes):
    change = from_genes(torch.tensor([[genes]], dtype=torch.float64), height=4, width=6)
    assert 0 <= change.rows.item() < 4
    assert 0 <= change.columns.item() < 6
    assert change.values.dtype == torch.uint8
