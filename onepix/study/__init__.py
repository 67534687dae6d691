"""A study as a whole: what it would run, whether it can run, and whether its results are correct."""
