"""What users read when something is wrong, or worth a line."""

import sys

EXIT_INTERRUPTED = 130
"""The exit code after Ctrl-C."""


class SgmError(ValueError):
    """A mistake of the user: the message says what, where, and what would work. It is shown without a traceback."""


class StopRun(SgmError):  # noqa: N818 - it is no fault of the program
    """Ends a training on purpose, on every process alike: the message is shown once."""


def printable(text: object, most: int = 400) -> str:
    """A text of somebody else on one line of a terminal, or in a file name: at most so many characters, and escapes
    for those that are not printable. Control characters and marks of the direction of writing are among these."""
    line = str(text)
    line = line if len(line) <= most else f"{line[: most - 3]}..."
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def shown(text: str) -> str:
    """Lines of a message in which texts of others may be: each line printable."""
    return "\n".join(printable(line, 4000) for line in text.split("\n"))


def tell(text: str) -> None:
    """Write a message to stderr, at once."""
    sys.stderr.write(f"{shown(text)}\n")
    sys.stderr.flush()
