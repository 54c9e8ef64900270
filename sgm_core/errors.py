"""What users read when something is wrong, or worth a line."""

import sys

EXIT_INTERRUPTED = 130
"""The exit code after Ctrl-C."""


class SgmError(ValueError):
    """A mistake of the user: the message says what, where, and what would work. It is shown without a traceback."""


class StopRun(SgmError):  # noqa: N818 - it is no fault of the program
    """Ends a training on purpose, on every process alike: the message is shown once."""


def tell(text: str) -> None:
    """Write one line to stderr, at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
