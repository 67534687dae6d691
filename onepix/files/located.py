"""Files by name: a path, or a path inside an installed Python package."""

import importlib.util
from pathlib import Path

from onepix.errors import OnepixError

PACKAGE = "package:"


def located(name: str) -> Path:
    """Return the path that a setting names.

    Parameters
    ----------
    name : str
        A path, or `package:NAME/PATH`: a file or folder inside an installed package, which is not imported.

    Raises
    ------
    OnepixError
        If the package is not installed.
    """
    if not name.startswith(PACKAGE):
        return Path(name).expanduser()
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    try:
        found = importlib.util.find_spec(package)
    except ValueError:  # an empty name
        found = None
    if found is None or not found.submodule_search_locations:
        raise OnepixError(f"{name}: no package '{package}' is installed; install it with pip, or give a path")
    return Path(found.submodule_search_locations[0]) / inside
