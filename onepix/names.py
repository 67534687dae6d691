"""Names: their natural order, the nearest known name to a misspelt one, and matching by pattern."""

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from onepix.errors import OnepixError


def natural(name: str) -> list[str | int]:
    """Return a sort key that takes numbers in a name as numbers: resnet20 comes before resnet110."""
    parts: list[str | int] = list(re.split(r"(\d+)", name))
    parts[1::2] = map(int, parts[1::2])
    return parts


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the nearest known name, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"expected one of: {', '.join(known)}"


def chosen(names: Iterable[str], patterns: Sequence[str], key: str, what: str) -> list[str]:
    """Return the names that fit one of several glob patterns.

    Raises
    ------
    OnepixError
        If no name fits. The message names `key`, the key of the configuration, and `what` kind of thing is named.
    """
    known = list(names)
    if found := [name for name in known if fits(name, patterns)]:
        return found
    quoted = ", ".join(f"'{pattern}'" for pattern in patterns)
    raise OnepixError(f"{key}: {quoted} fits no {what}; {nearest(patterns[0], known)}")


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a name fits one of several glob patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
