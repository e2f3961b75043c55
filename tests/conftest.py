"""The fixtures that every test may ask for, and which tests `make test` leaves to `make torture`."""

import os
import signal

import pytest

pytest_plugins = (
    "tests.fixtures.database",
    "tests.fixtures.application",
    "tests.fixtures.server",
    "tests.fixtures.shared",
    "tests.fixtures.stored",
    "tests.fixtures.smtp",
    "tests.fixtures.accounts",
    "tests.fixtures.object_store",
    "tests.fixtures.targets",
    "tests.fixtures.tab",
)

# A shell without job control lets what it starts in the background ignore Ctrl-C, and that passes on to the programs
# that the tests start; those have to be as in a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless it was asked for."""
    if os.environ.get("TORTURE"):
        return
    long = [item for item in items if item.get_closest_marker("torture")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("torture")]
