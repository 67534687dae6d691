"""`onepix check` does on a few images all that a run does: each fault is one line, and the other networks go on."""

import json
import os
import re
import subprocess
import sys

import pytest
import strange_networks
import yaml
from checks import InThisProcess, check_in_this_process
from strange_networks import CASES, Tiny, configuration, write_study
from typer.testing import CliRunner

from onepix.cli import app
from onepix.config.study import parse
from onepix.jobs import attack as attack_job
from onepix.jobs import datasets as datasets_job
from onepix.jobs import networks as networks_job
from onepix.study import check as checking
from onepix.study.check import CheckedPair, check
from onepix.study.check_table import notes


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_in_this_process(monkeypatch)


def checked(cases, **changes):
    rows = check(parse({**configuration("strange_networks", cases), **changes}, "study.yaml"))
    return {row.network: row for row in rows}


def test_each_fault_is_one_line_and_the_others_go_on(capsys):
    rows = checked(
        ["asserting", "leaving", "with_logits", "talking", "scripted", "rarely_dropping", "softmax", "units"]
    )
    for name, row in rows.items():
        fault = CASES[name][1]
        assert re.search(fault, row.fault) if fault else row.fault == ""
        assert "\n" not in row.fault
        assert (row.passes is None) == (fault is not None)
    assert notes(rows["with_logits"]) == ["output.logits is taken as its logits"]
    assert notes(rows["talking"]) == []
    (said,) = notes(rows["softmax"])
    assert said.startswith("network softmax: its outputs look like probabilities")
    assert capsys.readouterr().out == "", "what networks print would stand in the table"


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        ("onepix.networks.storing.save_classifier", "unexpected: ZeroDivisionError"),
        ("onepix.networks.storing.load_network_file", "cannot be loaded again after it is stored: ZeroDivisionError"),
        ("onepix.layers.propagation.propagation_maps", "unexpected: ZeroDivisionError"),
        ("onepix.layers.receptive_field.receptive_fields", "unexpected: ZeroDivisionError"),
        ("onepix.layers.effective_field.effective_fields", "unexpected: ZeroDivisionError"),
        ("onepix.attacks.attack.attack_images", "unexpected: ZeroDivisionError"),
        ("onepix.analysis.maps.maps_tree", "unexpected: ZeroDivisionError"),
    ],
)
def test_a_fault_at_any_step_of_a_run_is_found(function, fault, monkeypatch):
    """Whatever a run does is tried: storing, loading, attacking, following layers, fields, the stored tables."""

    def broken(*_, **__):
        return 1 / 0

    monkeypatch.setattr(function, broken)
    (row,) = checked(["plain"]).values()
    assert fault in row.fault
    assert "\n" not in row.fault


def test_all_attacks_of_a_network_are_tried_for_a_moment(monkeypatch):
    seen = []

    class Counting(Tiny):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    monkeypatch.setitem(strange_networks.CASES, "counting", (lambda: strange_networks.seeded(Counting), None))
    attacks = {
        "de": {"population": 400, "generations": 100, "target": "all", "pixels": 3},
        "random": {"method": "random_search", "budget": 5000},
        "scan": {"method": "scan", "colours": "palette", "target": 3, "refine": 8},
    }
    runs = [{"dataset": "sample", "networks": ["counting"], "attacks": list(attacks), "images": "0-9"}]
    (row,) = checked(["counting"], attacks=attacks, runs=runs, engine={"micro_batch": 16, "windows": False}).values()
    assert row.fault == ""
    assert sum(seen) < 1500


def test_a_target_that_is_no_class_is_found():
    (row,) = checked(["plain"], attacks={"a": {"target": 12}}).values()
    assert row.fault == "target: 12 is not a class; the images have classes 0–9"


def test_what_comes_out_of_a_broken_process_is_one_line(monkeypatch):
    class Broken(InThisProcess):
        def submit(self, *_):
            raise TypeError("cannot pickle\n'_thread.lock' object")

    monkeypatch.setattr(checking, "ProcessPoolExecutor", Broken)
    assert checked(["plain"]) == {
        "plain": CheckedPair("sample", "plain", fault="TypeError: cannot pickle '_thread.lock' object")
    }


@pytest.mark.parametrize("case", ["dropping", "centred"])
def test_the_workflows_attack_refuses_what_check_refuses(case, tmp_path):
    values = configuration("strange_networks", [case])
    network, dataset = tmp_path / case / "manifest.json", tmp_path / "sample" / "manifest.json"
    entry = {**values["networks"][case]}
    networks_job.run(json.dumps({"network": entry}), network)
    datasets_job.run(json.dumps({"dataset": {"source": "bundled"}}), dataset)
    settings = {"attack": values["attacks"]["a"], "image_ids": [0, 1], "engine": {"device": "cpu"}}
    output = tmp_path / "results/sample" / case / "a/attack/0-24.json"
    with pytest.raises(checking.OnepixError, match=CASES[case][1]):
        attack_job.run(json.dumps(settings), dataset, network, output)
    assert not output.exists()


@pytest.mark.slow
def test_all_strangers_in_one_configuration(tmp_path, monkeypatch):
    """One line for each network, one exit; with `PYTHONPATH=tests/helpers` it can be run by hand, too."""
    monkeypatch.syspath_prepend(tmp_path)
    path = write_study(tmp_path)
    done = CliRunner().invoke(app, ["check", path.name])
    lines = [line for line in done.stdout.splitlines() if "not followed, or not as maps" not in line]
    for name, (_, fault) in CASES.items():
        told = [line for line in lines if line.startswith(f"sample × {name}: ")]
        if fault is None:
            assert all("is taken as" in line or "look like" in line for line in told), name
            assert any(line.split()[:2] == ["sample", name] for line in lines)
        else:
            assert len(told) == 1, name
            assert re.search(fault, told[0]), told
    faults = sum(fault is not None for _, fault in CASES.values())
    assert str(done.exception) == f"{faults} of the rows above would stop the run"
    assert "Traceback" not in done.output


@pytest.mark.slow
def test_strangers_in_processes_of_their_own(tmp_path):
    """As a user runs it: what ends a process, or prints, harms no other row."""
    path = write_study(tmp_path)
    cases = ["leaving", "talking", "with_tuple", "recursive"]
    path.write_text(yaml.safe_dump(configuration("strangers", cases)))
    command = [sys.executable, "-m", "onepix", "check", path.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "seen torch.Size" not in done.stdout
    assert "sample × leaving: network leaving cannot take images of 32×32×3" in done.stdout
    assert "sample × with_tuple: output[0] is taken as its logits" in done.stdout
    assert done.stderr.strip() == "onepix: 2 of the rows above would stop the run"
