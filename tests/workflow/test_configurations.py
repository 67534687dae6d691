"""The workflow reads configurations as the commands do, whatever Snakemake has made of them."""

import pytest
import yaml
from inside import opened
from studies import Study, new_study

GOOD = yaml.safe_dump(Study.CONFIG, sort_keys=False)
MODULE = """
configfile: "outer.yaml"

module inner:
    snakefile: "Snakefile"
    config: config["inner"]

use rule * from inner as inner_*
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return new_study(tmp_path_factory.mktemp("configurations") / "study")


def read(study, text=GOOD, *options, **settings):
    with opened(study.folder, text, options, **settings) as parsed:
        return parsed.globals["CONFIG"]


def told(study, text=GOOD, *options, **settings):
    with pytest.raises(SystemExit) as caught:
        read(study, text, *options, **settings)
    return str(caught.value).removeprefix("onepix: ").splitlines()


def test_files_are_read_as_yaml_1_2(study):
    config = read(study, GOOD.replace("lenet", "no").replace("architecture: no", "architecture: lenet"))
    assert list(config.networks) == ["no", "resnet20"]
    assert read(study, f"{GOOD}data: 10:49\n").data == "10:49"


def test_mistakes_have_a_line(study):
    lines = GOOD.splitlines()
    line = lines.index("images_per_job: 4") + 1
    last = len(lines) + 1
    assert told(study, f"{GOOD}images_per_job: 5\n") == [
        f"study.yaml:{last}: images_per_job: given twice, on lines {line} and {last}; keep one of them"
    ]
    assert told(study, GOOD.replace("images_per_job: 4", "images_per_job: 1:30")) == [
        f"study.yaml:{line}: images_per_job: Input should be a valid integer, got '1:30'"
    ]


def test_options_are_read_as_files_are(study):
    options = ["images_per_job=1e1", "engine={micro_batch: 8, fold: false}", "data=5:30"]
    config = read(study, GOOD, *options)
    assert (config.images_per_job, config.engine.micro_batch, config.engine.fold) == (10, 8, False)
    assert config.data == "5:30"
    assert told(study, GOOD, "images_per_job=yes", "engine={fold: no}") == [
        "--config images_per_job=yes: images_per_job: Input should be a valid integer, got 'yes'",
        "--config engine={fold: no}: engine.fold: Input should be a valid boolean, got 'no'",
    ]


def test_the_workflows_own_file_and_options(study):
    line = (study.folder / "config/config.yaml").read_text().splitlines().index("figures:") + 2
    assert read(study, None, "images_per_job=3").images_per_job == 3
    assert told(study, None, "figures={dpi: on}") == [
        "--config figures={dpi: on}: figures.dpi: Input should be a valid integer, got 'on'"
    ]
    assert told(study, None, "figures={strip_layers: 5}", "data=5")[1].startswith("--config data=5: data: ")
    assert told(study, None, "images_per_job=3", replace=True)[0] == "--config: datasets: Field required"
    assert read(study, None, replace=True) == read(study, None), "nothing is given in its place"
    own = study.folder / "config/config.yaml"
    before = own.read_text()
    own.write_text(before.replace('strip_layers: ["*relu*", "*pool*"]', "strip_layers: no"))
    try:
        assert told(study, None)[0].startswith(f"config/config.yaml:{line}: figures.strip_layers: Input should be")
    finally:
        own.write_text(before)


def test_a_workflow_that_takes_this_one_as_a_module_may_change_its_configuration(study):
    """What the other workflow passes on is taken as it is: its file has other keys, and lines say nothing."""
    (study.folder / "Outer").write_text(MODULE)
    (study.folder / "outer.yaml").write_text(yaml.safe_dump({"inner": Study.CONFIG, "other": 1}))
    with opened(study.folder, None, snakefile="Outer") as parsed:
        assert "inner_attack" in {rule.name for rule in parsed.rules}
    (study.folder / "outer.yaml").write_text(yaml.safe_dump({"inner": Study.CONFIG | {"images_per_job": "4"}}))
    assert told(study, None, snakefile="Outer") == ["config: images_per_job: Input should be a valid integer, got '4'"]
