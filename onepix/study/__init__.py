"""A study as a whole: what it would run, whether it can, and whether its results are sound."""
