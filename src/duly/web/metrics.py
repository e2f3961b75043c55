"""What /metrics says, and who may read it."""

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fastapi import Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Info, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from duly import __version__
from duly.errors import Forbidden, Unauthenticated
from duly.operations.backlog import Backlog, BacklogLook
from duly.settings import Settings
from duly.web.addresses import parse_address
from duly.web.fellows import Blocks, Fellows, join
from duly.web.guard import authorization_header

log = logging.getLogger(__name__)

MEDIA_TYPE = CONTENT_TYPE_LATEST
# Whoever sends one of these passes somebody else's request on.
_FORWARDING = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
Figures = Callable[[], Iterable[Metric]]


class _Asked(Collector):
    """Figures that are asked for each time somebody reads them."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        return self._figures()

    def describe(self) -> Iterable[Metric]:
        """Nothing: what has no fixed names cannot be checked for names that are taken."""
        return ()


class _Given(CollectorRegistry):
    """Families that were collected already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        super().__init__(auto_describe=False)
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Metrics:
    """One application's figures. `add` takes further ones: what only has to be looked at.

    With several workers each has its own, told apart by a label `worker`, and the one that is asked answers for all:
    see `web/fellows.py`. What the database says is the same for all, and is asked for by that one alone.
    """

    def __init__(self, look: BacklogLook) -> None:
        self._look = look
        self._fellows: Fellows | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        Info("duly_build", "What is running.", registry=self._registry).info({"version": __version__})

    def add(self, figures: Figures) -> None:
        """Ask `figures` too, each time; it must be quick, and its names its own."""
        self._registry.register(_Asked(figures))

    async def meet(self, folder: Path | None) -> None:
        """Answer for the other workers whose folder this is, and let them answer for this one."""
        fellows = join(folder)
        if fellows is None:
            return
        try:
            await fellows.open(self._blocks)
        except OSError as error:
            log.warning("This worker's figures are shown only when it is the one that is asked: %s", error)
            await fellows.close()
        else:
            self._fellows = fellows

    async def close(self) -> None:
        """Leave the other workers, and break off what is being looked at."""
        if self._fellows is not None:
            await self._fellows.close()
        await self._look.close()

    async def render(self) -> bytes:
        """The text format of Prometheus, as of `MEDIA_TYPE`; within a second whatever does not answer."""
        fellows = self._fellows
        if fellows is None:
            shared = _backlog_figures(await self._look.take())
            return _write([*self._registry.collect(), *shared])
        backlog, others = await asyncio.gather(self._look.take(), fellows.ask())
        up = GaugeMetricFamily("duly_worker_up", "Whether this worker answered for its figures.", labels=["worker"])
        up.add_metric([str(fellows.number)], 1)
        merged = {name: [head, body] for name, (head, body) in self._blocks().items()}
        for number, told in others.items():
            up.add_metric([str(number)], int(told is not None))
            for name, (head, body) in (told or {}).items():
                merged.setdefault(name, [head]).append(body)
        return "".join(map("".join, merged.values())).encode() + _write([*_backlog_figures(backlog), up])

    def _blocks(self) -> Blocks:
        """This worker's families as text, under its number."""
        assert self._fellows is not None  # noqa: S101 - asked by those alone who have met
        label = {"worker": str(self._fellows.number)}
        blocks: Blocks = {}
        for family in self._registry.collect():
            family.samples = [
                sample._replace(labels={**label, **sample.labels}) for sample in family.samples
            ]  # fmt: skip
            lines = _write([family]).decode().splitlines(keepends=True)
            blocks[family.name] = "".join(lines[:2]), "".join(lines[2:])
        return blocks


def _write(families: Sequence[Metric]) -> bytes:
    return generate_latest(_Given(families))


def _backlog_figures(backlog: Backlog | None) -> Iterable[Metric]:
    yield GaugeMetricFamily(
        "duly_up_database", "Whether the database answered for this reading.", value=int(backlog is not None)
    )
    if backlog is None:
        return
    outbox = GaugeMetricFamily("duly_outbox_messages", "Mails that wait, or were given up.", labels=["state"])
    outbox.add_metric(["waiting"], backlog.outbox_waiting)
    outbox.add_metric(["dead"], backlog.outbox_dead)
    yield outbox
    yield GaugeMetricFamily(
        "duly_outbox_oldest_seconds", "Age of the oldest mail that waits.", value=backlog.outbox_oldest_seconds
    )
    yield GaugeMetricFamily(
        "duly_audit_unsealed", "Audit entries that are not in the chain yet.", value=backlog.audit_unsealed
    )


def check_reader(request: Request, settings: Settings) -> None:
    """Let pass who knows `METRICS_TOKEN`; without one, who asks from this machine.

    Behind a proxy on this machine everybody's connection comes from it, so a request that says it was passed on is
    refused, also where `TRUSTED_PROXIES` does not name that proxy. Raises `Unauthenticated` or `Forbidden`.
    """
    if settings.metrics_token is None:
        client = parse_address(request.client.host) if request.client else None
        is_forwarded = any(name in _FORWARDING for name, _ in request.scope["headers"])
        if client is None or not client.is_loopback or is_forwarded:
            raise Forbidden("Metrics are for this machine alone. Set METRICS_TOKEN to read them from elsewhere.")
        return
    header = authorization_header(request.scope)
    if header is None:
        raise Unauthenticated(
            "Metrics need METRICS_TOKEN as a bearer token.", code="NOT_AUTHENTICATED", challenge=False
        )
    scheme, _, token = header.partition(b" ")
    known = settings.metrics_token.get_secret_value().encode()
    if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), known):
        raise Unauthenticated("This is not METRICS_TOKEN.")
