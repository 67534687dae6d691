"""The configuration: one module per section, and `study` for the whole."""
