"""Patches that are cut out of clean maps, against slices of one image at a time."""

import pytest
import torch

from onepix.engine.patches import Cut, Span


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("channels", [1, 3, 6, 16])
def test_patches_are_slices_with_the_window_put_in(channels, dtype):
    """Windows of 3 × 2 around pixels of 7 × 5; patches begin 1 above and 2 to the left of them, 5 × 4; padded by 9."""
    pixels = torch.arange(7), torch.arange(5)
    starts = [(each - 1).clamp(0, len(each) - size) for each, size in zip(pixels, (3, 2), strict=True)]
    cut = Cut(Span.around(starts[0] - 1, 5, starts[0], 3), Span.around(starts[1] - 2, 4, starts[1], 2))
    assert cut.margins((7, 5)) == ((1, 1), (2, 0))
    generator = torch.Generator().manual_seed(0)
    padding = ((1, 2), (2, 3))
    clean = torch.randint(-99, 99, (2, 7 + 3, 5 + 5, channels), generator=generator).to(dtype)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(*pixels, indexing="ij"))
    owners = torch.arange(35) % 2
    values = torch.randint(-99, 99, (35, channels, 3, 2), generator=generator).to(dtype)
    found = cut(clean, padding, owners, (rows, columns), values)
    for index in range(35):
        top, left = int(starts[0][rows[index]]), int(starts[1][columns[index]])
        expected = clean[owners[index]].clone()
        expected[1 + top : 1 + top + 3, 2 + left : 2 + left + 2] = values[index].permute(1, 2, 0)
        expected = expected[top : top + 5, left : left + 4].permute(2, 0, 1)
        assert torch.equal(found[index], expected), index


def test_a_patch_that_misses_a_part_of_the_window():
    """Every second position of a map is read, from the first that is even: the window 1–3 begins before it."""
    starts, begins = torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2])
    span = Span.around(begins, 1, starts, 3)
    assert (span.begins.tolist(), span.offsets.tolist()) == ([-1, 1, 1], [1, 0, 1])
    assert (span.length, span.wanted) == (4, slice(1, 2))
    whole = Span.around(torch.zeros(1, dtype=torch.int64), 1, torch.zeros(1, dtype=torch.int64), 1)
    values = torch.arange(10.0, 19).reshape(3, 1, 3, 1)
    clean = torch.arange(7.0).reshape(1, 7, 1, 1)  # padded by one above and below
    pixel = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    found = Cut(span, whole)(clean, ((1, 1), (0, 0)), torch.zeros(3, dtype=torch.int64), pixel, values)
    # Position 0 of the window from 0, 2 of that from 1 (its second), and 2 of that from 2 (its first).
    assert found.flatten().tolist() == [10.0, 14.0, 16.0]
