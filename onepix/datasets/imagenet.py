"""The 1,000 classes of ImageNet (ILSVRC 2012): found by WordNet id, torchvision's name or a synonym."""

import functools
import importlib.resources
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from onepix.errors import OnepixError

CLASSES = 1000
ID = re.compile(r"(n[0-9]{8})(?![0-9])")  # also at the beginning of n02085620-Chihuahua, as Stanford Dogs names folders


class Synset(NamedTuple):
    """A class of ImageNet."""

    wordnet_id: str
    name: str  # torchvision's, which differs between any two classes
    synonyms: str  # WordNet's, with commas


@functools.cache
def synsets() -> tuple[Synset, ...]:
    """Return the classes in the order of torchvision's outputs, which is that of the WordNet ids.

    The file in `assets` names the source and the licence of ids, names and synonyms.
    """
    asset = importlib.resources.files("onepix") / "assets" / "imagenet.tsv"
    lines = asset.read_text(encoding="utf-8").splitlines()
    return tuple(Synset(*line.split("\t")) for line in lines if not line.startswith("#"))


@functools.cache
def names() -> tuple[str, ...]:
    """Return torchvision's names, in the order of its outputs."""
    return tuple(synset.name for synset in synsets())


def find(name: str) -> int | None:
    """Return the index of the class that a text names; None if it names none.

    Parameters
    ----------
    name : str
        A WordNet id, alone or before other text; or torchvision's name, a synonym or all synonyms with commas, whatever
        their case, with spaces, hyphens or underscores.

    Raises
    ------
    OnepixError
        If it names several classes: crane is a bird and a machine.
    """
    if match := ID.match(name):
        return _by_id().get(match[1])
    exact, plain, any_synonym = _by_name()
    found = exact.get(name) or plain.get(_plain(name)) or any_synonym.get(_plain(name)) or ()
    if len(found) > 1:
        said = " and ".join(f"{index} ({synsets()[index].wordnet_id} {names()[index]})" for index in sorted(found))
        raise OnepixError(f"'{name}' is the name of several classes of ImageNet, {said}; expected the WordNet id")
    return next(iter(found), None)


@functools.cache
def _by_id() -> Mapping[str, int]:
    return {synset.wordnet_id: index for index, synset in enumerate(synsets())}


@functools.cache
def _by_name() -> tuple[Mapping[str, set[int]], ...]:
    """Return the classes that a text names: first as it is written, then in plain letters, then as any synonym."""
    exact, plain, any_synonym = (defaultdict[str, set[int]](set) for _ in range(3))
    for index, (_, name, synonyms) in enumerate(synsets()):
        each = synonyms.split(", ")
        for usual in (name, synonyms, each[0]):
            exact[usual].add(index)
            plain[_plain(usual)].add(index)
        for synonym in each:
            any_synonym[_plain(synonym)].add(index)
    return exact, plain, any_synonym


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()
