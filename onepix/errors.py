"""The exception for mistakes that the user can correct."""


class OnepixError(Exception):
    """A mistake of the user. Its message is one line: what was wrong, where, and what was expected."""


class OfflineError(OnepixError):
    """Something is missing, and ONEPIX_OFFLINE forbids to download it.

    Attributes
    ----------
    missing : str
        What is missing, and where it was looked for.
    """

    def __init__(self, missing: str, advice: str) -> None:
        super().__init__(f"{missing}, and ONEPIX_OFFLINE is set; {advice}")
        self.missing = missing
