"""Looks into networks: which layers they have, what changes in each layer, and what each position can see."""
