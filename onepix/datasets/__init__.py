"""Where images come from, and which of them a run attacks."""
