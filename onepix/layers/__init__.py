"""Looks into networks: which layers there are, what changes in them, and what each of their positions can see."""
