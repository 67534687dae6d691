"""Every text of a configuration has a checked type, and each such type refuses or bears whatever may stand there."""

import copy

import pytest
from hostile import BRACED, BROKEN, OPTIONS, OTHER, SCRIPT, SHELL

from onepix.config import parse
from onepix.errors import OnepixError

CONFIG = {
    "datasets": {
        "mine": {"source": "arrays", "path": "a.npz", "class_names": ["a", "b"]},
        "folder": {"source": "folder", "path": "pictures", "labels": "labels.csv"},
        "other": {"source": "torchvision:MNIST", "split": "test", "root": "copy"},
    },
    "networks": {"net": {"architecture": "lenet", "weights": "mine.pth", "sha256": "0" * 64}},
    "attacks": {"one": {"population": 4, "generations": 0}},
    "runs": [
        {"dataset": "mine", "networks": ["net"], "attacks": ["one"], "images": "0-1"},
        {"dataset": "folder", "networks": ["net"], "attacks": ["one"], "images": {"file": "ids.txt"}},
    ],
    "engine": {"device": "cpu"},
    "propagation": {"layers": ["*conv*"]},
    "figures": {"strip_layers": ["*"], "colour_map": "magma"},
    "existing_cifar10": "copy",
    "data": "data",
    "results": "results",
}
NAMES = [["datasets"], ["networks"], ["attacks"]]  # of the keys in these
REFERENCES = [["runs", 0, "dataset"], ["runs", 0, "networks", 0], ["runs", 0, "attacks", 0]]
FOLDERS = [["data"], ["results"]]
PLACES = [
    *(["datasets", "mine", "path"], ["datasets", "folder", "path"], ["datasets", "folder", "labels"]),
    *(["datasets", "other", "root"], ["networks", "net", "weights"], ["runs", 1, "images", "file"]),
    ["existing_cifar10"],
]
TEXTS = [
    *(["datasets", "mine", "class_names", 0], ["networks", "net", "architecture"], ["propagation", "layers", 0]),
    *(["figures", "strip_layers", 0], ["figures", "colour_map"]),
]
FIXED = [  # what only takes one of a few words or a form
    *(["datasets", "mine", "source"], ["datasets", "other", "source"], ["datasets", "other", "split"]),
    *(["networks", "net", "sha256"], ["engine", "device"], ["runs", 0, "images"]),
]


def changed(path, value):
    config = copy.deepcopy(CONFIG)
    target = config
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return config


def value_at(config, path):
    for key in path:
        config = config[key] if isinstance(config, dict | tuple) else getattr(config, str(key))
    return config


def refused(config):
    """Return what is said of a configuration that is refused, whatever the line breaks in it."""
    with pytest.raises(OnepixError) as caught:
        parse(config, "study.yaml")
    said = str(caught.value)
    assert said.startswith("study.yaml: ")
    assert said.isprintable(), said
    assert len(said) < 1200
    return said


def test_the_configuration_itself_is_fine():
    assert parse(CONFIG, "study.yaml").results == "results"


@pytest.mark.parametrize("path", NAMES, ids=str)
@pytest.mark.parametrize(
    "text", [*BROKEN, *BRACED, *OPTIONS, *SHELL, *(set(OTHER) - {"CON"}), ".hidden", "x/y", "x" * 101]
)
def test_a_name_is_letters_and_digits(path, text):
    """Whatever could leave its folder, or be more than a word to a shell, is no name."""
    config = copy.deepcopy(CONFIG)
    entries = config[path[0]]
    entries[text] = next(iter(entries.values()))
    assert f"{path[0]}." in refused(config)


@pytest.mark.parametrize(
    ("kind", "text"), [("datasets", "tables"), ("datasets", "sharing"), ("attacks", "receptive_fields.json")]
)
def test_a_name_that_results_have_taken(kind, text):
    config = copy.deepcopy(CONFIG)
    config[kind][text] = next(iter(config[kind].values()))
    assert f"{kind}.{text}: results have a file or folder of this name; choose another" in refused(config)


@pytest.mark.parametrize("path", REFERENCES, ids=str)
@pytest.mark.parametrize("text", [*BROKEN, *BRACED, *OPTIONS, *SHELL, *OTHER])
def test_what_refers_to_a_name_is_one(path, text):
    refused(changed(path, text))


@pytest.mark.parametrize("path", [*FOLDERS, *PLACES, *TEXTS], ids=str)
@pytest.mark.parametrize("text", BROKEN)
def test_text_that_is_empty_or_breaks_lines_is_refused(path, text):
    assert ".".join(map(str, path)).removesuffix(".0") in refused(changed(path, text))


@pytest.mark.parametrize("path", FOLDERS, ids=str)
@pytest.mark.parametrize("text", [*BRACED, *OPTIONS, SCRIPT])
def test_a_folder_that_snakemake_or_a_command_would_misread(path, text):
    assert "expected a folder whose name holds none of { } < and begins with neither - nor ~" in refused(
        changed(path, text)
    )


@pytest.mark.parametrize("path", FOLDERS, ids=str)
@pytest.mark.parametrize("text", [*SHELL, *(set(OTHER) - {SCRIPT})])
def test_a_folder_may_be_called_anything_else(path, text):
    assert value_at(parse(changed(path, text), "study.yaml"), path) == text


@pytest.mark.parametrize(("text", "folder"), [("./out", "out"), ("out//", "out"), ("a/./b/", "a/b"), ("../x", "../x")])
def test_one_folder_has_one_spelling(text, folder):
    assert parse(changed(["results"], text), "study.yaml").results == folder


@pytest.mark.parametrize("path", PLACES, ids=str)
@pytest.mark.parametrize("text", BRACED)
def test_a_place_that_snakemake_would_misread(path, text):
    assert "expected no braces, which Snakemake takes for wildcards" in refused(changed(path, text))


@pytest.mark.parametrize("path", [*PLACES, *TEXTS], ids=str)
@pytest.mark.parametrize("text", [*SHELL, *OTHER, "-rf"])
def test_other_text_is_taken_as_it_is(path, text):
    assert value_at(parse(changed(path, text), "study.yaml"), path) == text


@pytest.mark.parametrize("path", FIXED, ids=str)
@pytest.mark.parametrize("text", [*BROKEN, *BRACED, *OPTIONS, *SHELL, *(set(OTHER) - {"CON"})])
def test_what_has_a_form_has_no_other(path, text):
    refused(changed(path, text))


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        (["networks", "net", "weights"], "~nosuchuser/x", "there is no such user's home folder"),
        (["networks", "net", "weights"], "package:os.path/x", "a path inside an installed package"),
        (["networks", "net", "weights"], "package:../x", "a path inside an installed package"),
        (["networks", "net", "weights"], "package:onepix/../../x", "a path inside an installed package"),
        (["networks", "net", "weights"], "package:onepix//etc/passwd", "a path inside an installed package"),
        (["networks", "net", "weights"], "https://me:secret@example.org/w.pth", "an address without a password"),
        (["runs", 0, "images"], "0-999999999999", "image ids are below 1000000"),
        (["runs", 0, "images"], "9" * 5000, "runs.0.images"),
        (["runs", 0, "images"], [10**30], "image ids are below 1000000"),
        (["runs", 0, "images"], {"first": 10**300}, "less than or equal to 1000000"),
        (["attacks", "one", "seed"], 2**70, "less than 9223372036854775808"),
        (["engine", "device"], "cuda:٣", "String should match pattern"),
        (["attacks", "one"], {"a\nb": 1}, r"unknown key 'a\nb'"),
    ],
)
def test_values_that_would_do_harm_later(path, text, told):
    assert told in refused(changed(path, text))
