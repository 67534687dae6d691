"""What modules return: the tensor that counts, and how to put another one in its place."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def main_output(output: Any) -> Tensor | None:
    """Return the first tensor of what a module returns: a tensor, tuple, list, mapping or dataclass; None if none."""
    if isinstance(output, Tensor):
        return output
    return next((found for _, value in _parts(output) if (found := main_output(value)) is not None), None)


def with_main_output(output: Any, new: Tensor) -> Any:
    """Return an output as `main_output` takes it, with another tensor in place of the first."""
    if isinstance(output, Tensor):
        return new
    key, value = next((key, value) for key, value in _parts(output) if main_output(value) is not None)
    replaced = with_main_output(value, new)
    if isinstance(output, Mapping):
        changed = copy.copy(output)  # of a type of its own, perhaps
        changed[key] = replaced  # type: ignore[index]
        return changed
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return dataclasses.replace(output, **{key: replaced})
    values = [*output]
    values[key] = replaced
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)


def _parts(output: Any) -> list[tuple[Any, Any]]:
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, tuple | list):
        return list(enumerate(output))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    return []
