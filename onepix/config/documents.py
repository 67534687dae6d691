"""Reads configuration files, YAML or JSON, and remembers on which line each key stands.

YAML is read as its version 1.2 says (core schema). Version 1.1, which PyYAML and Snakemake follow, takes 10:49 for 649,
`no` for false, 010 for 8, 2026-11-25 for a date and 1e-3 for text.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from onepix.config.base import Keys
from onepix.errors import OnepixError

TAG = "tag:yaml.org,2002:"
TEMPLATE = "__use_yte__"  # Snakemake takes such a file for a template, with expressions of Python in it
MOST = 1_000_000  # values of a file, with what its aliases repeat
LONGEST = 80  # characters shown of an option


@dataclasses.dataclass(frozen=True)
class Given:
    """Values of a configuration, and where they were given.

    Attributes
    ----------
    values : dict
        Plain values.
    origins : mapping
        By the keys that lead to a value: file and line, such as ``config/config.yaml:14``, or an option.
    """

    values: dict[Any, Any]
    origins: Mapping[Keys, str]


def read_file(path: Path) -> Given:
    """Read a file, YAML or JSON.

    Raises
    ------
    OnepixError
        If it is missing, not UTF-8, not YAML, not a mapping, gives a key twice, or is too large. One line per mistake.
    """
    name = shown(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise OnepixError(f"{name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise OnepixError(
            f"{name}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8"
        ) from error
    read = _Reading(lambda line: f"{name}:{line}").given(text)
    if read.values.get(TEMPLATE):
        raise OnepixError(f"{read.origins[(TEMPLATE,)]}: templates are not read; `yte < {name}` fills one in")
    read.values.pop(TEMPLATE, None)
    return read


def read_option(text: str) -> Given:
    """Read a value of Snakemake's `--config`, such as ``images_per_job=10``, by the rules for files.

    As for Snakemake, nothing after = is null, and what is not YAML is text.
    """
    key, _, value = text.partition("=")
    origin = f"--config {text if len(text) <= LONGEST else f'{text[:LONGEST]}…'}"
    try:
        values, origins = _Reading(lambda _: origin).value(value, (key,))
    except (yaml.YAMLError, RecursionError):
        values, origins = value, {}
    return Given({key: values}, {(key,): origin, **origins})


def merged(first: Given, later: Given) -> Given:
    """Add later values to earlier ones, key by key, as Snakemake does with several files and with `--config`."""
    replaced: set[Keys] = set()
    values = _merged(first.values, later.values, (), replaced)
    kept = {
        keys: origin
        for keys, origin in first.origins.items()
        if not any(keys[:depth] in replaced for depth in range(1, len(keys) + 1))
    }
    return Given(values, {**kept, **later.origins})


def _merged(first: Any, later: Any, keys: Keys, replaced: set[Keys]) -> Any:
    """Merge values, and note the keys whose earlier values are gone."""
    if not isinstance(later, Mapping) or (later and not isinstance(first, Mapping)):
        replaced.add(keys)
        return later
    if not later:
        return first  # as Snakemake does, even where it is no mapping
    added = {k: _merged(first[k], v, (*keys, k), replaced) if k in first else v for k, v in later.items()}
    return {**first, **added}


def shown(path: Path) -> str:
    """Return a path for messages: relative, if it lies in this folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, with the plain values of YAML 1.2's core schema, and the merge key << of YAML 1.1."""

    yaml_implicit_resolvers = {}  # noqa: RUF012


for kind, spelled, first_letters in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(TAG + kind, re.compile(rf"(?:{spelled})\Z"), first_letters)


def _integer(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _number(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _text(text: str) -> str:
    """Join the halves of characters that JSON writes as two escapes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


CONSTRUCTED: dict[str, Callable[[str], Any]] = {
    f"{TAG}null": lambda _: None,
    f"{TAG}bool": lambda text: {"true": True, "false": False}[text.lower()],
    f"{TAG}int": _integer,
    f"{TAG}float": lambda text: _number(text.lower()),
    f"{TAG}str": _text,
}


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would take for something other than text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [*table.get(first, ()), *_Loader.yaml_implicit_resolvers.get(first, ())]
        for table in [yaml.SafeDumper.yaml_implicit_resolvers]
        for first in {**table, **_Loader.yaml_implicit_resolvers}
    }


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Escape what is not printable: PyYAML writes some line breaks as they are, and would read them as spaces."""
    return dumper.represent_scalar(f"{TAG}str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _quoted)


def written(values: Mapping[str, Any]) -> str:
    """Return values as YAML that onepix and Snakemake read as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Reading:
    """One file or option that is read: its values, the origins of its keys, and its mistakes."""

    def __init__(self, origin: Callable[[int], str]) -> None:
        self.origin = origin  # of a line, counted from 1
        self.origins: dict[Keys, str] = {}
        self.mistakes: list[str] = []
        self.count = 0
        self.open: set[int] = set()  # the nodes that hold the present one

    def given(self, text: str) -> Given:
        """Read a whole file; errors as in `read_file`."""
        try:
            values, _ = self.value(text, ())
        except yaml.YAMLError as error:
            raise OnepixError(self._not_yaml(error, text)) from error
        except RecursionError as error:
            raise OnepixError(f"{self.origin(1)}: nested too deeply") from error
        if not isinstance(values, dict):
            found = {type(None): "nothing", list: "a list"}.get(type(values), f"{values!r:.{LONGEST}}")
            raise OnepixError(f"{self.origin(1)}: expected keys such as networks: and runs:, got {found}")
        return Given(values, self.origins)

    def value(self, text: str, keys: Keys) -> tuple[Any, dict[Keys, str]]:
        """Read text as a value at some keys; yaml.YAMLError if it is not YAML."""
        node = yaml.compose(_without_tabs(text), Loader=_Loader)
        values = None if node is None else self._value(node, keys)
        if self.mistakes:
            raise OnepixError("\n".join(dict.fromkeys(self.mistakes)))
        return values, self.origins

    def _value(self, node: yaml.Node, keys: Keys) -> Any:
        """Construct a value."""
        self.count += 1
        if self.count > MOST:
            raise OnepixError(f"{self._at(node)}: more than {MOST:,} values, with those that aliases repeat")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, keys)
        if node.tag not in (f"{TAG}map", f"{TAG}seq"):
            return self._wrong(node, keys, f"the tag {node.tag.replace(TAG, '!!')} is not known")
        if id(node) in self.open:
            raise OnepixError(f"{self._at(node)}: {_dotted(keys)}: its value holds an alias of itself")
        self.open.add(id(node))
        values = self._mapping(node, keys) if isinstance(node, yaml.MappingNode) else self._list(node, keys)
        self.open.remove(id(node))
        return values

    def _scalar(self, node: yaml.ScalarNode, keys: Keys) -> Any:
        """Construct text, a number, true, false or null."""
        # << has a meaning only as a key.
        construct = _text if node.tag == f"{TAG}merge" else CONSTRUCTED.get(node.tag)
        kind = node.tag.replace(TAG, "!!")
        if construct is None:
            return self._wrong(node, keys, f"the tag {kind} is not known")
        try:
            return construct(node.value)
        except (ValueError, KeyError):
            return self._wrong(node, keys, f"cannot read {node.value[:LONGEST]!r} as {kind}")

    def _list(self, node: yaml.Node, keys: Keys) -> list[Any]:
        for index, item in enumerate(node.value):
            self.origins[*keys, index] = self._at(item)
        return [self._value(item, (*keys, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[Any, Any]:
        """Construct a mapping. Its own keys win over those of mappings that << adds, and of these the first."""
        values: dict[Any, Any] = {}
        lines: dict[Any, int] = {}  # of its own keys
        merges: list[yaml.Node] = []
        for key_node, value_node in node.value:
            key = self._key(key_node, keys)
            line = key_node.start_mark.line + 1
            if key in lines:
                said = f"{_dotted((*keys, key))}: given twice, on lines {lines[key]} and {line}"
                self.mistakes.append(f"{self.origin(line)}: {said}; keep one of them")
            lines[key] = line
            if key_node.tag == f"{TAG}merge":
                merges += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            self.origins[*keys, key] = self.origin(line)
            values[key] = self._value(value_node, (*keys, key))
        for added in merges:
            self._merge(added, keys, values)
        return values

    def _merge(self, node: yaml.Node, keys: Keys, values: dict[Any, Any]) -> None:
        """Add the keys of another mapping that are not there yet."""
        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, (*keys, "<<"), "expected a mapping, or a list of mappings")
            return
        own, self.origins = self.origins, {}
        more = self._value(node, keys)
        added, self.origins = self.origins, own
        new = more.keys() - values.keys()
        values.update({key: value for key, value in more.items() if key in new})
        own.update({at: origin for at, origin in added.items() if at[len(keys)] in new})

    def _key(self, node: yaml.Node, keys: Keys) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, keys)
        return self._wrong(node, keys, "expected text as a key, got a mapping or a list")

    def _wrong(self, node: yaml.Node, keys: Keys, said: str) -> None:
        """Note a mistake."""
        self.mistakes.append(f"{self._at(node)}: {_dotted(keys)}{': ' if keys else ''}{said}")

    def _at(self, node: yaml.Node) -> str:
        return self.origin(node.start_mark.line + 1)

    def _not_yaml(self, error: yaml.YAMLError, text: str) -> str:
        """Say in one line why text cannot be parsed."""
        if isinstance(error, yaml.reader.ReaderError):  # it has a position, and no line
            line = text.count("\n", 0, error.position) + 1
            return f"{self.origin(line)}: not YAML: the character U+{ord(text[error.position]):04X} is not allowed"
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = mark.line + 1 if mark else 1
        problem, context = (getattr(error, name, None) or "" for name in ("problem", "context"))
        if "another document" in problem:
            return f"{self.origin(line)}: a second document begins; expected one per file"
        if r"'\t'" in problem:
            if text.lstrip().startswith("{") and (wrong := _json_error(text)):
                return f"{self.origin(wrong.lineno)}: not JSON: {wrong.msg}"
            problem, context = "a tab; YAML is indented by spaces", ""
        return f"{self.origin(line)}: not YAML: {' '.join(f'{context} {problem}'.split())}"


def _json_error(text: str) -> json.JSONDecodeError | None:
    """Return why text is not JSON; None if it is."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error
    return None


def _without_tabs(text: str) -> str:
    """Replace the tabs of JSON, which YAML would refuse; JSON has none inside texts."""
    return text if "\t" not in text or _json_error(text) else text.replace("\t", " ")


def _dotted(keys: Sequence[Any]) -> str:
    return ".".join(map(str, keys))
