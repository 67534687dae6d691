"""What is said of something refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onepix.errors import OnepixError


def refusal(function: Callable[..., Any], *arguments: Any) -> str:
    """Return the one line with which a call is refused."""
    with pytest.raises(OnepixError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names_in(folder: Path) -> list[str]:
    """Return all names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


class Bomb:
    """Pickles to a call that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)
