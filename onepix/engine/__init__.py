"""Evaluates networks: fast for screening, and in float32 where the result counts."""
