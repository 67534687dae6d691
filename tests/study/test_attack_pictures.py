"""`onepix attack`: pictures in, attacked pictures and maps out."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torchvision.transforms import functional
from typer.testing import CliRunner

import onepix
from onepix.cli import app
from onepix.config.datasets import Pictures
from onepix.config.figures import Figures
from onepix.errors import OnepixError
from onepix.figures.maps import strip
from onepix.networks.build import build
from onepix.study import attack_pictures as module
from onepix.study.attack_pictures import attack_pictures
from onepix.study.attack_table import show
from onepix.study.subject import Subject, find_subject, read_for

HEIGHT, WIDTH = 5, 7
NAMES = ("low", "high")


def rule(channels=3, flips=True):
    """Class `high` only where one pixel, at row 2 and column 3, is pure red, or white in a grey image.

    The first layer passes on what it gets, so that its maps are known too.
    """
    first, last = nn.Conv2d(channels, channels, 1, bias=False), nn.Linear(channels * HEIGHT * WIDTH, 2)
    first.weight.data = torch.eye(channels)[:, :, None, None]
    weight = torch.zeros(2, channels, HEIGHT, WIDTH)
    weight[1, :, 2, 3] = torch.tensor([255.0, -255.0, -255.0])[:channels] * flips
    last.weight.data, last.bias.data = weight.flatten(1), torch.tensor([0.0, -100.5])
    return onepix.Classifier(nn.Sequential(first, nn.Flatten(), last)).eval()


def subject(channels=3, size=(HEIGHT, WIDTH), names=NAMES, flips=True):
    return Subject("a rule", rule(channels, flips), channels, None if size is None else Pictures(crop=size), names)


def attacked(*arguments, labels=(), **options):
    """Return rows, and the lines told."""
    told = []
    return attack_pictures(*arguments, labels, told.append, **options), told


def read(*arguments):
    """Return images, and the lines told."""
    told = []
    return read_for(*arguments, told.append), told


def picture(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


@pytest.fixture
def dark(tmp_path):
    """Return a picture of the size that the rule takes; no two of its colours are the same."""
    values = np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) % 90
    return picture(tmp_path / "dark.png", values)


@pytest.mark.parametrize("method", ["scan", "differential_evolution", "random_search"])
def test_the_attacked_picture_is_the_original_but_for_the_pixel_told(dark, tmp_path, method):
    rows, _ = attacked(subject(), [dark], method=method, output=tmp_path / "out")
    (row,) = rows
    assert (row.label, row.clean_class, row.flipped, row.new_class) == ("low", "low", True, "high")
    assert (row.row, row.column) == (2, 3)
    given = np.asarray(Image.open(dark))
    original, changed = (np.asarray(Image.open(tmp_path / "out/dark" / f"{n}.png")) for n in ("original", "attacked"))
    assert (original == given).all()
    assert np.argwhere((changed != given).any(2)).tolist() == [[2, 3]]
    assert row.before == tuple(given[2, 3])
    assert row.after == tuple(changed[2, 3])
    if method == "scan":  # of the eight extremes only this one flips
        assert row.after == (255, 0, 0)
        assert row.confidence == pytest.approx(1 / (1 + np.exp(given[2, 3, 0] - float(given[2, 3, 1:].sum()) - 100.5)))
        assert row.new_confidence == pytest.approx(1)
        assert row.tried == 1 + 32, "a backward pass and a round: the gradient points there"
    assert Image.open(row.folder / "maps.png").format == "PNG"
    assert sorted(path.name for path in row.folder.iterdir()) == ["attacked.png", "maps.png", "original.png"]


def test_the_scan_ends_with_the_round_that_flips(tmp_path):
    """Any white pixel flips this class; a scan begins with a backward pass and 32 candidates."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(40 * 40, 2))
    network[1].weight.data = torch.tensor([0.0, 255.0])[:, None].repeat(1, 40 * 40)
    network[1].bias.data = torch.tensor([0.0, -100.5])
    bright = dataclasses.replace(subject(channels=1, size=(40, 40)), classifier=onepix.Classifier(network).eval())
    black = picture(tmp_path / "black.png", np.zeros((40, 40)))
    rows, _ = attacked(bright, [black], output=tmp_path / "out")
    assert (rows[0].flipped, rows[0].tried, rows[0].after) == (True, 33, (255,))


def test_the_strip_shows_how_far_each_layer_changes(dark, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "strip", lambda *given: drawn.append(given) or strip(*given))
    rows, _ = attacked(subject(), [dark], output=tmp_path / "out")
    original, changed, pixels, (first, last), title, *captions = drawn[0]
    given = np.asarray(Image.open(dark)).astype(int)
    assert (original == given).all()
    assert pixels == [(2, 3)]
    expected = np.zeros((HEIGHT, WIDTH))
    expected[2, 3] = abs(np.array((255, 0, 0)) - given[2, 3]).max() / given.max()
    assert (first.name, last.name) == ("0", "2")
    assert first.values == pytest.approx(expected)
    margins = [colour[0] - colour[1:].sum() - 100.5 for colour in (given[2, 3], changed[2, 3].astype(int))]
    assert last.values == pytest.approx(np.array([[abs(margins[1] - margins[0]) / abs(margins[0])]]))
    assert title == "a rule: dark.png"
    assert captions == [f"low {rows[0].confidence:.0%}", "high 100%", "magma"]


def test_layers_that_a_configuration_leaves_out_are_not_drawn(dark, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "strip", lambda *given: drawn.append(given[3]) or strip(*given))
    for patterns in (("2",), ("none",)):
        figures = Figures(strip_layers=patterns)
        attacked(dataclasses.replace(subject(), figures=figures), [dark], output=tmp_path / "out")
    assert [[layer.name for layer in layers] for layers in drawn] == [["2"], []]


def test_nothing_is_overwritten(dark, tmp_path):
    out = tmp_path / "out"
    attacked(subject(), [dark], output=out)
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    (out / "dark-2").write_text("mine")
    rows, _ = attacked(subject(), [dark, dark], output=out)
    assert [row.folder.name for row in rows] == ["dark-3", "dark-4"]
    assert {path: path.read_bytes() for path in before} == before
    assert (out / "dark-2").read_text() == "mine"


def test_no_flip_is_told_as_such_and_not_as_an_attacked_picture(dark, tmp_path, monkeypatch, capsys):
    titles = []
    monkeypatch.setattr(module, "strip", lambda *given: titles.append(given[4]) or strip(*given))
    rows, _ = attacked(subject(flips=False), [dark], output=tmp_path / "out")
    assert rows[0].flipped is False
    names = {path.name for path in rows[0].folder.iterdir()}
    assert names == {"original.png", "maps.png", "unflipped.png"}
    show(rows)
    assert "no flip within 281 candidates" in capsys.readouterr().out
    assert titles == ["a rule: dark.png, no flip within 281 candidates"]


def test_a_picture_that_the_network_gets_wrong_is_not_attacked(dark, tmp_path, capsys):
    light = picture(tmp_path / "light.png", np.full((HEIGHT, WIDTH, 3), (255, 0, 0)))
    rows, _ = attacked(subject(), [dark, light], labels=["low"], output=tmp_path / "out")
    assert [row.flipped for row in rows] == [True, None]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dark"]
    show(rows)
    assert re.search(
        r"light\.png +high 100\.0% +not attacked: the network does not classify it as low", capsys.readouterr().out
    )


def test_labels_are_names_or_numbers_one_for_all_or_one_each(dark, tmp_path):
    def labels(*given):
        rows, _ = attacked(subject(), [dark, dark], labels=given, output=tmp_path / "out", budget=1)
        return [row.label for row in rows]

    assert labels("high") == ["high", "high"]
    assert labels("0", "high") == ["low", "high"]
    assert labels() == ["low", "low"]


def test_numbers_stand_for_classes_whose_names_are_not_known(dark, tmp_path):
    rows, told = attacked(subject(names=None), [dark], output=tmp_path / "out")
    assert (rows[0].clean_class, rows[0].new_class) == ("0", "1")
    assert told == ["labels: the network's own classes, since no --label is given"]


@pytest.mark.parametrize(("method", "tried"), [("scan", 2), ("random_search", 2), ("differential_evolution", 400)])
def test_a_search_that_would_take_too_long_is_bounded(dark, tmp_path, monkeypatch, method, tried):
    monkeypatch.setattr(module, "passes_per_second", lambda *_: 4 / module.SECONDS)
    rows, told = attacked(subject(flips=False), [dark, dark], method=method, output=tmp_path / "out")
    assert [row.tried for row in rows] == [tried, tried]
    most = {"scan": "282", "random_search": "40,400", "differential_evolution": "40,400"}[method]
    assert told[-1].startswith(f"budget: {tried} of {most} candidates per picture, ")
    given, _ = attacked(subject(flips=False), [dark], method=method, output=tmp_path / "out", budget=401)
    assert [row.tried for row in given] == [281 if method == "scan" else 401]


@pytest.mark.parametrize("shape", [(90, 60), (20, 33), (7, 5), (32, 47)])
def test_pictures_are_fitted_as_torchvision_does(tmp_path, shape):
    values = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    images, told = read(subject(size=(32, 32)), [picture(tmp_path / "a.png", values)])
    expected = functional.center_crop(functional.resize(Image.fromarray(values), [32]), [32, 32])
    assert images.shape == (1, 32, 32, 3)
    assert (images[0] == np.asarray(expected)).all()
    assert ("enlarged" in told[0]) == (min(shape) < 32)
    assert f"{shape[0]} × {shape[1]} (height × width)" in told[0]


def test_a_picture_is_cropped_in_its_middle(tmp_path):
    values = np.zeros((40, 80), np.uint8)
    values[:, 10:70] = 200  # what the two middle columns of four are made of, antialiased
    images, told = read(subject(size=(2, 2)), [picture(tmp_path / "a.png", values)])
    assert images.tolist() == [np.full((2, 2, 3), 200).tolist()]
    assert told == [f"{tmp_path / 'a.png'}: 40 × 80 (height × width) resized to 2 × 4, cropped to the middle 2 × 2"]


def test_images_that_are_not_square(tmp_path):
    path = picture(tmp_path / "a.png", np.full((30, 100, 3), 9))
    images, told = read(subject(size=(10, 20)), [path])
    assert images.shape == (1, 10, 20, 3)
    assert told[0].endswith("resized to 10 × 33, cropped to the middle 10 × 20")


def test_a_picture_of_the_right_size_is_left_alone(dark):
    images, told = read(subject(), [dark])
    assert (images[0] == np.asarray(Image.open(dark))).all()
    assert told == []


def test_grey_networks_and_grey_pictures(tmp_path):
    grey = picture(tmp_path / "grey.png", np.full((HEIGHT, WIDTH), 7))
    colours = picture(tmp_path / "colours.png", np.full((HEIGHT, WIDTH, 3), (255, 0, 0)))
    rows, told = attacked(subject(channels=1), [grey, colours], output=tmp_path / "out")
    assert told[0] == f"{colours}: made grey"
    assert [(row.row, row.column, row.before, row.after) for row in rows] == [
        (2, 3, (7,), (255,)),
        (2, 3, (76,), (255,)),  # 0.299 × 255
    ]
    changed = Image.open(tmp_path / "out/grey/attacked.png")
    assert changed.mode == "L"
    assert changed.getpixel((3, 2)) == 255
    three, _ = attacked(subject(), [grey], output=tmp_path / "out")
    assert three[0].before == (7, 7, 7)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda _: None, "p.png: No such file or directory"),
        (lambda path: path.write_text("words"), "p.png: not a picture that Pillow can read"),
        (lambda path: Image.new("I;16", (7, 5)).save(path), "p.png: 16 bits per channel, expected 8"),
        (
            lambda path: Image.new("RGBA", (7, 5)).save(path),
            "p.png: has an alpha channel that is not opaque; flatten it",
        ),
    ],
)
def test_a_file_that_is_no_picture_is_told_in_one_line(tmp_path, write, said):
    write(tmp_path / "p.png")
    with pytest.raises(OnepixError, match=re.escape(said)) as error:
        attacked(subject(), [tmp_path / "p.png"], output=tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (["hihg"], {}, "--label: 'hihg' is not among the 2 class names; did you mean 'high'?"),
        (["2"], {}, "--label: 2 is not a class; the network has classes 0–1"),
        (["low", "low"], {}, "--label: expected one for all pictures or one each, got 2 for 1"),
        ([], {"method": "scna"}, "attack method 'scna' is unknown; did you mean 'scan'?"),
        ([], {"method": "differential_evolution", "budget": 5}, "budget 5 is smaller than one population of 400"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_one_line(dark, tmp_path, given, options, said):
    with pytest.raises(OnepixError, match=re.escape(said)) as error:
        attacked(subject(), [dark], labels=given, output=tmp_path / "out", **options)
    assert "\n" not in str(error.value)


def test_a_size_that_is_not_known_is_asked_for(dark, tmp_path):
    with pytest.raises(OnepixError, match=r"the size of its images is not known; set it with --size$"):
        attacked(subject(size=None), [dark], output=tmp_path / "out")


def test_an_output_that_is_a_file_is_left_alone(dark, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError):
        attacked(subject(), [dark], output=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_names_in_brackets_are_printed_as_they_are(capsys):
    show([module.AttackedPicture("b/[red]a.png", "low", "[bold]", 0.5)])
    assert "[red]a.png  [bold] 50.0%" in capsys.readouterr().out


def test_bundled_networks_take_images_of_cifar10():
    lenet = find_subject("lenet")
    assert lenet.fitting.crop == (32, 32)
    assert lenet.class_names == onepix.bundled_images().class_names
    assert find_subject("lenet", size=40).fitting.crop == (40, 40)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lent", "network 'lent' is neither bundled nor a file; did you mean 'lenet'?"),
        ("mine.safetensors", "mine.safetensors: the weights file is missing"),
    ],
)
def test_a_network_that_is_not_there_is_told_in_one_line(name, said):
    with pytest.raises(OnepixError) as error:
        find_subject(name)
    assert str(error.value) == said


@pytest.fixture
def configuration(tmp_path):
    torch.manual_seed(0)
    torch.save(build("torchvision:squeezenet1_1").state_dict(), tmp_path / "squeezed.pth")
    squeezed = {
        "architecture": "torchvision:squeezenet1_1",
        "weights": str(tmp_path / "squeezed.pth"),
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    config = {
        "datasets": {
            "sample": {"source": "bundled"},
            "mine": {"source": "folder", "path": "p", "resize": 72, "crop": [64, 60], "interpolation": "bicubic"},
            "fixed": {"source": "folder", "path": "p", "resize": [48, 50], "class_names": ["x", "y"]},
            "loose": {"source": "folder", "path": "p", "resize": 48, "class_names": "imagenet"},
        },
        "networks": {
            "unused": squeezed,
            **dict.fromkeys(("cropped", "resized", "open"), squeezed),
            "lenet": {"architecture": "lenet"},
            "later": {"architecture": "nin", "weights": "train"},
        },
        "attacks": {"a": {"method": "scan"}},
        "runs": [
            {"dataset": dataset, "networks": [network], "attacks": ["a"], "images": 0}
            for dataset, network in (("sample", "lenet"), ("mine", "cropped"), ("fixed", "resized"), ("loose", "open"))
        ],
        "data": str(tmp_path / "data"),
        "engine": {"precision": "bfloat16"},
        "figures": {"colour_map": "viridis"},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_configuration_tells_the_size_the_names_and_the_rest(configuration):
    fitting = {name: find_subject(name, [configuration]).fitting for name in ("unused", "cropped", "resized", "open")}
    assert fitting["unused"].crop == fitting["open"].crop == (224, 224)
    assert fitting["cropped"] == Pictures(resize=72, crop=(64, 60), interpolation="bicubic")
    assert fitting["resized"].crop == fitting["resized"].resize == (48, 50)
    lenet = find_subject("lenet", [configuration])
    assert lenet.fitting.crop == (32, 32)
    assert lenet.class_names[3] == "cat"
    assert find_subject("resized", [configuration]).class_names == ("x", "y")
    assert find_subject("open", [configuration]).class_names[0] == "tench"
    assert (lenet.engine.precision, lenet.figures.colour_map) == ("bfloat16", "viridis")


def test_pictures_are_fitted_as_those_of_the_study(configuration, tmp_path):
    """Resized to the study's shorter side, with its interpolation, and then cropped."""
    values = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    path = picture(tmp_path / "a.png", values)
    images, _ = read(find_subject("cropped", [configuration]), [path])
    resized = functional.resize(Image.fromarray(values), [72], functional.InterpolationMode.BICUBIC)
    assert (images[0] == np.asarray(functional.center_crop(resized, [64, 60]))).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lenett", r"network 'lenett' is not in the configuration; did you mean 'lenet'\?$"),
        ("later", r"network later: .*later\.safetensors is missing; run the workflow first, which trains it$"),
    ],
)
def test_networks_that_a_configuration_cannot_give(configuration, name, said):
    with pytest.raises(OnepixError, match=said):
        find_subject(name, [configuration])


def test_the_command_on_a_bundled_network(tmp_path):
    images = onepix.bundled_images()
    Image.fromarray(images.images[0]).resize((300, 200)).save(tmp_path / "cat.png")
    command = [sys.executable, "-m", "onepix", "attack", "lenet", "cat.png", "--output", "out"]
    run = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "cat.png: 200 × 300 (height × width) resized to 32 × 48, cropped to the middle 32 × 32" in run.stdout
    assert "cat.png: written into out/cat" in run.stdout
    original, changed = (np.asarray(Image.open(tmp_path / "out/cat" / f"{n}.png")) for n in ("original", "attacked"))
    ((row, column),) = np.argwhere((original != changed).any(2))
    seen = onepix.bundled_network("lenet")(torch.from_numpy(np.stack([original, changed]))).argmax(1)
    clean, flipped = (images.class_names[number] for number in seen)
    assert clean != flipped
    colours = " → ".join(" ".join(map(str, image[row, column])) for image in (original, changed))
    line = rf"^ *cat\.png +{clean} [\d.]+% +{row}, {column} +{colours} +{flipped} [\d.]+% +[\d,]+ *$"
    assert re.search(line, run.stdout, re.MULTILINE)


def test_the_options_of_the_command_reach_the_attack(configuration, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = onepix.bundled_images()
    for name in ("a", "b"):  # LeNet is right about this cat
        picture(tmp_path / f"{name}.png", images.images[0])
    options = ["--method", "random_search", "--budget", "3", "--seed", "7", "--size", "32", "--output", "out"]
    labels = ["--label", "cat", "--label", "5"]
    command = ["attack", "lenet", "a.png", "b.png", "--config", str(configuration), *labels, *options]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    classifier = onepix.bundled_network("lenet")
    drawn, changed = onepix.attack(classifier, images.images[:1], [3], "random_search", budget=3, seed=7)
    assert not drawn["success"][0]
    assert re.search(r"a\.png +cat [\d.]+% +no flip within 3 candidates +3 *$", run.output, re.MULTILINE)
    assert re.search(
        r"b\.png +cat [\d.]+% +not attacked: the network does not classify it as dog *$", run.output, re.MULTILINE
    )
    assert (np.asarray(Image.open(tmp_path / "out/a/unflipped.png")) == changed[0]).all()
    assert not (tmp_path / "out/b").exists()
