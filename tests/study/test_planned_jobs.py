"""`onepix plan` on a finished study of three chunks of four images (LeNet two, ResNet-20 one)."""

import re
import subprocess
import sys

import pytest
import yaml
from inside import command_inside, plan
from studies import Study


def written(study, folder, config=None):
    file = folder / "planned.yaml"
    file.write_text(yaml.safe_dump(study.CONFIG if config is None else config))
    return str(file)


def planned(study, folder, config=None, *options):
    """Run `onepix plan` in a study's folder; the configuration is written elsewhere."""
    return command_inside(study.folder, "plan", written(study, folder, config), *options)


def told(run):
    """Return the rows of rules (name → jobs and reasons), those of runs (name → cells), and the lines below them."""
    assert (run.returncode, run.stderr) == (0, ""), run.stderr + run.stdout
    rules, runs, *notes = re.split(r"\n\s*\n", run.stdout)
    unfolded = re.sub(r"\n {10,}", " ", rules)
    by_rule = {}
    for line in unfolded.splitlines()[1:]:
        name, jobs, why = line.strip().split(maxsplit=2)
        by_rule[name] = int(jobs), " ".join(why.split())
    by_run = {}
    for line in runs.splitlines()[1:]:
        cells = re.split(r"\s{2,}", line.strip())
        name, cells = (cells[1], cells[3:]) if cells[0] == "sample" else (cells[0], cells[1:])
        by_run[name] = cells
    return by_rule, by_run, "\n".join(notes)


def jobs(by_rule):
    return {name: count for name, (count, _) in by_rule.items()}


def files(study):
    folders = [study.folder / name for name in ("data", "results", "logs", ".snakemake/metadata")]
    return {file: file.stat().st_mtime_ns for folder in folders for file in folder.rglob("*") if file.is_file()}


def test_nothing_to_do(finished_study, tmp_path):
    before = files(finished_study)
    run = finished_study.command("onepix", "plan", written(finished_study, tmp_path))
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "nothing would run: all results exist and match the configuration\n"
    assert files(finished_study) == before


@pytest.mark.slow
def test_more_generations(finished_study, tmp_path):
    """Every image is attacked anew: 8 and 4 images × 200 candidates × 6, the first population included."""
    config = finished_study.changed("attacks", "de", "generations", to=5)
    before = files(finished_study)
    by_rule, by_run, notes = told(planned(finished_study, tmp_path, config))
    assert files(finished_study) == before
    assert jobs(by_rule) | {"all": 1} == plan(finished_study.folder, config), "as Snakemake counts them"
    assert by_rule["attack"] == (3, "attacks.de.generations: 4 → 5")
    assert by_rule["propagation"] == (3, "after attack")
    assert by_rule["controls"] == (3, "after locality")
    assert by_run["lenet"][:3] == ["8 of 8", "1,200", "9,600"]
    assert by_run["resnet20"][:3] == ["4 of 4", "1,200", "4,800"]
    assert by_run["sum"][:2] == ["12 of 12", "14,400"]
    for cells in (by_run["lenet"], by_run["resnet20"]):
        assert re.fullmatch(r"[1-9][\d,.]*", cells[3]), cells
        assert re.fullmatch(r"(< 1|[\d.]+) (s|min|h|d)", cells[4]), cells
    assert "Passes per second were measured just now" in notes
    assert "Only attacks are counted; the jobs of other rules take time, too." in notes


def test_more_images(finished_study, tmp_path):
    config = finished_study.changed("runs", 0, "images", to="0-11")
    by_rule, by_run, _ = told(planned(finished_study, tmp_path, config, "--no-trial"))
    assert jobs(by_rule) | {"all": 1} == plan(finished_study.folder, config)
    assert by_rule["attack"] == (1, "new")
    assert by_rule["propagation"] == (1, "new")
    assert by_rule["receptive_fields"][1].startswith("runs.0.images: 0-7 → 0-11")
    assert by_run["lenet"][:3] == ["4 of 12", "1,000", "4,000"]
    assert by_run["lenet"][3:] == ["?", "?"], "nothing was tried"
    assert by_run["resnet20"] == ["0 of 4", "–", "0", "–", "–"]
    assert by_run["sum"] == ["4 of 16", "4,000", "?"]


def test_other_layers_make_maps_anew_and_attack_nothing(finished_study, tmp_path):
    config = finished_study.changed("propagation", "layers", to=["*conv*"])
    by_rule, by_run, _ = told(planned(finished_study, tmp_path, config))
    assert by_rule["propagation"] == (3, 'propagation.layers: auto → ["*conv*"]')
    assert "attack" not in by_rule
    assert by_run["sum"] == ["0 of 12", "0", "0 s"]


@pytest.mark.slow
def test_a_module_is_edited(study_copy, tmp_path):
    with (study_copy.folder / "onepix/attacks/search.py").open("a") as file:
        file.write("# edited\n")
    by_rule, by_run, _ = told(study_copy.command("onepix", "plan", written(study_copy, tmp_path), "--no-trial"))
    assert by_rule["attack"] == (3, "onepix/attacks/search.py changed")
    assert "onepix/attacks/search.py changed" in by_rule["locality"][1]
    assert "attacks/search" not in by_rule["summary"][1]
    assert by_run["sum"][:2] == ["12 of 12", "12,000"]


def test_an_output_is_gone(study_copy, tmp_path):
    (study_copy.folder / "results/tables/success.csv").unlink()
    by_rule, by_run, notes = told(planned(study_copy, tmp_path, None, "--no-trial"))
    assert by_rule == {"tables": (1, "its output is gone")}
    assert by_run["sum"] == ["0 of 12", "0", "0 s"]
    assert notes.strip() == "Only attacks are counted; the jobs of other rules take time, too."


def test_a_change_is_named_where_something_before_it_changed_too(study_copy, tmp_path):
    """Snakemake then says no more than that the attack follows from another job."""
    with (study_copy.folder / "onepix/jobs/networks.py").open("a") as file:
        file.write("# edited\n")
    config = study_copy.changed("attacks", "de", "seed", to=7)
    by_rule, *_ = told(planned(study_copy, tmp_path, config, "--no-trial"))
    assert by_rule["networks"] == (2, "onepix/jobs/networks.py changed")
    assert by_rule["attack"] == (3, "attacks.de.seed: 0 → 7; after networks")


def test_images_chosen_by_a_rule_are_not_known_yet(finished_study, tmp_path):
    config = finished_study.changed("runs", 1, "images", to={"first": 4})
    by_rule, by_run, notes = told(planned(finished_study, tmp_path, config, "--no-trial"))
    assert by_rule["selection"] == (1, "new")
    assert by_run["resnet20"] == ["?", "?", "?", "?", "?"]
    assert by_run["lenet"][0] == "0 of 8"
    assert "sample × resnet20 × de: a rule will choose the images when the dataset has been fetched" in notes


def test_a_dataset_to_be_fetched(finished_study, tmp_path, monkeypatch):
    """What a scan takes depends on the images' size; what differential evolution takes does not."""
    monkeypatch.setenv("ONEPIX_CACHE", str(tmp_path / "cache"))
    config = finished_study.changed("datasets", "later", to={"source": "torchvision:CIFAR10"})
    config["attacks"]["scan"] = {"method": "scan"}
    config["runs"].append({"dataset": "later", "networks": ["lenet"], "attacks": ["de", "scan"], "images": "0-3"})
    run = planned(finished_study, tmp_path, config)
    assert (run.returncode, run.stderr) == (0, "")
    evolution, scan = (line.split() for line in run.stdout.splitlines() if line.startswith(" later "))
    assert evolution[2:8] == ["de", "4", "of", "4", "1,000", "4,000"]
    assert scan[2:8] == ["scan", "4", "of", "4", "?", "?"]
    assert "later × lenet: to be fetched: later: " in run.stdout


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["runs", 0, "networks"], ["lennet"], "runs.0.networks: 'lennet' is unknown; did you mean 'lenet'?"),
        (["runs", 0, "images"], {"file": "no.txt"}, "no.txt: No such file or directory; expected a text file of"),
    ],
)
def test_a_mistake_is_one_line(finished_study, tmp_path, path, value, message):
    run = planned(finished_study, tmp_path, finished_study.changed(*path, to=value))
    assert (run.returncode, run.stdout) == (1, "")
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_workflow_that_cannot_be_read(study_copy, tmp_path):
    with (study_copy.folder / "Snakefile").open("a") as file:
        file.write("rule nothing\n")
    run = planned(study_copy, tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("onepix: Snakemake cannot plan this study: ")
    assert len(run.stderr.splitlines()) == 1


def test_elsewhere(tmp_path):
    (tmp_path / "planned.yaml").write_text(yaml.safe_dump(Study.CONFIG))
    command = [sys.executable, "-m", "onepix", "plan", "planned.yaml"]
    run = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"onepix: {tmp_path}: no Snakefile; run onepix plan in the folder of the Snakefile\n"
