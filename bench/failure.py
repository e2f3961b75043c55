"""The one error that the harness shows to its user without a traceback."""


class BenchError(Exception):
    """A fault the user can act on; its text is the whole message."""
