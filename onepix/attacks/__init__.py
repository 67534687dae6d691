"""Finds the pixels: one method per module, and what all methods share."""
