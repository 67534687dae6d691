"""Text that tries to be more than text."""

BROKEN = ["", "\n", "a\nb", "a\n", "a\0b", "\x1b[31mred", "a\rb", "a\u2028b", "\x85", "\ud800", "a\tb"]
BRACED = ["{dataset}", "a{", "out}", "{wildcards.network}", "{"]
OPTIONS = ["-rf", "--output=x", "~", "~/x", "~nosuchuser/x"]
SHELL = [
    "a b",
    "'",
    '"',
    "a'b\"c",
    "; touch harm",
    "$(touch harm)",
    "`touch harm`",
    "a && b",
    "| tee x",
    "> x",
    "*",
    "!!",
]
SCRIPT = "</script><script>alert(1)</script>"
OTHER = [
    "..",
    "../x",
    "/etc/passwd",
    "a/../../b",
    SCRIPT,
    "%s%n",
    "\\",
    "é",
    "💥",
    "CON",
    "x" * 300,
]

EVERYTHING = [*BROKEN, *BRACED, *OPTIONS, *SHELL, *OTHER]


def tree(*folders):
    return {str(path) for folder in folders for path in folder.rglob("*")}
