"""Telemetry and the error tracker: each needs an extra, and is imported only where a setting asks for it."""

import contextlib
import importlib.util
import logging
from collections.abc import AsyncIterator
from typing import Protocol

from fastapi.telemetry import TelemetryConfig

from duly.settings import Settings

# Without the setting nothing is traced or sent, whatever FASTAPI_OTEL_* and OTEL_* say.
OFF: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


class Observer(Protocol):
    """What `make_telemetry` makes; the class itself can only be named where the extra is installed."""

    config: TelemetryConfig

    @property
    def logs(self) -> logging.Handler:
        """Sends records on; it hears what is logged between `start` and `close`, and what it is handed."""

    def start(self) -> None:
        """Begin to send."""

    async def close(self) -> None:
        """Send what waits, within bounds."""


_OTEL = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_SENTRY = ("sentry_sdk",)


def find_faults(settings: Settings) -> list[str]:
    """One line for each extra that a setting asks for and that is not installed, or cannot be used as it is set."""
    faults = []
    if settings.telemetry_enabled:
        if not _has(*_OTEL):
            faults.append("TELEMETRY_ENABLED: the SDK is not installed; run pip install 'duly[otel]', or switch it off")
        else:
            from duly.operations import telemetry  # noqa: PLC0415 - there only with the extra

            faults += telemetry.find_faults()
    if settings.sentry_dsn is not None:
        if not _has(*_SENTRY):
            faults.append("SENTRY_DSN: sentry-sdk is not installed; run pip install 'duly[sentry]', or unset it")
        else:
            from duly.operations import reporting  # noqa: PLC0415 - there only with the extra

            faults += reporting.find_faults(settings.sentry_dsn.get_secret_value())
    return faults


def _has(*modules: str) -> bool:
    try:
        return all(importlib.util.find_spec(module) is not None for module in modules)
    except ModuleNotFoundError:  # of a parent
        return False


def make_telemetry(settings: Settings) -> Observer | None:
    """What traces and measures requests; None when it is off. Nothing is sent before it is started."""
    if not settings.telemetry_enabled:
        return None
    from duly.operations.telemetry import Telemetry  # noqa: PLC0415 - there only with the extra

    return Telemetry()


@contextlib.asynccontextmanager
async def report_faults(settings: Settings) -> AsyncIterator[None]:
    """While the block runs, and when it fails, unhandled faults go to the error tracker, if there is one."""
    if settings.sentry_dsn is None:
        yield
        return
    from duly.operations.reporting import Reporter  # noqa: PLC0415 - there only with the extra

    async with Reporter(settings.sentry_dsn.get_secret_value(), settings.environment).listening():
        yield


@contextlib.asynccontextmanager
async def observe(settings: Settings, telemetry: Observer | None) -> AsyncIterator[None]:
    """The same, and `telemetry` sends while the block runs and then what waits."""
    async with report_faults(settings):
        if telemetry is not None:
            telemetry.start()
        try:
            yield
        finally:
            if telemetry is not None:
                await telemetry.close()
