"""Names, paths and files that try to do more than they should: refused in one line, or harmless."""

import base64
import copy
import json
import marshal
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from conftest import ONE_THREAD, new_study
from PIL import Image
from torchvision.datasets.utils import extract_archive

from onepix.config.datasets import FolderDataset, TorchvisionDataset
from onepix.config.study import parse
from onepix.datasets.arrays import load_arrays
from onepix.datasets.folder import load_folder
from onepix.datasets.from_torchvision import load_torchvision
from onepix.errors import OnepixError
from onepix.networks.build import build
from onepix.networks.checkpoints import read_tensors
from onepix.networks.weights import load_network_file, read_metadata

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

BROKEN = ["", "\n", "a\nb", "a\n", "a\0b", "\x1b[31mred", "a\rb", "a\u2028b", "\x85", "\ud800", "a\tb"]
BRACED = ["{dataset}", "a{", "out}", "{wildcards.network}", "{"]
OPTIONS = ["-rf", "--output=x", "~", "~/x", "~nosuchuser/x"]
SHELL = [
    "a b",
    "'",
    '"',
    "a'b\"c",
    "; touch harm",
    "$(touch harm)",
    "`touch harm`",
    "a && b",
    "| tee x",
    "> x",
    "*",
    "!!",
]
SCRIPT = "</script><script>alert(1)</script>"
OTHER = [
    "..",
    "../x",
    "/etc/passwd",
    "a/../../b",
    SCRIPT,
    "%s%n",
    "\\",
    "é",
    "💥",
    "CON",
    "x" * 300,
]
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


HARM = "touch harm; echo harm > ../harm"
HOSTILE = f"out 'x' \"y\" $({HARM}) `{HARM}`; {HARM} & > b *"
CLASSES = ["$(touch harm)", "'; touch harm", SCRIPT, "$x_{", "../../harm", *"fghij"]


def tree(*folders):
    return {str(path) for folder in folders for path in folder.rglob("*")}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A study in a folder of its own, with home, cache and temporary folders that can be looked at."""
    for name in ("home", "cache", "tmp", "place"):
        (tmp_path / name).mkdir()
    for variable, name in (
        ("HOME", "home"),
        ("XDG_CACHE_HOME", "home/.cache"),
        ("ONEPIX_CACHE", "cache"),
        ("TMPDIR", "tmp"),
    ):
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return new_study(tmp_path / "place" / "study")


def bundled_arrays(study, path):
    with np.load(study.folder / "onepix/assets/cifar10_test_0-99.npz") as found:
        images, labels = found["images"][:4], found["labels"][:4]
    path.parent.mkdir(exist_ok=True)
    np.savez(path, images=images, labels=labels)


def check_nothing_elsewhere(study, before, *allowed):
    """Compare a study's folder and its parent with before: new files lie where they may, and no temporary ones do."""
    parent = study.folder.parent
    new = tree(parent) - before
    roots = [os.path.normpath(study.folder / name) for name in (*allowed, "logs", ".snakemake", "study.yaml")]
    stray = [path for path in new if not any(path == str(root) or path.startswith(f"{root}/") for root in roots)]
    assert stray == []
    hidden = [path for path in new if Path(path).name.startswith(".") and "/.snakemake" not in path]
    assert hidden == []
    assert not [path for path in tree(parent.parent) if Path(path).name.startswith("harm")]
    assert not list((parent.parent / "tmp").iterdir())


def test_a_whole_study_of_hostile_names(place):
    """A command in the name of a folder, a file or a class is only a name."""
    own = place.folder / "my 'files' $(touch harm)"
    bundled_arrays(place, own / "a; touch harm.npz")
    weights = own / "-w `touch harm`.safetensors"
    weights.write_bytes((place.folder / "onepix/assets/lenet.safetensors").read_bytes())
    config = {
        "datasets": {"mine": {"source": "arrays", "path": f"{own.name}/a; touch harm.npz", "class_names": CLASSES}},
        "networks": {"lenet": {"architecture": "lenet", "weights": f"{own.name}/{weights.name}"}},
        "attacks": {"de": {"population": 4, "generations": 0}},
        "runs": [{"dataset": "mine", "networks": ["lenet"], "attacks": ["de"], "images": "0-1"}],
        "statistics": {"resamples": 100, "permutations": 99},
        "figures": {"dpi": 50},
        "data": f"d{HOSTILE}".replace("/", "_"),
        "results": HOSTILE.replace("/", "_"),
    }
    before = tree(place.folder.parent)
    run = place.snakemake(*ONE_THREAD, config=config)
    assert run.returncode == 0, run.stdout
    results = place.folder / config["results"]
    assert (results / "tables/provenance.csv").is_file()
    assert (results / "mine/lenet/de/figures/average_propagation.png").is_file()
    check_nothing_elsewhere(place, before, config["data"], config["results"])
    assert place.plan(config) == {}, "Snakemake finds its files again"


def test_a_folder_of_hostile_files_attacked_into_another_folder(place):
    """Pictures and their labels may be called anything; results may lie where the user says."""
    pictures = place.folder / "pictures"
    names = ["$(touch harm).png", "a\nb.png", "-x.png", "{dataset}.png", "'; touch harm '.png", "<img src=x>.png"]
    for number, name in enumerate(names):
        path = pictures / ("cat; touch harm" if number % 2 else "$(dog)") / name
        path.parent.mkdir(exist_ok=True, parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    config = {
        "datasets": {"mine": {"source": "folder", "path": "pictures"}},
        "networks": {"lenet": {"architecture": "lenet", "mean": [0.5] * 3, "std": [0.25] * 3, "classes": 10}},
        "attacks": {"de": {"population": 4, "generations": 0}},
        "runs": [{"dataset": "mine", "networks": ["lenet"], "attacks": ["de"], "images": "0-1"}],
        "data": str(place.folder.parent / "a 'b'; c"),
        "results": "../else where",
    }
    before = tree(place.folder.parent)
    run = place.snakemake(f"{config['data']}/datasets/mine/manifest.json", config=config)
    assert run.returncode == 0, run.stdout
    assert sorted(load_arrays(Path(config["data"]) / "datasets/mine/images.npz").names) == sorted(
        f"{'cat; touch harm' if number % 2 else '$(dog)'}/{name}" for number, name in enumerate(names)
    )
    run = place.snakemake("../else where/configuration.yaml", config=config)
    assert run.returncode == 0, run.stdout
    check_nothing_elsewhere(place, before, "../a 'b'; c", "../else where")


# Files of others: what they say must neither run nor write anything.


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Work in an empty folder; afterwards, nothing has left a mark."""
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    yield tmp_path / "in"
    assert not [path for path in tree(tmp_path) if "harm" in Path(path).name]


class Harmful:
    """Unpickled, it leaves a mark."""

    def __reduce__(self):
        return os.system, ("touch harm",)


def told_of(function, *arguments):
    with pytest.raises(OnepixError) as caught:
        function(*arguments)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_mark_would_be_left(workplace):
    """The other tests could fail: an ordinary reader runs the same file."""
    torch.save(Harmful(), "mine.pth")
    torch.load("mine.pth", weights_only=False)
    (workplace / "harm").unlink()


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_with_code(old):
    state = {"state_dict": build("lenet").state_dict(), "epoch": Harmful()}
    torch.save(state, "mine.pth", _use_new_zipfile_serialization=not old)
    assert "refused: it is a pickle that calls posix.system" in told_of(read_tensors, Path("mine.pth"), build("lenet"))


@pytest.mark.usefixtures("workplace")
def test_arrays_with_code():
    images = np.zeros((1, 4, 4, 3), np.uint8)
    for name, value in (("images", images), ("labels", np.array([0])), ("class_names", np.array(["a"]))):
        arrays = {"images": images, "labels": np.array([0]), "class_names": np.array(["a"])}
        np.savez("mine.npz", **(arrays | {name: np.array([Harmful()], object)}))
        assert "allow_pickle=False" in told_of(load_arrays, Path("mine.npz")), value


@pytest.mark.usefixtures("workplace")
def test_a_keras_model_with_code():
    code = base64.b64encode(marshal.dumps(compile("__import__('os').system('touch harm')", "x", "exec"))).decode()
    layer = {"class_name": "Lambda", "config": {"name": "l", "function": [code, None, None], "function_type": "lambda"}}
    model = {"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}
    with h5py.File("mine.h5", "w") as file:
        file.attrs.update(keras_version="2.4.0", backend="tensorflow", model_config=json.dumps(model))
        file.create_group("model_weights").attrs["layer_names"] = [b"l"]
        file["model_weights"].create_group("l").attrs["weight_names"] = []
    assert "Lambda" in told_of(read_tensors, Path("mine.h5"), build("lenet"))


@pytest.mark.parametrize("architecture", ["harmful:make", "os:getcwd", "package.harmful:make"])
def test_weights_that_name_a_factory(workplace, architecture, monkeypatch):
    """`onepix evaluate` builds the architecture that a file names; a file must not choose what is imported."""
    monkeypatch.syspath_prepend(workplace)
    Path("package").mkdir()
    for module in ("harmful.py", "package/harmful.py"):
        text = "import pathlib\npathlib.Path('harm').touch()\ndef make(): pass\n"
        Path(module).write_text(text)
    said = {"architecture": architecture, "classes": 10, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    safetensors.torch.save_file(build("lenet").state_dict(), "mine.safetensors", {"onepix": json.dumps(said)})
    try:
        told = told_of(load_network_file, Path("mine.safetensors"))
    finally:
        for module in ("harmful.py", "package/harmful.py"):
            Path(module).unlink()
    assert f"mine.safetensors: refused: it asks to run {architecture}" in told


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("said", ["{", "[1]", '"x"', "[" * 100_000, '{"mean": "abc"}', '{"std": [{}]}'])
def test_metadata_of_another_form(said):
    safetensors.torch.save_file({"a": torch.zeros(1)}, "mine.safetensors", {"onepix": said})
    assert "is not as onepix writes it" in told_of(read_metadata, Path("mine.safetensors"))


def test_labels_of_files_elsewhere_are_read_and_nothing_is_written(workplace):
    """A table of labels may name any picture of the user's; its rows name what is read, never what is written."""
    Path("pictures").mkdir()
    for path in (Path("pictures/a.png"), Path("b.png")):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    Path("labels.csv").write_text(f"file,label\n../b.png,0\n{Path('pictures/a.png').resolve()},1\n")
    before = tree(workplace.parent)
    images = load_folder(FolderDataset(source="folder", path="pictures", labels="labels.csv"))
    assert images.names == ("../b.png", "a.png")
    assert tree(workplace.parent) == before
    Path("labels.csv").write_text("file,label\n../../../etc/passwd,0\n")
    told_of(load_folder, FolderDataset(source="folder", path="pictures", labels="labels.csv"))


@pytest.mark.parametrize("kind", ["tar", "link", "zip"])
def test_an_archive_that_would_write_elsewhere(workplace, monkeypatch, kind):
    """torchvision unpacks archives; one whose members point outside is not followed there."""

    class Hostile(torchvision.datasets.VisionDataset):
        def __init__(self, root):
            super().__init__(root)
            extract_archive(str(archive), str(root))

        def __len__(self):
            return 0

    archive = workplace / ("mine.zip" if kind == "zip" else "mine.tar")
    (workplace / "content").write_text("harm")
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.write("content", "../../harm")
    else:
        with tarfile.open(archive, "w") as file:
            if kind == "link":
                link = tarfile.TarInfo("out")
                link.type, link.linkname = tarfile.SYMTYPE, "../.."
                file.addfile(link)
            file.add("content", "out/harm" if kind == "link" else "../../harm")
    monkeypatch.setattr(torchvision.datasets, "Hostile", Hostile, raising=False)
    (workplace / "copy").mkdir()
    told_of(load_torchvision, TorchvisionDataset(source="torchvision:Hostile", split="all", root="copy"), None)
    for path in (workplace / "copy").rglob("harm"):
        path.unlink()  # inside is where it may write


@pytest.mark.usefixtures("workplace")
def test_a_name_that_a_command_would_take_for_an_option():
    """Paths that begin with a dash come after `--output` or after another path."""
    Path("-x").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "onepix", "gather-provenance", "--output", "t.csv", "--", "-x/manifest.json"],
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "onepix: -x/manifest.json: expected the manifest of a dataset, a network, receptive fields or a chunk\n"
    )
