"""The one exception that means "the user can mend this"."""


class OnepixError(Exception):
    """A mistake in the input, told in one line: what was wrong, where, and what was expected."""


class OfflineError(OnepixError):
    """Something is not at hand, and may not be fetched now.

    Attributes
    ----------
    missing : str
        What is not where.
    """

    def __init__(self, missing: str, advice: str) -> None:
        super().__init__(f"{missing}, and ONEPIX_OFFLINE is set; {advice}")
        self.missing = missing
