"""Which output of a network a class is: numbered folders, WordNet ids, names of ImageNet's classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from pictured import noise, written
from PIL import Image
from refusals import refusal
from torchvision.datasets import Imagenette

from onepix.config.datasets import FolderDataset, TorchvisionDataset
from onepix.datasets import imagenet
from onepix.datasets.class_names import for_network, ordered
from onepix.datasets.sources import load_dataset
from onepix.images import ImageSet

# Of Imagenette, as fastai's page lists them, and their indices in ImageNet's order.
NETTE = {
    **{"n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497, "n03394916": 566},
    **{"n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701},
}


def load(folder: Path, **settings: Any) -> ImageSet:
    return load_dataset(FolderDataset(source="folder", path=str(folder), **settings))


def folders(path: Path, *names: str) -> Path:
    """Write one grey picture per folder; the picture tells which one it is by its only value."""
    for value, name in enumerate(names):
        written(path / name / "a.png", np.full((2, 3), value, np.uint8))
    return path


def outputs(images: ImageSet, count: int) -> dict[str, tuple[int, str]]:
    """Return, by folder, the label and the name of its class as a network counts them."""
    seen = for_network(images, count)
    names = [seen.class_names[label] for label in seen.labels]
    return {
        Path(file).parts[0]: pair
        for file, pair in zip(seen.names, zip(seen.labels.tolist(), names, strict=True), strict=True)
    }


def test_numbered_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    images = load(folders(tmp_path, *map(str, range(12))))
    assert images.class_names == tuple(map(str, range(12)))
    assert images.labels.tolist() == list(range(12))
    assert images.images[:, 0, 0, 0].tolist() == list(range(12)), "label 2 is folder 2"
    assert "class_order" in images.notes[0]


def test_a_key_keeps_the_order_of_text(tmp_path: Path) -> None:
    images = load(folders(tmp_path, *map(str, range(12))), class_order="text")
    assert images.class_names == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
    assert images.images[2, 0, 0, 0] == 10
    assert images.notes == ()


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("class_10 class_9 class_1", "class_1 class_9 class_10"),
        ("10.fish 2.dog 1.cat", "1.cat 2.dog 10.fish"),
        ("07 11 00", "00 07 11"),
        ("b a10 a9", "a9 a10 b"),
    ],
)
def test_numbers_in_names_count_as_numbers(names: str, order: str, tmp_path: Path) -> None:
    assert load(folders(tmp_path, *names.split())).class_names == tuple(order.split())


@pytest.mark.parametrize(
    ("names", "count", "labels"),
    [
        (range(1, 11), 10, range(10)),  # as many as outputs: by rank
        (range(1, 11), 12, range(1, 11)),  # fewer: a number is an output
        ((3, 7), 10, (3, 7)),
        ((3, 7), 2, (0, 1)),
        (("03", "07"), 43, (3, 7)),
    ],
)
def test_numbers_are_outputs_unless_there_is_one_for_each(names: Any, count: int, labels: Any, tmp_path: Path) -> None:
    found = outputs(load(folders(tmp_path, *map(str, names))), count)
    assert {name: label for name, (label, _) in found.items()} == dict(zip(map(str, names), labels, strict=True))


def test_a_numbered_folder_without_pictures_shifts_no_other(tmp_path: Path) -> None:
    images = load(folders(tmp_path, "1", "3"))
    for name in ("2", "logs"):
        (tmp_path / name).mkdir()
    assert images.class_names == ("1", "3")
    images = load(tmp_path)
    assert (images.class_names, images.labels.tolist()) == (("1", "2", "3"), [0, 2])
    assert images.notes == ("subfolders without pictures are no classes: logs",)


def test_numbers_beyond_the_network_are_refused(tmp_path: Path) -> None:
    images = load(folders(tmp_path, "3", "7"))
    message = refusal(for_network, images, 7)
    assert "3–7" in message
    assert "0–6" in message
    assert "subtract 1" in message
    assert "0–5" in refusal(lambda: load(tmp_path, class_names=tuple("abcdef")))
    images = load(tmp_path, class_names=tuple("abcdefgh"))
    assert images.labels.tolist() == [3, 7]
    assert images.notes == ("subfolders are indices of class_names: 3 is d",)


def test_the_table_of_imagenet_is_torchvisions_and_timms() -> None:
    categories = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    assert imagenet.names() == tuple(categories)
    timm = pytest.importorskip("timm.data")
    info = timm.ImageNetInfo("imagenet-1k")
    assert [synset.wordnet_id for synset in imagenet.synsets()] == list(info.label_names())


@pytest.mark.parametrize(
    ("name", "index"),
    [
        *NETTE.items(),
        ("n02085620-Chihuahua", 151),
        ("n03126707 crane", 517),
        ("tench, Tinca tinca", 0),
        ("English_springer_spaniel", 217),
        ("CHAIN-SAW", 491),
        ("crane bird", 134),
        ("maillot tank suit", 639),
        ("maillot, tank suit", 639),
        ("Cardigan", 264),
        ("cardigan", 474),
        ("tabby_cat", 281),
        ("n99999999", None),
        ("airplane", None),
        ("n0144076", None),
    ],
)
def test_classes_of_imagenet_are_found(name: str, index: int | None) -> None:
    assert imagenet.find(name) == index


@pytest.mark.parametrize(("name", "both"), [("crane", "134 517"), ("maillot", "638 639"), ("Horn", "513 566")])
def test_names_of_several_classes_are_refused(name: str, both: str) -> None:
    message = refusal(imagenet.find, name)
    assert all(index in message for index in both.split())
    assert "WordNet id" in message


@pytest.mark.parametrize("settings", [{}, {"class_names": "imagenet"}], ids=["unnamed", "imagenet"])
def test_wordnet_ids_are_the_outputs_of_an_imagenet_network(settings: dict[str, Any], tmp_path: Path) -> None:
    images = load(folders(tmp_path, *NETTE), **settings)
    found = outputs(images, 1000)
    assert {name: label for name, (label, _) in found.items()} == NETTE
    assert found["n02979186"] == (482, "cassette player")


def test_wordnet_ids_are_by_rank_in_a_network_of_just_these(tmp_path: Path) -> None:
    images = load(folders(tmp_path, *NETTE))
    assert for_network(images, 10).labels.tolist() == list(range(10))
    assert "the network has 11 classes, the images have 10" in refusal(for_network, images, 11)
    assert "leave class_names out" in refusal(for_network, load(tmp_path, class_names="imagenet"), 10)


def test_all_names_of_imagenet_are_in_its_order() -> None:
    """In the order of text, all but a few would be other outputs, and their number would fit the network."""
    for name in ("name", "wordnet_id"):
        names = [getattr(synset, name) for synset in imagenet.synsets()]
        assert ordered(reversed(names)) == tuple(names)
    assert ordered(["a", *imagenet.names()[1:]])[0] != "tench"
    assert ordered(["a", *imagenet.names()[1:]]) == tuple(sorted(["a", *imagenet.names()[1:]]))


def test_what_is_not_of_imagenet_is_named(tmp_path: Path) -> None:
    images = load(folders(tmp_path, "tench", "goldfihs"))
    message = refusal(for_network, images, 1000)
    assert "'goldfihs' is neither a name nor a WordNet id" in message
    assert "did you mean 'goldfish'?" in message


def lay_imagenette(root: Path) -> None:
    for name in NETTE:
        path = root / "imagenette2" / "val" / name / "a.JPEG"
        path.parent.mkdir(parents=True)
        Image.fromarray(noise(8, 6, 3)).save(path)


def from_torchvision(name: str, **settings: Any) -> ImageSet:
    return load_dataset(TorchvisionDataset(source=f"torchvision:{name}", **settings))


def test_torchvisions_imagenette_has_imagenets_labels(tmp_path: Path) -> None:
    lay_imagenette(tmp_path)
    assert Imagenette(tmp_path, split="val")[9][1] == 9
    images = from_torchvision("Imagenette", split="val", root=str(tmp_path), class_names="imagenet")
    assert images.labels.tolist() == list(NETTE.values())
    unnamed = from_torchvision("Imagenette", split="val", root=str(tmp_path))
    assert for_network(unnamed, 1000).labels.tolist() == list(NETTE.values())
    assert for_network(unnamed, 10).labels.tolist() == list(range(10))


def test_other_datasets_are_not_taken_for_imagenet(tmp_path: Path) -> None:
    folders(tmp_path, "airplane", "truck")
    message = refusal(lambda: from_torchvision("ImageFolder", split="all", root=str(tmp_path), class_names="imagenet"))
    assert "'airplane' is neither a name nor a WordNet id" in message


def test_torchvisions_numbered_folders_are_in_order_too(tmp_path: Path) -> None:
    folders(tmp_path, *map(str, range(11)))
    images = from_torchvision("ImageFolder", split="all", root=str(tmp_path))
    assert {int(value): int(label) for value, label in zip(images.images[:, 0, 0, 0], images.labels, strict=True)} == {
        number: number for number in range(11)
    }


def test_given_names_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    folders(tmp_path, "cat", "dog")
    images = from_torchvision("ImageFolder", split="all", root=str(tmp_path), class_names=("dog", "fish", "cat"))
    assert images.labels.tolist() == [2, 0]
    renamed = from_torchvision("ImageFolder", split="all", root=str(tmp_path), class_names=("Katze", "Hund"))
    assert (renamed.labels.tolist(), renamed.class_names) == ([0, 1], ("Katze", "Hund"))


def test_names_that_look_alike_are_the_same(tmp_path: Path) -> None:
    images = load(folders(tmp_path, "e\u0301te\u0301", "hiver"), class_names=("hiver", "été"))
    assert dict(zip(images.names, images.labels.tolist(), strict=True)) == {
        "e\u0301te\u0301/a.png": 1,
        "hiver/a.png": 0,
    }
