"""The benchmarks: what they count and print is known by hand, and they run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import attacks
import contender
import curves
import gpu
import numpy as np
import pytest
import torch
from analytic import blank, rule
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
RED = rule(lambda raw: raw[:, 0, 0, 0] - 100)  # class 1 where the first pixel has more red than 100


def batch(*reds):
    """Return images of 4 × 4 as attack libraries pass them."""
    images = torch.zeros(len(reds), 3, 4, 4)
    images[:, 0, 0, 0] = torch.tensor(reds) / 255
    return images


def test_the_first_image_that_is_classified_wrongly_is_counted(monkeypatch):
    monkeypatch.setattr(contender, "clock", iter([12.5]).__next__)  # a second flip does not ask for the time
    network = contender.Counted(RED, nn.Identity())
    network.begin(0)
    network(batch(0, 10, 20, 99))
    assert (network.rows, network.first) == (4, 0)
    network(batch(5, 101, 200))
    network(batch(255))
    assert (network.rows, network.first, network.first_at) == (8, 6, 12.5)
    network.begin(1)
    assert (network.rows, network.first) == (0, 0)


def test_an_image_that_is_passed_again_counts_and_is_answered_from_memory():
    asked = []
    network = contender.Counted(rule(lambda raw: (asked.append(len(raw)), raw[:, 0, 0, 0] - 100)[1]), nn.Identity())
    network.begin(0)
    first, again, other = network(batch(50)), network(batch(50)), network(batch(51))
    assert asked == [1, 1]
    assert network.rows == 3
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class RedAbove(nn.Module):
    """Class 1 where the first pixel has more red than 100.2, as it is passed: not rounded."""

    def forward(self, images):
        red = images[:, 0, 0, 0] * 255
        return torch.stack([torch.full_like(red, 100.2), red], dim=1)


def made_up_library(passed, returned):
    """Return an attack that passes images with these reds, and returns one with these pixels changed to (red, 0, 0)."""

    def attack(network, _task):
        def run(image, _label):
            network(torch.cat([torch.from_numpy(image), batch(*passed)]))
            found = image.copy()
            for row, column, red in returned:
                found[0, 0, row, column] = red / 255
            return found

        return run

    return attack


@pytest.mark.parametrize(
    ("passed", "returned", "expected"),
    [
        ((90, 110, 200), [(0, 0, 110)], 3),  # the image itself, 90, 110
        ((90, 110, 200), [], None),  # a flip was passed, but is not returned
        ((90, 110, 200), [(0, 0, 110), (1, 2, 1)], None),  # two pixels
        ((90, 110, 200), [(0, 0, 100.4)], None),  # flips only before it is rounded
        ((90, 95, 99), [(0, 0, 110)], 4),  # returned, but never passed: known when the attack ends
    ],
)
def test_what_a_library_returns_decides_and_what_it_passed_says_when(monkeypatch, passed, returned, expected):
    monkeypatch.setattr(contender, "torchattacks_attack", made_up_library(passed, returned))
    network = contender.Classifier(RedAbove(), (0.0,) * 3, (1.0,) * 3).eval()
    found = contender.run_library(network, blank(2, 4, 4), {"kind": "torchattacks"})
    assert found["queries"] == [expected, expected]
    assert found["survived"] == [expected is not None] * 2
    assert found["passes"] == [4, 4]
    assert found["claimed"] == [bool(returned)] * 2
    if expected:
        assert 0 <= found["known"][0] < found["known"][1] <= found["seconds"]
    else:
        assert found["known"] == [None, None]


def test_a_flip_of_onepix_is_known_when_its_round_ends(monkeypatch):
    """The clock goes on whenever it is read, which is where an attack ends."""
    monkeypatch.setattr(contender, "clock", iter(range(100)).__next__)
    images = blank(3, 4, 4)
    images.images[1, 2:] = 7  # of this image, no single pixel flips the class
    network = rule(lambda raw: raw[:, 0, 0, 0] - 100 - 1000 * (raw[:, 0, 3] == 7).any(1))
    task = {"method": "scan", "settings": {"stop": "first"}, "jobs": 1, "again": False}
    found = contender.run_onepix(network, images, task)
    assert found["survived"] == [True, False, True]
    assert [queries is None for queries in found["queries"]] == [False, True, False]
    assert all(1 <= queries <= 128 for queries in found["queries"] if queries)
    assert 0 < found["known"][0] == found["known"][2] < found["seconds"]
    assert found["known"][1] is None


def result(label="onepix scan", **changes):
    """Return what a contender measured on four images, three of which it flips."""
    found = {
        "label": label,
        "survived": [True, False, True, True],
        "queries": [600, None, 40, 300],
        "known": [2.0, None, 0.5, 1.25],
        "passes": [600, 8192, 40, 300],
        "seconds": 3.5,
        "machine": {"ids": [0, 1, 2, 3], "threads": 2, "gpu": "none"},
    }
    return {**found, **changes}


NONE = result("ART PixelAttack", survived=[False, True, False, False], queries=[None, 5, None, None], known=[None] * 4)


def test_a_curve_rises_at_each_flip_to_its_share_of_the_vulnerable():
    assert curves.reached([600, None, 40, 300], 4) == ([40, 300, 600], [0.25, 0.5, 0.75])
    assert curves.reached([None, None], 4) == ([], [])


def test_vulnerable_is_what_any_contender_flips():
    assert curves.vulnerable([result(), {"label": "failed", "missing": "not installed"}]) == 3
    assert curves.vulnerable([result(), NONE]) == 4


def test_the_row_of_made_up_results():
    assert curves.row(result(), 4) == "| onepix scan | 3 of 4 | 25% | 50% | 75% | 300 | 9,132 | 3.5 | 1.25 |"
    assert curves.row({"label": "ART", "missing": "not installed"}, 4) == "| ART |" + " – |" * 8


def test_the_picture_shows_the_shares():
    figure = curves.drawn({"lenet": [result(), NONE], "resnet20": [result()]})
    queries, seconds, *_ = figure.axes
    steps = queries.lines[0].get_xydata().tolist()
    assert steps == [[40, 0], [40, 0.25], [300, 0.5], [600, 0.75], [8192, 0.75]]
    assert seconds.lines[0].get_xydata()[:, 0].tolist() == [0.5, 0.5, 1.25, 2.0, 3.5]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["onepix scan", "ART PixelAttack"]
    assert [panel.get_ylabel() for panel in figure.axes] == ["found, of 4 vulnerable", "", "found, of 3 vulnerable", ""]


def test_each_contender_has_a_look_and_both_networks_have_a_name():
    assert {task["label"] for task in curves.tasks(quick=False)} <= curves.LOOKS.keys()
    assert curves.NETWORKS.keys() == {"lenet", "resnet20"}


def test_how_much_sooner_a_resisting_image_is_settled():
    results = [
        {"label": "scan, whole", "method": "scan", "kind": "onepix", "resisting": [8192, 2.0]},
        {"label": "scan, failed", "method": "scan", "kind": "onepix", "missing": "failed"},
        {"label": "random", "method": "random_search", "kind": "onepix", "resisting": [40400, 9.0]},
        {"label": "OnePixel, 400 × 100", "kind": "torchattacks", "resisting": [40500, 53.0]},
    ]
    said = ["- scan, whole: a resisting image is settled 26.5 times as soon as by OnePixel, 400 × 100."]
    assert attacks.settled(results) == said
    assert attacks.settled([*results[:3], {"kind": "torchattacks", "missing": "not installed"}]) == []


def test_jobs_side_by_side_share_their_images():
    one = {"rate": 100.0, "all": [80, 4.0], "resisting": [90, 5.0], "memory": {"peak": 7}, "batch": 128}
    other = {"rate": 80.0, "all": [80, 5.0], "resisting": [90, 6.0], "memory": {"peak": 8}, "batch": 128}
    joint = {"rate": 180.0, "all": [80, 2.5], "resisting": [90, 3.0], "memory": {"peak": 15}, "batch": 128}
    assert attacks.together([one, other]) == joint
    assert attacks.together([one]) is one


def test_a_text_between_markers_is_replaced_and_nothing_else():
    page = "before\n<a>\nold\n<b>\nafter <a> once more\n"
    assert attacks.replaced(page, "new", "<a>", "<b>") == "before\n<a>\nnew\n<b>\nafter <a> once more\n"


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md"])
def test_pages_have_the_markers_once(page):
    text = (ROOT / page).read_text()
    assert (text.count(curves.BEGIN), text.count(curves.END)) == (1, 1)


def test_a_step_that_fails_keeps_its_rows_and_says_why(tmp_path):
    def step(_call):
        yield "first", "done"
        raise ValueError("no such card\nand more")

    gpu.perform(step, gpu.Call(True, "cpu", 0.0, 1.0, tmp_path, tmp_path), tmp_path / "rows")
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert rows == [["first", "done"], ["failed", "ValueError: no such card"]]


def test_without_a_gpu_or_the_libraries_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^PyTorch finds no GPU here; --dry runs everything small on the CPU$"):
        gpu.main()
    with pytest.raises(SystemExit, match=r"^there is no step graphs; there are machine, "):
        gpu.main(dry=True, only=["graphs"])
    for main in (attacks.main, curves.main):
        with pytest.raises(SystemExit, match=r"torchattacks is not installed there; `make bench` does that$"):
            main(libraries=tmp_path)


def test_the_shares_of_the_steps_are_nine_minutes():
    assert sum(share for _, share in gpu.STEPS.values()) <= 60 * gpu.MINUTES == 540


def test_margins_again_in_float32_are_those_of_the_rule():
    """The margin of class 0 is minus what the rule says: 100 minus the red of the first pixel."""
    evaluator = contender.Evaluator(RED, contender.Engine(windows=False), (4, 4, 3))
    colours = np.array([[[255, 0, 0], [30, 9, 9]]] * 2, np.uint8)
    index = np.array([[0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 2, 3]])
    assert gpu.exact_margins(evaluator, blank(2, 4, 4), colours, index).tolist() == [-155, 70, 100]


@pytest.mark.slow
def test_a_step_that_hangs_is_stopped_with_all_that_it_started(tmp_path):
    file, mark = tmp_path / "rows", tmp_path / "mark"
    program = f"""echo '["first", "done"]' > {file}; (sleep 3; touch {mark}) & sleep 30"""
    assert gpu.watched(["sh", "-c", program], file, 1.0) == [
        ("first", "done"),
        ("stopped", "after 1 s, its share of the time"),
    ]
    time.sleep(3)
    assert not mark.exists()
    assert gpu.watched(["sh", "-c", "exit 3"], tmp_path / "none", 5.0) == [("failed", "exit status 3")]


@pytest.mark.slow
def test_the_curves_run_without_the_libraries(tmp_path):
    command = [sys.executable, "benchmarks/curves.py", "--quick", "--libraries", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    rows = [line.split(" | ") for line in run.stdout.splitlines() if line.startswith("| ")][2:]
    labels = [task["label"] for task in curves.tasks(quick=True)]
    assert [row[0].removeprefix("| ") for row in rows] == labels
    assert all(("of" in row[1]) == row[0].startswith("| onepix") for row in rows)
    assert f"- ART PixelAttack: not installed in {tmp_path}." in run.stdout


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_small_on_a_cpu(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--dry", "--minutes", "60", "--libraries", str(tmp_path)]
    command += ["--cifar10", str(tmp_path), "--output", str(tmp_path / "table")]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    table = (tmp_path / "table").read_text()
    assert table == run.stdout
    steps = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
    assert list(dict.fromkeys(steps)) == list(gpu.STEPS)
    assert "| failed |" not in table
    assert "| stopped |" not in table
    assert f"torchattacks | not installed in {tmp_path}" in table
