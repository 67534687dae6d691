"""One-pixel attacks, propagation maps and locality analysis of image classifiers."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Classifier", "__version__", "attack", "bundled_images", "bundled_network", "load_network", "scan"]

# Imported when asked for, and by name: these import torch, for which jobs that only draw should not wait, and the
# workflow, which follows import statements, would take all of the library for a part of every rule.
LAZY = {
    "Classifier": "onepix.networks.classifier",
    "attack": "onepix.notebook",
    "bundled_images": "onepix.notebook",
    "bundled_network": "onepix.notebook",
    "load_network": "onepix.notebook",
    "scan": "onepix.notebook",
}


def __getattr__(name: str) -> Any:
    """Import what a notebook needs."""
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module 'onepix' has no attribute '{name}'")


def __dir__() -> list[str]:
    """List the public names, also those not imported yet: a notebook completes what is listed."""
    return sorted({*globals(), *__all__})
