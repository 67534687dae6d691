"""Every text of a configuration has a checked type, and each such type refuses or bears whatever may stand there.

The types are found in the models, so that a field of tomorrow is looked at too: a text without a check fails here.
"""

import copy
import re
import typing
from collections.abc import Iterator

import pytest
from hostile import BRACED, BROKEN, EVERYTHING, OPTIONS, SCRIPT
from pydantic import BaseModel, Field, JsonValue, TypeAdapter

from onepix.config.base import Folder, Name, PathText, Plain, Text
from onepix.config.study import Config, parse
from onepix.errors import OnepixError

CONFIG = {
    "datasets": {
        "mine": {"source": "arrays", "path": "a.npz", "class_names": ["a", "b"]},
        "folder": {"source": "folder", "path": "pictures", "labels": "labels.csv"},
        "other": {"source": "torchvision:MNIST", "split": "test", "root": "copy"},
    },
    "networks": {
        "net": {"architecture": "lenet", "weights": "mine.pth", "sha256": "0" * 64},
        "made": {"architecture": "mine:make", "arguments": {"text": "a", "list": [{"inside": "a"}]}},
    },
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
HARMLESS = re.compile(r"[A-Za-z0-9_.:-]+")  # a word to a shell, one part of a path, plain in HTML and YAML


# The types of all texts, found in the models


class Leaf(typing.NamedTuple):
    """A text that a configuration may hold: where, and what is checked of it."""

    key: str
    checks: frozenset[str]


def leaves(model: type[BaseModel], before: str = "") -> Iterator[Leaf]:
    """Yield every text that a model's fields may hold, those in the models inside it too."""
    own = {
        field
        for validator in model.__pydantic_decorators__.field_validators.values()
        for field in validator.info.fields
    }
    for name, field in model.model_fields.items():
        key = f"{before}{name}"
        checks = checks_of(field.metadata) | ({f"{model.__name__}.{name}"} if name in own else set())
        yield from texts_in(field.annotation, key, frozenset(checks))


def texts_in(annotation: typing.Any, key: str, checks: frozenset[str]) -> Iterator[Leaf]:
    """Yield the texts that a value of this type may be or hold; what is no known type might hold any."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from texts_in(inner[0], key, checks | checks_of(inner[1:]))
    elif origin is typing.Literal:
        words = sorted(word for word in inner if isinstance(word, str))
        if words:
            yield Leaf(key, frozenset({f"one of {words}"}))
    elif annotation is str or annotation is JsonValue:
        yield Leaf(key, checks)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from leaves(annotation, f"{key}.")
    elif inner:
        parts = [part for part in inner if part not in (..., type(None))]
        for part in parts:
            yield from texts_in(part, key, checks if len(parts) == 1 or origin is not dict else frozenset())
    elif annotation not in (int, float, bool, type(None)):
        yield Leaf(key, frozenset())


def checks_of(metadata: typing.Iterable[typing.Any]) -> frozenset[str]:
    """Name what is checked of a text: functions, and patterns."""
    found = set()
    for item in metadata:
        if hasattr(item, "func"):
            found.add(item.func.__name__)
        if pattern := getattr(item, "pattern", None):
            found.add(f"pattern {pattern}")
        found |= checks_of(getattr(item, "metadata", ()))
    return frozenset(found - {"in_order"})  # which checks nothing


def checks_in(of_type: typing.Any) -> frozenset[str]:
    (leaf,) = texts_in(of_type, "", frozenset())
    return leaf.checks


def known(leaf: Leaf) -> bool:
    """Tell whether one of the tests below tries a text's type."""
    if leaf.checks in (checks_in(kind) for kind in (Name, Text, PathText, Folder, Plain)):
        return True
    (check, *more) = leaf.checks or [""]
    return not more and (check in OWN or check.startswith(("pattern ", "one of ")))


def test_every_text_has_a_checked_type():
    assert [leaf for leaf in leaves(Config) if not known(leaf)] == []


def test_the_texts_are_found():
    """Some of each type; otherwise the test above would hold of nothing."""
    found = {(leaf.key, leaf.checks) for leaf in leaves(Config)}
    for key, kind in (
        ("datasets", Name),
        ("datasets.labels", PathText),
        ("datasets.class_names", Text),
        ("networks.weights", PathText),
        ("runs.networks", Name),
        ("runs.images.file", PathText),
        ("propagation.layers", Text),
        ("figures.strip_layers", Text),
        ("results", Folder),
    ):
        assert (key, checks_in(kind)) in found, key
    assert {check for _, checks in found for check in checks} >= set(OWN)
    assert len({key for key, _ in found}) >= 30


def test_a_text_without_a_check_would_be_found():
    class Careless(BaseModel):
        anything: str
        several: tuple[str, ...] | None
        by_name: dict[str, Text]
        whatever: typing.Any
        checked: Text
        number: int | None

    found = [leaf for leaf in leaves(Careless) if not known(leaf)]
    assert [leaf.key for leaf in found] == ["anything", "several", "by_name", "whatever"]


# Each type, tried with all texts


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


def tried(path, refusals):
    """Try all texts at a place: some are refused, in a line that names it and says so much; the others are kept."""
    for text in EVERYTHING:
        if text in refusals:
            said = refused(changed(path, text))
            assert ".".join(map(str, path)) in said, text
            assert refusals[text] in said, text
        else:
            assert value_at(parse(changed(path, text), "study.yaml"), path) == text


def test_the_configuration_itself_is_fine():
    assert parse(CONFIG, "study.yaml").results == "results"


def test_a_text_breaks_no_line():
    tried(["figures", "colour_map"], dict.fromkeys(BROKEN, ""))


def test_arguments_are_printable_also_inside_lists_and_tables():
    broken = {text: "" for text in BROKEN if text}
    tried(["networks", "made", "arguments", "text"], broken)
    path = ["networks", "made", "arguments", "list"]
    for text in broken:
        assert ".".join(path) in refused(changed(path, [{"inside": [text]}]))
        assert ".".join(path) in refused(changed(path, [{text: 1}]))
    for number in (float("nan"), float("-inf")):
        assert "finite number" in refused(changed(path, [1, number]))


def test_a_place_is_what_snakemake_takes_for_a_file():
    braces = "expected no braces, which Snakemake takes for wildcards"
    nobody = {"~nosuchuser/x": "expected a path; the user of this home folder is unknown"}
    tried(["networks", "net", "weights"], dict.fromkeys(BROKEN, "") | dict.fromkeys(BRACED, braces) | nobody)


def test_a_folder_is_what_neither_snakemake_nor_a_command_misreads():
    told = "expected a folder name without { } < that does not begin with - or ~"
    tried(["results"], dict.fromkeys(BROKEN, "") | dict.fromkeys([*BRACED, *OPTIONS, SCRIPT], told))


@pytest.mark.parametrize(("text", "folder"), [("./out", "out"), ("out//", "out"), ("a/./b/", "a/b"), ("../x", "../x")])
def test_one_folder_has_one_spelling(text, folder):
    assert parse(changed(["results"], text), "study.yaml").results == folder


def test_a_name_is_letters_and_digits():
    """Whatever could leave its folder, or be more than a word to a shell, is no name; nor can it be referred to."""
    for text in [*EVERYTHING, ".hidden", "x/y", "x" * 101]:
        config = copy.deepcopy(CONFIG)
        config["datasets"][text] = config["datasets"]["mine"]
        if text != "CON":
            assert "datasets." in refused(config)
        refused(changed(["runs", 0, "dataset"], text))


@pytest.mark.parametrize(
    ("kind", "text"), [("datasets", "tables"), ("datasets", "sharing"), ("attacks", "receptive_fields.json")]
)
def test_a_name_that_results_have_taken(kind, text):
    config = copy.deepcopy(CONFIG)
    config[kind][text] = next(iter(config[kind].values()))
    assert f"{kind}.{text}: the results have a file or folder of this name; choose another" in refused(config)


def patterns():
    return sorted({check for leaf in leaves(Config) for check in leaf.checks if check.startswith("pattern ")})


@pytest.mark.parametrize("pattern", patterns())
def test_a_pattern_lets_only_harmless_words_through(pattern):
    """Also where a line break comes last, which $ allows in many languages."""
    adapter = TypeAdapter(typing.Annotated[str, Field(pattern=pattern.removeprefix("pattern "))])
    for text in EVERYTHING:
        try:
            adapter.validate_python(text)
        except ValueError:
            continue
        assert HARMLESS.fullmatch(text), text


def test_words_to_choose_from_are_harmless():
    """Those that a text must be one of; nothing else is taken, as one of them shows."""
    words = [check for leaf in leaves(Config) for check in leaf.checks if check.startswith("one of ")]
    assert words
    for word in re.findall(r"'([^']*)'", " ".join(words)):
        assert HARMLESS.fullmatch(word), word
    for text in EVERYTHING:
        refused(changed(["datasets", "mine", "source"], text))


# Texts that a validator of their own reads, and where one stands
OWN = {
    "NetworkSettings.sha256": ["networks", "net", "sha256"],
    "Run.images": ["runs", 0, "images"],
}


@pytest.mark.parametrize("path", [*OWN.values(), ["engine", "device"], ["datasets", "other", "source"]], ids=str)
def test_what_has_a_form_has_no_other(path):
    for text in EVERYTHING:
        refused(changed(path, text))


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        (["networks", "net", "weights"], "~nosuchuser/x", "expected a path; the user of this home folder is unknown"),
        (["networks", "net", "weights"], "package:os.path/x", "a path inside an installed package"),
        (["networks", "net", "weights"], "package:../x", "a path inside an installed package"),
        (["networks", "net", "weights"], "package:onepix/../../x", "a path inside an installed package"),
        (["networks", "net", "weights"], "package:onepix//etc/passwd", "a path inside an installed package"),
        (["networks", "net", "weights"], "https://me:secret@example.org/w.pth", "a URL without a password"),
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
