"""The fixtures that every test may ask for."""

pytest_plugins = (
    "tests.fixtures.database",
    "tests.fixtures.application",
    "tests.fixtures.server",
    "tests.fixtures.shared",
    "tests.fixtures.stored",
    "tests.fixtures.smtp",
    "tests.fixtures.accounts",
)
