"""One-pixel attacks, propagation maps and locality analysis of image classifiers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onepix.library import attack, scan
    from onepix.models.classifier import Classifier

__version__ = "0.1.0"
__all__ = ["Classifier", "__version__", "attack", "scan"]


def __getattr__(name: str) -> Any:
    """Import what a notebook needs when it is asked for: jobs that only draw should not wait for torch."""
    if name in ("attack", "scan"):
        from onepix import library

        return getattr(library, name)
    if name == "Classifier":
        from onepix.models.classifier import Classifier

        return Classifier
    raise AttributeError(f"module 'onepix' has no attribute '{name}'")
