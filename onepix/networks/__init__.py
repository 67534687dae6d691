"""Architectures, weights and training."""
