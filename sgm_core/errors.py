"""Errors that speak to the user. Each message says what, where, and what would work."""


class SgmError(ValueError):
    """The input is wrong, not the program: commands print the message alone and exit with 1."""
