"""Reads settings from plain values, with errors of one line, and writes them in one canonical form."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ValidationError,
)

from onepix.errors import OnepixError

S = TypeVar("S", bound=BaseModel)


LONGEST = 1000  # characters of a message about one value


def part(model: type[BaseModel], settings: BaseModel) -> dict[str, Any]:
    """Return, as plain values, those settings whose keys a smaller model has."""
    return settings.model_dump(mode="json", include=set(model.model_fields))


def validated(model: type[S], values: Any, source: str) -> S:
    """Check values against a model of settings; errors as in `parse`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise OnepixError("\n".join(_lines(error.errors(), values, source))) from None
    except UnicodeEncodeError as error:  # YAML accepts half a character; a message cannot quote it
        raise OnepixError(f"{source}: {error.object!r} is not text") from None


def canonical(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON that is the same for the same settings, whatever their order, and safe inside HTML."""
    plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in settings.items()}
    # Snakemake's report puts parameters into a script in its page; a class named </script> would end that script.
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")


def _lines(errors: Sequence[Any], values: Any, source: str) -> list[str]:
    """Return one line per wrong key; pydantic reports one error per type that the key may have."""
    by_key: dict[str, list[Any]] = {}
    for error in errors:
        if error["type"] == "too_short" and error["input"]:
            continue  # after an error inside an item, pydantic also reports that its list is too short
        by_key.setdefault(_key(error, values), []).append(error)
    # If one of several types is a model, an error inside it says more than that the value has none of the other types.
    deepest = {key: e for key, e in by_key.items() if not any(other.startswith(f"{key}.") for other in by_key)}
    return [f"{source}: {_in_line(key)}{': ' if key else ''}{_in_line(_what(found))}" for key, found in deepest.items()]


def _in_line(said: str) -> str:
    """Return text from a configuration as one line that cannot control a terminal, shortened if it is very long."""
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in said)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def _key(error: Any, values: Any) -> str:
    """Return the keys that lead to an error, without the names of types that pydantic puts between them."""
    keys = []
    for part in error["loc"]:
        inside = (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list) and isinstance(part, int)
        )
        if inside:
            values = values[part]
        if inside or (error["type"] == "missing" and part == error["loc"][-1]) or part == "[key]":
            keys.append(str(part))
    return ".".join(keys)


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
    return said if first["type"] in ("value_error", "missing") else f"{said}, got {first['input']!r}"
