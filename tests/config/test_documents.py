"""Configuration files: YAML as its version 1.2 says, and messages that name file and line."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from onepix.config.documents import merged, read_file, read_option, written
from onepix.config.study import load, parse
from onepix.errors import OnepixError
from onepix.study.runs import image_ids

STUDY = """\
datasets:
  sample: {source: bundled}
networks:
  lenet:
    architecture: lenet
attacks:
  de:
    population: 10
  scan:
    method: scan
runs:
  - dataset: sample
    networks: [lenet]
    attacks: [de]
    images: 0-9
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(own_folder):
    """Return a function that reads files of these names and contents, and returns what is told."""

    def told(*options, **files):
        for name, text in files.items():
            contents = text if isinstance(text, bytes) else text.encode()
            (own_folder / f"{name}.yaml").write_bytes(contents)
        with pytest.raises(OnepixError) as caught:
            load(*(own_folder / f"{name}.yaml" for name in files), options=options)
        return str(caught.value)

    return told


def values_of(text):
    Path("c.yaml").write_bytes(text.encode())
    return read_file(Path("c.yaml")).values


# What stands after a colon, and what it is.
PLAIN = {
    **{text: text for text in ("10:49", "1:30:00", "190:20:30.15", "no", "yes", "On", "off", "y", "N", "2026-11-25")},
    **{text: text for text in ("2001-12-14 21:59", "1_000", "0b11", "0-49", "1e", "e3", "+", "=", "tru", "Infinity")},
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **{"010": 10, "0o10": 8, "0x1F": 31, "-7": -7, "+12": 12, "00": 0, "1e-3": 0.001, "1e3": 1000.0, "-.5": -0.5},
    **{"6.": 6.0, "1.5E+2": 150.0, ".inf": math.inf, "-.INF": -math.inf, "!!str 7": "7", "!!int '7'": 7},
    **{"'no'": "no", '"10"': "10", "<<": "<<"},
}


@pytest.mark.parametrize("text", PLAIN)
def test_a_value_is_what_yaml_1_2_says(text):
    (value,) = values_of(f"key: {text}\n").values()
    assert (type(value), value) == (type(PLAIN[text]), PLAIN[text])


def test_not_a_number():
    assert math.isnan(values_of("key: .nan")["key"])


def test_words_are_text_as_keys_too():
    assert values_of("no: {on: 1, 10:49: 2, 010: 3}") == {"no": {"on": 1, "10:49": 2, 10: 3}}


@pytest.mark.parametrize(
    ("line", "to", "message"),
    [
        (15, "images: 10:49", "runs.0.images: cannot read '10:49'; expected ids such as 7, 0-49 or 0-9, 20-29"),
        (15, "images: yes", "runs.0.images: cannot read 'yes'; expected ids such as 7"),
        (15, "images: true", "runs.0.images: Input should be a valid integer or"),
        (15, "images: [0, 1:30]", "runs.0.images.1: Input should be a valid integer, got '1:30'"),
        (15, "images: [0, true]", "runs.0.images.1: Input should be a valid integer, got True"),
        (15, "images: {first: on}", "runs.0.images.first: Input should be a valid integer, got 'on'"),
        (8, "target: no", "attacks.de.target: Input should be a valid integer or Input should be 'all', got 'no'"),
        (8, "target: false", "attacks.de.target: Input should be a valid integer or Input should be 'all', got False"),
        (8, "seed: '5'", "attacks.de.seed: Input should be a valid integer, got '5'"),
        (8, "colour_mean: true", "attacks.de.colour_mean: Input should be a valid number, got True"),
        (8, "colour_mean: .nan", "attacks.de.colour_mean: Input should be a finite number, got nan"),
        (8, "differential_weight: [0.5, on]", "attacks.de.differential_weight.1: Input should be a valid number"),
        (10, "method: scan\n    refine: true", "attacks.scan.refine: Input should be a valid integer, got True"),
        (2, "sample: {source: folder, path: a, channels: yes}", "datasets.sample.channels: "),
        (2, "sample: {source: folder, path: a, channels: true}", "datasets.sample.channels: expected a number"),
        (2, "sample: {source: arrays, path: a, class_names: [a, 1]}", "datasets.sample.class_names.1: Input should be"),
        (5, "architecture: lenet\n    wieghts: x", "networks.lenet: unknown key 'wieghts'; did you mean 'weights'?"),
        (13, "networks: [lennet]", "runs.0.networks: 'lennet' is unknown; did you mean 'lenet'?"),
        (12, "- networks: [lenet]", "runs.0.dataset: Field required"),
    ],
)
def test_a_mistake_is_told_with_its_line(told, line, to, message):
    lines = STUDY.splitlines()
    lines[line - 1] = lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())] + to
    if "dataset" in message and line == 12:
        del lines[12]
    extra = to.count("\n")
    assert told(study="\n".join(lines)).startswith(f"study.yaml:{line + extra}: {message}")


@pytest.mark.parametrize("images", ["1e2", "100.0", "100", "0x64"])
def test_whole_numbers_in_any_spelling(images):
    Path("study.yaml").write_text(STUDY.replace("0-9", images))
    assert load(Path("study.yaml")).runs[0].images == "100"


@pytest.mark.parametrize("key", ["fold: 1", "fold: no", "windows: 'true'", "windows: on"])
def test_only_true_and_false_are_booleans(told, key):
    assert told(study=f"{STUDY}engine:\n  {key}\n").startswith(f"study.yaml:17: engine.{key.partition(':')[0]}: ")


def test_a_key_given_twice_is_told_with_both_lines(told):
    text = STUDY.replace("    images: 0-9\n", "    images: 0-9\n    'images': 3\n") + "data: a\nengine: {}\ndata: b\n"
    assert told(study=text).splitlines() == [
        "study.yaml:16: runs.0.images: given twice, on lines 15 and 16; keep one of them",
        "study.yaml:19: data: given twice, on lines 17 and 19; keep one of them",
    ]


def test_anchors_and_merges():
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: no\nd: {<<: *b}\ne: *a\n"
    assert values_of(text)["c"] == {"x": "no", "y": 2, "z": 4}
    assert values_of(text)["d"] == {"y": 3, "z": 4}
    assert values_of(text)["e"] == {"x": 1, "y": 2}
    where = read_file(Path("c.yaml")).origins
    assert [where["c", key] for key in "xyz"] == ["c.yaml:5", "c.yaml:1", "c.yaml:2"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("", "study.yaml:1: expected keys such as networks: and runs:, got nothing"),
        ("# nothing\n", "study.yaml:1: expected keys such as networks: and runs:, got nothing"),
        ("- a\n", "study.yaml:1: expected keys such as networks: and runs:, got a list"),
        ("hello", "study.yaml:1: expected keys such as networks: and runs:, got 'hello'"),
        ("a: 1\nb:\n\tc: 2\n", "study.yaml:3: not YAML: a tab; YAML is indented by spaces"),
        ("a: 1\n---\nb: 2\n", "study.yaml:2: a second document begins; expected one per file"),
        ("a: 1\nb: [1, 2\n", "study.yaml:3: not YAML: while parsing a flow sequence expected ',' or ']'"),
        ("a: 1\nb: *c\n", "study.yaml:2: not YAML: found undefined alias 'c'"),
        ("a: 1\nb: \x07\n", "study.yaml:2: not YAML: the character U+0007 is not allowed"),
        ("a: 1\nb: &b [1, *b]\n", "study.yaml:2: b.1: its value holds an alias of itself"),
        ("a: 1\nb: &b {<<: *b}\n", "study.yaml:2: b: its value holds an alias of itself"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", "study.yaml:2: b: the tag !!python/object/apply:os.sys"),
        ("a: 1\nb: !!int x\n", "study.yaml:2: b: cannot read 'x' as !!int"),
        ("a: 1\n? [1]\n: 2\n", "study.yaml:2: expected text as a key, got a mapping or a list"),
        ("a: 1\n<<: 5\n", "study.yaml:2: <<: expected a mapping, or a list of mappings"),
        ("a: " + "[" * 1000, "study.yaml:1: nested too deeply"),
        ("a: 1\n__use_yte__: true\n", "study.yaml:2: templates are not read; `yte < study.yaml` fills one in"),
        ("a: 1\nb: Müller\n".encode("latin-1"), "study.yaml:2: not UTF-8 (byte 0xfc); save the file as UTF-8"),
        (STUDY.encode("utf-16"), "study.yaml:1: not UTF-8 (byte 0xff); save the file as UTF-8"),
        ('{"a": 1,\n\t"b": 2,\n}', "study.yaml:3: not JSON: "),
        ('{"a": 1,\n\t"a": 2}', "study.yaml:2: a: given twice, on lines 1 and 2; keep one of them"),
    ],
)
def test_what_is_no_configuration_is_told(told, contents, message):
    assert told(study=contents).startswith(message)
    assert "\n" not in told(study=contents)


def test_aliases_that_unfold_to_very_much(told, monkeypatch):
    monkeypatch.setattr("onepix.config.documents.MOST", 1000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert told(study="\n".join(lines)) == "study.yaml:1: more than 1,000 values, with those that aliases repeat"


@pytest.mark.parametrize("change", ["bom", "crlf", "cr", "json", "json with tabs", "no template"])
def test_the_same_study_in_other_clothes(change):
    plain = yaml.safe_load(STUDY)
    contents = {
        "bom": "\ufeff" + STUDY,
        "crlf": STUDY.replace("\n", "\r\n"),
        "cr": STUDY.replace("\n", "\r"),
        "json": json.dumps(plain),
        "json with tabs": json.dumps(plain, indent="\t"),
        "no template": f"__use_yte__: false\n{STUDY}",
    }[change]
    assert values_of(contents) == plain


def test_escapes_of_json():
    text = {"path": "a\U0001f600/\u00e9\\"}
    assert values_of(json.dumps(text)) == text


def test_of_several_files_the_one_that_gave_the_value_is_named(told):
    later = "# more\nimages_per_job: yes\nattacks:\n  de: {population: many, seed: 1}\n  more: {seed: no}\n"
    assert told(first=STUDY.replace("population: 10", "pixels: on"), later=later).splitlines() == [
        "first.yaml:8: attacks.de.pixels: Input should be a valid integer, got 'on'",
        "later.yaml:4: attacks.de.population: Input should be a valid integer, got 'many'",
        "later.yaml:5: attacks.more.seed: Input should be a valid integer, got 'no'",
        "later.yaml:2: images_per_job: Input should be a valid integer, got 'yes'",
    ]
    assert told(a="networks: {}\n", b="data: x\n").splitlines()[0] == "a.yaml + b.yaml: datasets: Field required"


def test_values_of_an_option_are_told_as_such_and_win(told):
    options = ["images_per_job=x", "engine={device: cpu, fold: no}", "data=5:30", "results=a: b: c"]
    assert told(*options, study=STUDY + "engine: {bound: wide}\n").splitlines() == [
        "--config images_per_job=x: images_per_job: Input should be a valid integer, got 'x'",
        "study.yaml:16: engine.bound: Input should be a valid number or Input should be 'auto', got 'wide'",
        "--config engine={device: cpu, fold: no}: engine.fold: Input should be a valid boolean, got 'no'",
    ]
    Path("study.yaml").write_text(STUDY + "images_per_job: yes\nengine: {bound: 1e-3}\n")
    read = load(Path("study.yaml"), options=["images_per_job=7", "engine={micro_batch: 8}", "data=5:30"])
    assert (read.images_per_job, read.engine.micro_batch, read.engine.bound, read.data) == (7, 8, 0.001, "5:30")


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("a: {b: 1, c: 2}", "a: {b: 3}"),
        ("a: {b: 1}", "a: 5"),
        ("a: 5", "a: {b: 1}"),
        ("a: {b: {c: 1}}", "a: {b: {}}"),
        ("a: [1, 2]", "a: [3]"),
        ("a: [1, 2]", "a: {}"),
        ("a:", "a: {b: 1}"),
        ("a: {b: 1}", "a:"),
        ("a: 1", "b: {c: {}}"),
    ],
)
def test_files_are_merged_as_snakemake_merges_them(first, later):
    from snakemake.utils import update_config

    expected = yaml.safe_load(first)
    update_config(expected, yaml.safe_load(later))
    Path("first.yaml").write_text(first)
    Path("later.yaml").write_text(later)
    assert merged(read_file(Path("first.yaml")), read_file(Path("later.yaml"))).values == expected


def test_what_a_later_file_replaces_has_no_origin_any_more():
    Path("first.yaml").write_text("a: {b: {c: 1}, d: 2}")
    Path("later.yaml").write_text("a: {b: 3}")
    origins = merged(read_file(Path("first.yaml")), read_file(Path("later.yaml"))).origins
    assert origins == {("a",): "later.yaml:1", ("a", "b"): "later.yaml:1", ("a", "d"): "first.yaml:1"}


@pytest.mark.parametrize("text", ["", "x", "5", "1e1", "null", "[1, 2]", "{a: no}", "[1", "@x", "a: b: c", "'x'", "=y"])
def test_an_option_is_a_value_of_yaml_or_text(text):
    expected = {"": None, "5": 5, "1e1": 10.0, "null": None, "[1, 2]": [1, 2], "{a: no}": {"a": "no"}, "'x'": "x"}
    assert read_option(f"key={text}").values == {"key": expected.get(text, text)}


LEAVES = st.text(max_size=8) | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()


@given(st.dictionaries(st.text(max_size=8), LEAVES, max_size=3))
@example({"\x85": None})
@example({"a": "b\u2028c\nd"})
def test_what_is_written_is_read_as_the_same_by_both_versions_of_yaml(values):
    try:
        expected = yaml.safe_load(yaml.safe_dump(values))
    except yaml.YAMLError:  # halves of characters
        return
    assert yaml.safe_load(written(values)) == expected
    Path("c.yaml").write_text(written(values), encoding="utf-8")
    assert (read_file(Path("c.yaml")).values if values else {}) == values


def test_a_number_of_numpy_is_a_number():
    from onepix.config.attacks import DifferentialEvolution

    read = DifferentialEvolution(population=np.int64(8), generations=1e1, colour_mean=np.float32(2))
    assert (read.population, read.generations, read.colour_mean) == (8, 10, 2.0)
    with pytest.raises(ValueError, match="generations"):
        DifferentialEvolution(generations=np.float64(1.5))


def test_a_study_knows_where_it_was_written_and_is_the_same_elsewhere():
    for name in ("one", "other"):
        Path(f"{name}.yaml").write_text(STUDY.replace("0-9", "{file: ids.txt}"))
    one, other = load(Path("one.yaml")), load(Path("other.yaml"))
    with pytest.raises(OnepixError, match=r"^one\.yaml:15: runs\.0\.images: ids\.txt: No such file"):
        image_ids(one, 0, lambda *_: Path())
    assert pickle.loads(pickle.dumps(other)).spelled("runs", 0, "images") == "other.yaml:15: runs.0.images"
    assert parse(yaml.safe_load(STUDY), "study").spelled("runs", 0) == "runs.0"
    assert one == other
    assert one.model_dump() == other.model_dump()


def test_values_without_a_file_are_told_by_their_source():
    values = yaml.safe_load(STUDY) | {"images_per_job": True}
    with pytest.raises(OnepixError, match=r"^a call: images_per_job: Input should be a valid integer, got True$"):
        parse(values, "a call")
