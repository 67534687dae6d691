"""What the figures of a run say of attacks that found no success."""

from types import SimpleNamespace

import pandas as pd
import pytest
from made_up import stored

from onepix.datasets.bundled import load_bundled
from onepix.jobs.figures import _nothing_found, _spent, _strip

JOB = SimpleNamespace(title="lenet, de")


@pytest.fixture
def attacked(tmp_path) -> pd.DataFrame:
    """Two successes after 400 and 800 candidates, and two attacks that found none in 1,200."""
    records = stored(tmp_path)
    return records[records["eligible"]]


def test_a_title_tells_what_was_tried_in_vain(attacked):
    said = dict(zip(attacked["image_id"], map(_spent, (row for _, row in attacked.iterrows())), strict=True))
    tried = ", not found within 1,200 candidates"
    assert said == {0: "", 1: tried, 3: tried, 4: ""}


@pytest.mark.parametrize(
    ("wanted", "which", "message"),
    [
        ("success", [False], "No success was found within 1,200 candidates, in 2 attacks."),
        ("failure", [True], "All 2 attacks found a success."),
        ("2", [True, False], "Image 2 was not attacked: the network does not classify it correctly."),
        ("success", [], "No image was attacked: the network classifies none of them correctly."),
    ],
)
def test_what_a_strip_says_instead(attacked, wanted, which, message):
    figure = _strip(JOB, wanted, load_bundled(), attacked[attacked["success"].isin(which)], [])
    (text,) = figure.texts
    assert " ".join(text.get_text().split()) == message


def test_nothing_is_said_of_candidates_that_were_not_tried(attacked):
    """The most that any attack tried is told, not what its settings would have allowed."""
    cheaper = attacked[~attacked["success"].astype(bool)].assign(queries=[3, 7])
    assert _nothing_found(cheaper) == "No success was found within 7 candidates, in 2 attacks."
