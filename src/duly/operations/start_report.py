"""Says in the log, at each start, what was checked and what came of it."""

import logging

from duly.db.database import address_from
from duly.errors import DulyError
from duly.files.scanning import open_scanner
from duly.operations.health import CHECK_SECONDS, Check, HealthChecks
from duly.settings import Settings

log = logging.getLogger(__name__)


async def report_checks(settings: Settings, health: HealthChecks) -> None:
    """One line for each check; a warning where something does not answer.

    What would stop the start has stopped it before. The rest may come later: a slow mail server holds up nobody, so
    this runs beside the requests.
    """
    log.info("Start-up check: settings: ok (%s)", settings.environment)
    _, checks = await health.summary()
    for name, check in checks.items():
        _report(name, check, f" ({address_from(settings).dialect})" if name == "database" else "")
    if settings.attachments_enabled:
        # A folder that takes no files has stopped the start, and of an object store a warning was given.
        log.info("Start-up check: files: %s", "in the object store" if settings.files_url else "ok (folder)")
    await _report_scanner(settings)


async def _report_scanner(settings: Settings) -> None:
    scanner = open_scanner(settings, seconds=CHECK_SECONDS)
    if scanner is None:
        return
    try:
        log.info("Start-up check: scanner: ok (%s)", await scanner.version())
    except DulyError:
        log.warning("Start-up check: scanner: does not answer; uploads answer 503 until it does")


def _report(name: str, check: Check, note: str) -> None:
    if check.ok or not check.configured:
        log.info("Start-up check: %s: %s%s", name, check.detail, note)
    else:
        log.warning("Start-up check: %s: %s%s; /health tells when it does", name, check.detail, note)
