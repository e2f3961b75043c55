"""`duly worker`: what a process does beside answering, without answering."""

import asyncio
import contextlib
import logging
import signal

from duly.cli.opening import House, run_in_house
from duly.kit.logs import configure_logging, flush_logs
from duly.operations import extras
from duly.settings import load_settings

log = logging.getLogger("duly.worker")


def work() -> None:
    """Deliver mail, link the audit log and remove what is over, until told to end. Any number may run."""
    settings = load_settings()
    form = settings.log_format or ("json" if settings.is_strict else "console")
    configure_logging(level="debug" if settings.debug else settings.log_level, format=form)
    try:
        run_in_house(_work, settings)
    finally:
        flush_logs()


async def _work(house: House) -> None:
    async with extras.observe(house.settings, extras.make_telemetry(house.settings)):
        await _keep_up(house)


async def _keep_up(house: House) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    upkeep = asyncio.create_task(house.parts.upkeep.run())
    ending = asyncio.create_task(told.wait())
    log.info("Working: delivers mail, links the audit log, and removes what is over; SIGTERM ends it")
    await asyncio.wait({upkeep, ending}, return_when=asyncio.FIRST_COMPLETED)
    if upkeep.done():
        ending.cancel()
        upkeep.result()  # it never ends of itself, so this raises
    upkeep.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await upkeep
    log.info("Ended")
