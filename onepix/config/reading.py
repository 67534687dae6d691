"""Settings from plain values and back: checked, told in one line where they are wrong, and in one canonical form."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ValidationError,
)

from onepix.errors import OnepixError

S = TypeVar("S", bound=BaseModel)


LONGEST = 1000  # characters of a message on one value


def part(model: type[BaseModel], settings: BaseModel) -> dict[str, Any]:
    """Return those settings that a model of fewer keys has, as plain values."""
    return settings.model_dump(mode="json", include=set(model.model_fields))


def validated(model: type[S], values: Any, source: str) -> S:
    """Check values against a model of settings; errors as in `parse`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise OnepixError("\n".join(_lines(error.errors(), values, source))) from None
    except UnicodeEncodeError as error:  # a message would quote half a character, which YAML lets pass
        raise OnepixError(f"{source}: {error.object!r} is not text") from None


def canonical(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON that is the same for the same settings, whatever their order, and safe inside HTML."""
    plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in settings.items()}
    # Snakemake's report puts parameters into a script of its page, which a class called </script> would end.
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")


def _lines(errors: Sequence[Any], values: Any, source: str) -> list[str]:
    """Return a line for each key that is wrong; pydantic reports an error for each of the types allowed there."""
    by_key: dict[str, list[Any]] = {}
    for error in errors:
        if error["type"] == "too_short" and error["input"]:
            continue  # after an error inside an item, pydantic also reports that its list is too short
        by_key.setdefault(_key(error, values), []).append(error)
    # Where one of several types is a model, what is wrong inside it says more than that it is none of the other types.
    deepest = {key: e for key, e in by_key.items() if not any(other.startswith(f"{key}.") for other in by_key)}
    return [f"{source}: {_in_line(key)}{': ' if key else ''}{_in_line(_what(found))}" for key, found in deepest.items()]


def _in_line(said: str) -> str:
    """Return what quotes a configuration as one line that does nothing to a terminal, shortened if it is very long."""
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
