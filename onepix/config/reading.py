"""Reads settings from plain values, with errors of one line, and writes them in one canonical form."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ValidationError,
)

from onepix.config.base import Keys, KeysError
from onepix.errors import OnepixError

S = TypeVar("S", bound=BaseModel)


LONGEST = 1000  # characters of a message about one value
NOWHERE: Mapping[Keys, str] = MappingProxyType({})  # where nothing is known about files and lines


def part(model: type[BaseModel], settings: BaseModel) -> dict[str, Any]:
    """Return, as plain values, those settings whose keys a smaller model has."""
    return settings.model_dump(mode="json", include=set(model.model_fields))


def validated(model: type[S], values: Any, source: str, origins: Mapping[Keys, str] = NOWHERE) -> S:
    """Check values against a model of settings; parameters and errors as in `onepix.config.study.parse`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise OnepixError("\n".join(_lines(error.errors(), values, source, origins))) from None
    except UnicodeEncodeError as error:  # YAML accepts half a character; a message cannot quote it
        raise OnepixError(f"{source}: {error.object!r} is not text") from None


def canonical(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON that is the same for the same settings, whatever their order, and safe inside HTML."""
    plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in settings.items()}
    # Snakemake's report puts parameters into a script in its page; a class named </script> would end that script.
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")


def _lines(errors: Sequence[Any], values: Any, source: str, origins: Mapping[Keys, str]) -> list[str]:
    """Return one line per wrong key; pydantic reports one error per type that the key may have."""
    by_keys: dict[Keys, list[Any]] = {}
    for error in errors:
        if error["type"] == "too_short" and error["input"]:
            continue  # after an error inside an item, pydantic also reports that its list is too short
        by_keys.setdefault(_keys(error, values), []).append(error)
    # If one of several types is a model, an error inside it says more than that the value has none of the other types.
    deepest = {keys: e for keys, e in by_keys.items() if not any(_is_inside(other, keys) for other in by_keys)}
    return [
        f"{origin((*keys, *_inner(found)), origins) or source}: "
        f"{_in_line('.'.join(map(str, keys)))}{': ' if keys else ''}{_in_line(_what(found))}"
        for keys, found in deepest.items()
    ]


def _is_inside(keys: Keys, outer: Keys) -> bool:
    """Tell whether keys lead to something inside what other keys lead to."""
    return len(keys) > len(outer) and keys[: len(outer)] == outer


def origin(keys: Keys, origins: Mapping[Keys, str]) -> str | None:
    """Return where a value was given; if it is missing, where what should hold it was given."""
    return next((origins[keys[:depth]] for depth in range(len(keys), 0, -1) if keys[:depth] in origins), None)


def _inner(errors: Sequence[Any]) -> Keys:
    """Return the keys that lead on from the value that was checked to the one that is wrong."""
    cause = errors[0].get("ctx", {}).get("error")
    return cause.keys if isinstance(cause, KeysError) else ()


def _in_line(said: str) -> str:
    """Return text from a configuration as one line that cannot control a terminal, shortened if it is very long."""
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in said)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def _keys(error: Any, values: Any) -> Keys:
    """Return the keys that lead to an error, without the names of types that pydantic puts between them."""
    keys: list[Any] = []
    for part in error["loc"]:
        if isinstance(values, Mapping) and part not in values:  # pydantic names numbers and the like as text
            part = next((key for key in values if str(key) == part), part)
        inside = (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list) and isinstance(part, int)
        )
        if inside:
            values = values[part]
        if inside or (error["type"] == "missing" and part == error["loc"][-1]) or part == "[key]":
            keys.append(part)
    return tuple(keys)


def _what(errors: Sequence[Any]) -> str:
    """Say what is wrong with one value."""
    first = errors[0]
    context = first.get("ctx", {})
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        key = context["discriminator"].strip("'_()")
        if "tag" not in context:
            return f"{key} is missing"
        return f"{key} '{context['tag']}' is unknown; expected one of: {context['expected_tags']}"
    said = " or ".join(dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in errors))
    said = said.replace("a valid tuple", "a valid list")  # as YAML and JSON call it
    return said if first["type"] in ("value_error", "missing") else f"{said}, got {_as_given(first['input'])!r}"


def _as_given(value: Any) -> Any:
    """Return a value with lists in place of the tuples that `Settings` makes of them."""
    return list(map(_as_given, value)) if isinstance(value, tuple) else value
