"""Results of another version than those that are written now: which they are, and what becomes of them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from onepix.analysis.maps import MAPS
from onepix.analysis.positions import PART, POSITIONS, SCAN
from onepix.analysis.receptive_fields import FIELDS
from onepix.errors import OnepixError
from onepix.files.layout import result_of
from onepix.files.manifests import FIRST, Format, is_current, read_manifest
from onepix.files.records import RECORDS

# How the data of each kind of result are laid out. Those of datasets and networks are no formats of onepix's own.
FORMATS = {
    "attack": RECORDS,
    "propagation": MAPS,
    "locality": POSITIONS,
    "controls": MAPS,
    "receptive_fields": FIELDS,
}


def outdated(manifests: Iterable[Path]) -> Iterator[str]:
    """Say of which results the version is another one, a line for each format and version.

    Parameters
    ----------
    manifests : iterable of Path
        Of results; those that are not there, or cannot be read, are passed over.

    Yields
    ------
    str
        ``4 propagation maps …``: how many manifests, of what, and that they will be made anew. The workflow does so by
        itself: the module that states a version is an input of the rules that write it.
    """
    found: Counter[tuple[Format, int]] = Counter()
    for manifest in manifests:
        try:
            read = read_manifest(manifest)
        except OnepixError:
            continue
        kind = FORMATS[result_of(manifest).kind]
        for layout, stated in [(kind, read), *([(SCAN, read[PART])] if PART in read else [])]:
            if not is_current(stated, layout):
                found[layout, stated.get("version", FIRST)] += 1
    for (layout, version), count in found.items():
        yield (
            f"{count} result{'s hold' if count > 1 else ' holds'} {layout.name} of version {version}, and version "
            f"{layout.version} is expected: they and what follows from them will be made anew"
        )
