"""On how many examples a property is tried: the profiles in conftest.py say how many a usual one gets."""

from typing import Any

from hypothesis import settings

USUAL = 100  # what counts in the tests are relative to


def examples(count: int, **options: Any) -> settings:
    """Return settings of a property that is dearer or cheaper than the usual one, which is tried on 100 examples."""
    return settings(max_examples=max(10, count * settings.default.max_examples // USUAL), **options)
