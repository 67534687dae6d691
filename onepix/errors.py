"""The one exception that means "the user can mend this"."""


class OnepixError(Exception):
    """A mistake in the input, told in one line: what was wrong, where, and what was expected."""
