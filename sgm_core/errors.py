"""What users read when something is wrong, or worth a line."""

import sys


class SgmError(ValueError):
    """A mistake of the user: the message says what, where, and what would work. It is shown without a traceback."""


def tell(text: str) -> None:
    """Write one line to stderr, at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
