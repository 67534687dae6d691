"""One-pixel attacks, propagation maps and locality analysis of image classifiers."""

__version__ = "0.1.0"
