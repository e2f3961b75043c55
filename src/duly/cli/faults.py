"""How a command says that it could not do what was asked."""

import sys
from typing import NoReturn


def stop(*lines: str) -> NoReturn:
    """One line for each fault on standard error, and exit code 1."""
    for line in lines:
        print(f"duly: {line}", file=sys.stderr)
    sys.exit(1)
