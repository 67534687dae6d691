"""One-pixel attacks, propagation maps and locality analysis of image classifiers."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Classifier", "__version__", "attack", "bundled_images", "bundled_network", "load_network", "scan"]

# Imported only when they are used: they import torch, which takes seconds, and jobs that only draw do not need it. They
# are imported by name, since the workflow follows import statements: each rule would depend on the whole library.
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
    """List the public names, also those not imported yet, so that a notebook can complete them."""
    return sorted({*globals(), *__all__})
