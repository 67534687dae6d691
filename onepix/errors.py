"""The exception for mistakes that the user can correct, and others in one line."""

LONGEST = 500  # characters of the message of another exception


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


def in_line(error: BaseException) -> str:
    """Return an exception's class and message as one line that cannot control a terminal."""
    said = " ".join(str(error).split())
    printable = "".join(letter for letter in said if letter.isprintable())
    shown = printable if len(printable) <= LONGEST else f"{printable[:LONGEST]} …"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
