"""Evaluates networks: fast for screening, and in float32 for whatever counts."""
