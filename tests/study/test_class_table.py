"""What `onepix check` prints about classes: which output each is, how many images it has, and what was left out."""

from pathlib import Path

import numpy as np
import pytest
from checks import check_in_this_process
from pictured import written

from onepix.config.study import Config, parse
from onepix.study.check import CheckedPair, check
from onepix.study.check_table import show

FACTORY = """
from torch import nn

def ten():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))

def thousand():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Networks of 10 and of 1,000 classes, and three datasets: numbered, by WordNet ids, with a stray."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    check_in_this_process(monkeypatch)
    (tmp_path / "factories_of_classes.py").write_text(FACTORY)
    for dataset, classes in (("numbered", map(str, range(1, 11))), ("nette", ("n02102040", "n03888257"))):
        for name in classes:
            written(tmp_path / dataset / name / "a.png", np.full((6, 5, 3), 9, np.uint8))
    written(tmp_path / "nette" / "n03888257" / "b.png", np.full((6, 5, 3), 9, np.uint8))
    (tmp_path / "nette" / "n03888257" / "c.heic").write_bytes(b"\0\0\0\x18ftypheic")
    scaling = {"weights": "factory", "mean": [0.5] * 3, "std": [0.5] * 3}
    networks = {name: {"architecture": f"factories_of_classes:{name}", **scaling} for name in ("ten", "thousand")}
    datasets = {name: {"source": "folder", "path": name} for name in ("numbered", "nette")}
    pairs = (("numbered", ["ten"]), ("nette", ["ten", "thousand"]))
    runs = [{"dataset": name, "networks": list(used), "attacks": ["a"], "images": 0} for name, used in pairs]
    return parse({"datasets": datasets, "networks": networks, "attacks": {"a": {}}, "runs": runs}, "study.yaml")


def test_classes_are_outputs_of_the_network(study: Config, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(check(study))
    by_rank, refused, mapped = rows
    assert by_rank.counted == [(number - 1, str(number), 1) for number in range(1, 11)]
    assert refused.fault == "the network has 10 classes, the images have 2 (n02102040, n03888257)"
    assert refused.counted == [(0, "n02102040", 1), (1, "n03888257", 2)]
    assert (mapped.fault, mapped.outputs) == ("", 1000)
    assert mapped.counted == [(217, "English springer", 1), (701, "parachute", 2)]

    assert show(study, rows) == 1
    text = capsys.readouterr().out
    for part in (
        "nette × thousand: class, name, images; 998 more without images\n"
        "  217  English springer  1\n  701  parachute  2\n",
        "numbered × ten: class, name, images\n    0  1  1\n    1  2  1\n",
        "numbered: classes are in the order of their numbers, 2 before 10",
        "nette: left out 1 file of 1 kind: .heic 1 (n03888257/c.heic: a picture in HEIC",
    ):
        assert part in text
    assert text.count("left out 1 file") == 1, "two networks have the same images"


def test_many_classes_stand_in_columns(study: Config, capsys: pytest.CaptureFixture[str]) -> None:
    counted = [(index, f"class of [red] {index}", 7000) for index in range(1000)]
    show(study, [CheckedPair("many", name, counted=counted, outputs=1000) for name in ("first", "second")])
    text = capsys.readouterr().out
    _, table = text.split("many × first, second: class, name, images\n")
    lines = table.splitlines()
    *rows, rest = lines[: lines.index("… and 800 more classes") + 1]
    assert len(rows) <= 50
    assert max(map(len, rows)) <= 180
    assert rows[0].startswith("    0  class of [red] 0  7,000")
    assert f"{len(rows)}  class of [red] {len(rows)}  7,000" in rows[0], "numbers go down, then right"
    assert rest == "… and 800 more classes"
