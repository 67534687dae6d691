"""Finds results whose format has another version than the current one."""

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

# The format of each kind of result. Datasets and networks are stored in formats that are not onepix's own.
FORMATS = {
    "attack": RECORDS,
    "propagation": MAPS,
    "locality": POSITIONS,
    "controls": MAPS,
    "receptive_fields": FIELDS,
}


def outdated(manifests: Iterable[Path]) -> Iterator[str]:
    """Yield which results have another version, one line per format and version.

    Parameters
    ----------
    manifests : iterable of Path
        Manifests of results; those that are missing or cannot be read are skipped.

    Yields
    ------
    str
        How many results, of which format, and that they will be made again. The workflow does this by itself, because
        the module that states a version is an input of the rules that write the format.
    """
    found: Counter[tuple[Format, int]] = Counter()
    for manifest in manifests:
        try:
            read = read_manifest(manifest)
        except OnepixError:
            continue
        kind = FORMATS[result_of(manifest).kind]
        for form, stated in [(kind, read), *([(SCAN, read[PART])] if PART in read else [])]:
            if not is_current(stated, form):
                found[form, stated.get("version", FIRST)] += 1
    for (form, version), count in found.items():
        yield (
            f"{count} result{'s hold' if count > 1 else ' holds'} {form.name} of version {version}, expected "
            f"version {form.version}: these and all results made from them will be made again"
        )
