"""The user's own code: the files of a module and of all that it imports from its own folder, without importing it."""

import ast
import importlib
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from onepix.errors import OnepixError
from onepix.files.closure import statements
from onepix.files.manifests import names_and_contents

INSTALLED = ("site-packages", "dist-packages")


def own_code(module: str) -> list[Path]:
    """Return the files of the user's own code that run when a module is imported.

    They are the module, the packages around it, and what these import, directly or through others, from the folder of
    the outermost package, from the working folder, or from beside the importing file. The code is only parsed.

    Parameters
    ----------
    module : str
        Its full name: ``mynetworks``, ``mypackage.networks``. It is looked for in the working folder and on the Python
        path.

    Returns
    -------
    list of Path
        Absolute, in the order of their names; empty if the module is installed with pip, belongs to Python, or is not
        found.

    Raises
    ------
    OnepixError
        If one of the files is not Python.
    """
    importlib.invalidate_caches()  # a file may just have been written
    first = _found(module.partition(".")[0], [Path.cwd()])
    if first is None:
        return []
    folders = [Path.cwd().resolve(), first.parent]
    found: set[Path] = set()
    waiting = [*_files(module, folders)]
    while waiting:
        file, name = waiting.pop()
        if file in found or not _is_own(file) or not any(file.is_relative_to(folder) for folder in folders):
            continue
        found.add(file)
        if file.suffix == ".py":
            for imported in _imports(file, name):
                waiting += _files(imported, [*folders, file.parent])
    return sorted(found)


def own_digest(module: str) -> str | None:
    """Return the SHA-256 of names and contents of `own_code`; None if there is none. Errors as there."""
    files = own_code(module)
    if not files:
        return None
    return names_and_contents(Path(os.path.commonpath([file.parent for file in files])), files)


def _found(name: str, folders: Sequence[Path]) -> Path | None:
    """Return the file of a module, or the folder of a package, that is not inside another one."""
    spec = PathFinder.find_spec(name, [*map(str, folders), *sys.path])
    if spec is None and name not in sys.builtin_module_names:  # perhaps a package that is installed for editing
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin and Path(spec.origin).is_file() else None


def _files(module: str, folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the files that run when a module is imported, and their names; its last part may be defined in a module."""
    top, *parts = module.split(".")
    path = _found(top, folders)
    if path is not None and path.is_file():
        yield path, top
    elif path is not None:
        for depth in range(len(parts) + 1):
            name = ".".join([top, *parts[:depth]])
            inner = path.joinpath(*parts[:depth])
            if (inner / "__init__.py").is_file():
                yield inner / "__init__.py", f"{name}.__init__"
            elif depth and inner.with_name(f"{inner.name}.py").is_file():
                yield inner.with_name(f"{inner.name}.py"), name


def _imports(file: Path, name: str) -> set[str]:
    """Return the full names of all that a file imports, from names of which the last part may be no module."""
    package = name.split(".")[:-1]
    names: set[str] = set()
    for node in statements(_parsed(file)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*around, *filter(None, [node.module])])
            names.update(f"{source}.{alias.name}".strip(".") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names.update(str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))
    return {name for name in names if name.partition(".")[0] not in ("", "onepix")}


def _parsed(file: Path) -> ast.AST:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        raise OnepixError(f"{file}: not Python: {error.msg} in line {error.lineno}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise OnepixError(f"{file}: not Python that can be read: {error}") from None


def _is_own(file: Path) -> bool:
    """Tell whether a file is neither Python's own nor installed."""
    if set(INSTALLED) & set(file.parts):
        return False
    return not any(file.is_relative_to(folder) for folder in _folders_of_python())


def _folders_of_python() -> Iterable[Path]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = [*(sysconfig.get_path(name) for name in names), *site.getsitepackages(), site.getusersitepackages()]
    return [Path(folder).resolve() for folder in installed]
