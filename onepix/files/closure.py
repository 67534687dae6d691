"""What a result depends on: the modules of onepix that its job's module imports, directly or through others."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import onepix


def closure(module: str) -> list[Path]:
    """Return the files of a module of onepix, and of all modules of onepix that it imports, directly or through others.

    Imports inside functions count; imports for types only (`if TYPE_CHECKING:`) do not. The `__init__` of each package
    around a module counts, since importing the module runs it. The library is where `onepix.__file__` says.

    Parameters
    ----------
    module : str
        Its full name: ``onepix.jobs.attack``.

    Returns
    -------
    list of Path
        In the order of their names.
    """
    folder = Path(onepix.__file__).parent
    found: set[Path] = set()
    waiting = {*_files(folder, module)}
    while waiting:
        file = waiting.pop()
        try:
            status = file.stat()
        except FileNotFoundError:  # removed after those that import it were parsed
            continue
        found.add(file)
        waiting |= _imported(folder, file, status.st_mtime_ns, status.st_size) - found
    return sorted(found)


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files that run when a dotted name is imported; its last part may be defined in a module."""
    parts = name.split(".")[1:]
    yield folder / "__init__.py"
    for depth in range(1, len(parts) + 1):
        path = folder.joinpath(*parts[:depth])
        yield from (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file())


@functools.cache
def _imported(folder: Path, file: Path, _modified: int, _size: int) -> frozenset[Path]:
    """Return the files that run through the imports of a file; after an edit, the file is parsed again."""
    names: set[str] = set()
    for node in statements(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = (name for name in names if name.split(".")[0] == "onepix")
    return frozenset(imported for name in ours for imported in _files(folder, name))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Walk through a tree, except the parts that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for otherwise in child.orelse:
                yield otherwise
                yield from statements(otherwise)
        else:
            yield child
            yield from statements(child)
