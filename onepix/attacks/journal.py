"""A journal of finished attacks, so that a killed or preempted job continues where it stopped."""

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onepix.config.reading import canonical
from onepix.files.atomic import remove_leftovers, replacing
from onepix.files.targets import UNTARGETED, Key

DIGEST = hashlib.sha256().digest_size


@dataclasses.dataclass(frozen=True)
class Journal:
    """Finished attacks, one file per attack, stored under everything that defines their result.

    An attack is found again only under the same `origin`. Its result does not depend on other attacks, so a restored
    attack has the same bytes as one that is done again.

    Attributes
    ----------
    folder : Path
        Of one run; each origin has its own folder in it.
    origin : mapping
        Everything that defines a result, except image and target: settings, code, machine, digests of inputs. JSON.
    """

    folder: Path
    origin: Mapping[str, Any]

    def with_facts(self, **facts: Any) -> "Journal":
        """Return the journal whose origin holds these facts, too."""
        return Journal(self.folder, {**self.origin, **facts})

    @property
    def path(self) -> Path:
        """The folder of this origin."""
        return self.folder / hashlib.sha256(canonical(self.origin).encode()).hexdigest()[:32]

    def write(self, attacks: Sequence[Key], fields: Mapping[str, Tensor], finished: Sequence[int]) -> None:
        """Write down attacks that are finished.

        Parameters
        ----------
        attacks : sequence of Key
            All B attacks.
        fields : mapping
            What is known of the attacks, by name: tensors of shape (B, …).
        finished : sequence of int
            Indices of the attacks to write down.
        """
        arrays = {name: tensor[list(finished)].cpu().numpy() for name, tensor in fields.items()}
        for index, attack in enumerate(finished):
            written = io.BytesIO()
            np.savez(written, **{name: array[index] for name, array in arrays.items()})
            contents = written.getvalue()
            with replacing(self.path / _name(*attacks[attack])) as temporary:
                temporary.write_bytes(hashlib.sha256(contents).digest() + contents)

    def restore(self, attacks: Sequence[Key], fields: Mapping[str, Tensor]) -> list[int]:
        """Fill in what is known of finished attacks; parameters as in `write`.

        Returns
        -------
        list of int
            Indices of the attacks that are still to be done. A damaged entry counts as missing.
        """
        todo = []
        for index, attack in enumerate(attacks):
            entry = _read(self.path / _name(*attack))
            if entry.keys() != fields.keys():
                todo.append(index)
                continue
            for name, tensor in fields.items():
                tensor[index] = torch.from_numpy(entry[name])
        return todo

    def remove(self, image_ids: Sequence[int]) -> None:
        """Remove the entries of images whose results have been written, whatever their origin."""
        done = set(map(str, image_ids))
        for path in self.folder.glob("*/"):
            for entry in path.iterdir():
                if entry.name.lstrip(".").partition("-")[0] not in done:
                    continue
                if entry.is_dir():
                    remove_leftovers(entry.with_name(entry.stem.lstrip(".")))
                else:
                    entry.unlink(missing_ok=True)
        for folder in (*self.folder.glob("*/"), self.folder):
            with contextlib.suppress(OSError):  # it is not empty, or not there
                folder.rmdir()


def _name(image_id: int, target: int) -> str:
    return f"{image_id}-{'untargeted' if target == UNTARGETED else target}.npz"


def _read(path: Path) -> dict[str, Any]:
    """Read an entry; an empty dict if it is missing, unreadable or damaged."""
    try:
        contents = path.read_bytes()
    except OSError:
        return {}
    if hashlib.sha256(contents[DIGEST:]).digest() != contents[:DIGEST]:
        return {}
    with np.load(io.BytesIO(contents[DIGEST:]), allow_pickle=False) as arrays:
        return dict(arrays)
