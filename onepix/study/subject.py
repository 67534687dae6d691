"""The network of `onepix attack`, and pictures in the form that it takes."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from onepix.config.datasets import BundledDataset, Cifar10Dataset, DatasetSettings, Pictures
from onepix.config.engine import Engine
from onepix.config.figures import Figures
from onepix.config.networks import TORCHVISION
from onepix.config.propagation import Propagation
from onepix.config.study import Config, load
from onepix.datasets.bundled import load_bundled
from onepix.datasets.class_names import resolve
from onepix.datasets.pictures import fit, read_picture
from onepix.engine.devices import choose_device, keep_memory
from onepix.errors import OnepixError
from onepix.names import nearest
from onepix.networks.build import family_of
from onepix.networks.classifier import Classifier
from onepix.networks.sources import find, load_classifier
from onepix.networks.weights import bundled, load_network_file, read_metadata

CIFAR, IMAGENET = 32, 224  # sides of the images that these networks were trained on
IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, and how pictures are fitted to it.

    Attributes
    ----------
    name : str
        Of the network.
    classifier : Classifier
        On its device, in evaluation mode.
    channels : int
        1 or 3.
    fitting : Pictures or None
        How pictures of another size are fitted: `crop` is the size that the network takes, `resize` the shorter side
        before cropping (default: as small as possible). None if the size is not known.
    class_names : tuple of str or None
        None if they are not known.
    engine, propagation, figures
        As in a configuration.
    """

    name: str
    classifier: Classifier
    channels: int
    fitting: Pictures | None
    class_names: tuple[str, ...] | None
    engine: Engine = dataclasses.field(default_factory=Engine)
    propagation: Propagation = dataclasses.field(default_factory=Propagation)
    figures: Figures = dataclasses.field(default_factory=Figures)


def find_subject(name: str, configurations: Sequence[Path] = (), size: int | None = None) -> Subject:
    """Load a network.

    Parameters
    ----------
    name : str
        With configurations, a network in them, whose weights are fetched if they are missing; otherwise a bundled
        network, or a safetensors file of onepix.
    configurations : sequence of Path
        As `onepix.config.study.load` takes them.
    size : int, optional
        Side of the images that the network takes; default: from its dataset or architecture.

    Raises
    ------
    OnepixError
        If there is no such network, or its weights are missing and cannot be fetched.
    """
    keep_memory()
    subject = _of_configuration(name, load(*configurations)) if configurations else _of_file(name)
    if subject.channels not in (1, 3):
        raise OnepixError(f"network {name} takes images with {subject.channels} channels; pictures have 1 or 3")
    return subject if size is None else dataclasses.replace(subject, fitting=_square(size))


def _of_file(name: str) -> Subject:
    files = bundled()
    path = files.get(name, Path(name))
    if name not in files and path.suffix != ".safetensors" and not path.is_file():
        raise OnepixError(f"network '{name}' is neither bundled nor a file; {nearest(name, files)}")
    classifier = load_network_file(path, choose_device("auto"))
    metadata = read_metadata(path)
    cifar10 = load_bundled().class_names if "recipe" in metadata else None  # recipes are for CIFAR-10
    return Subject(
        name, classifier, metadata["channels"], _usual(metadata["architecture"]), cifar10, _for_few(Engine())
    )


def _of_configuration(name: str, config: Config) -> Subject:
    if name not in config.networks:
        raise OnepixError(f"network '{name}' is not in the configuration; {nearest(name, config.networks)}")
    settings = config.networks[name]
    trained = config.layout.trained(name)
    if settings.weights == "train" and not trained.is_file():
        raise OnepixError(f"network {name}: {trained} is missing; run the workflow first, which trains it")
    classifier, metadata = load_classifier(settings, find(settings, trained))
    classifier.name = name
    dataset = next((config.datasets[run.dataset] for run in config.runs if name in run.networks), None)
    return Subject(
        name,
        classifier.to(choose_device(config.engine.device)),
        metadata["channels"],
        _fitting_of(dataset) or _usual(settings.architecture),
        _names_of(dataset),
        _for_few(config.engine),
        config.propagation,
        config.figures,
    )


def _for_few(engine: Engine) -> Engine:
    """Return the engine for a few images: float32, as bfloat16 gains too little to be worth its checks."""
    return engine.model_copy(update={"precision": "float32"}) if engine.precision == "auto" else engine


def _usual(architecture: str) -> Pictures | None:
    """Return how pictures are fitted to an architecture, if its size is known."""
    if architecture.startswith(TORCHVISION):
        return _square(IMAGENET)
    return _square(CIFAR) if family_of(architecture) else None


def _fitting_of(dataset: DatasetSettings | None) -> Pictures | None:
    """Return how a dataset fits its pictures, if its settings give a size."""
    if isinstance(dataset, BundledDataset | Cifar10Dataset):
        return _square(CIFAR)
    if not isinstance(dataset, Pictures):
        return None
    if dataset.crop is not None:
        return Pictures(resize=dataset.resize, crop=dataset.crop, interpolation=dataset.interpolation)
    if isinstance(dataset.resize, tuple):
        return Pictures(resize=dataset.resize, crop=dataset.resize, interpolation=dataset.interpolation)
    return None


def _names_of(dataset: DatasetSettings | None) -> tuple[str, ...] | None:
    if isinstance(dataset, BundledDataset | Cifar10Dataset):
        return load_bundled().class_names
    return None if dataset is None else resolve(dataset.class_names)


def _square(side: int) -> Pictures:
    return Pictures(crop=(side, side))


def read_for(subject: Subject, paths: Sequence[Path], say: Callable[[str], None]) -> npt.NDArray[np.uint8]:
    """Read pictures and fit them to a network; say which were resized, cropped or made grey.

    Returns
    -------
    ndarray
        uint8, shape (picture, y, x, channel).

    Raises
    ------
    OnepixError
        If the network's size is not known, or as in `onepix.datasets.pictures.read_picture`.
    """
    if subject.fitting is None:
        raise OnepixError(f"network {subject.name}: the size of its images is not known; set it with --size")
    images = []
    for path in paths:
        picture, said = _fitted(read_picture(path), subject.fitting, str(path))
        if subject.channels == 1 and picture.mode != "L":
            said.append("made grey")
        picture = picture.convert("L" if subject.channels == 1 else "RGB")
        images.append(np.asarray(picture).reshape(picture.height, picture.width, subject.channels))
        if said:
            say(f"{path}: {', '.join(said)}")
    return np.stack(images)


def _fitted(picture: Image.Image, fitting: Pictures, where: str) -> tuple[Image.Image, list[str]]:
    """Resize and crop a picture of another size; say so."""
    crop = fitting.crop
    height, width = crop if isinstance(crop, tuple) else (crop or 0, crop or 0)
    if picture.size == (width, height):
        return picture, []
    resize = fitting.resize or (height, width)
    if isinstance(resize, int) or fitting.resize is None:
        resize = _covering(picture, *(resize if isinstance(resize, tuple) else (resize, resize)))
    done = fit(picture, Pictures(resize=resize, crop=(height, width), interpolation=fitting.interpolation), where)
    verb = "enlarged" if resize > (picture.height, picture.width) else "resized"
    said = [f"{picture.height} × {picture.width} (height × width) {verb} to {resize[0]} × {resize[1]}"]
    return done, said if resize == (height, width) else [*said, f"cropped to the middle {height} × {width}"]


def _covering(picture: Image.Image, height: int, width: int) -> tuple[int, int]:
    """Return the smallest size with the picture's proportions that covers this height and width."""
    if picture.height * width >= picture.width * height:
        return picture.height * width // picture.width, width
    return height, picture.width * height // picture.height


def class_names_for(subject: Subject, classes: int) -> tuple[str, ...]:
    """Return the names of a network's classes: those of its dataset, of ImageNet if there are 1,000, or numbers."""
    if subject.class_names is not None and len(subject.class_names) == classes:
        return subject.class_names
    if classes == IMAGENET_CLASSES:
        return resolve("imagenet") or ()
    return tuple(map(str, range(classes)))
