"""The figures of this process that only have to be looked at: database, passwords, limits, streams, cache."""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from duly.cache.cache import LAYERS, Cache
from duly.db.conflicts import unavailable
from duly.db.unit import Database
from duly.kit.passwords import PasswordHasher
from duly.operations.backlog import BacklogLook
from duly.web.limits import RequestLimits
from duly.web.metrics import Figures, Metrics
from duly.web.streams import Streams


def make_metrics(
    database: Database, hasher: PasswordHasher, limits: RequestLimits, cache: Cache, streams: Streams | None
) -> Metrics:
    """What /metrics shows of everything but the requests themselves."""
    metrics = Metrics(BacklogLook(database))
    metrics.add(database_figures(database))
    metrics.add(password_figures(hasher))
    metrics.add(limit_figures(limits))
    metrics.add(cache_figures(cache))
    if streams is not None:
        metrics.add(stream_figures(streams))
    return metrics


def database_figures(database: Database) -> Figures:
    """The pool, or SQLite's writer, and what went slowly or not at all."""

    def figures() -> Iterable[Metric]:
        standing = database.connections()
        pool = GaugeMetricFamily(
            "duly_database_pool_connections", "Connections of the pool; on SQLite the one that writes.",
            labels=["state"],
        )  # fmt: skip
        pool.add_metric(["in_use"], standing.in_use)
        pool.add_metric(["idle"], standing.idle)
        yield pool
        yield _gauge("duly_database_pool_limit", "The most connections that the pool opens.", standing.limit)
        yield _gauge(
            "duly_database_waiting", "Callers that wait for a connection; on SQLite for the writer.", standing.waiting
        )
        yield _counter(
            "duly_slow_statements", "Statements that took longer than SLOW_STATEMENT_SECONDS.", database.slow.count
        )
        yield _counter(
            "duly_database_unavailable", "How often the database did not serve this process.", unavailable.count
        )

    return figures


def password_figures(hasher: PasswordHasher) -> Figures:
    """How busy the threads are that hash."""

    def figures() -> Iterable[Metric]:
        crowd = hasher.crowd
        yield _gauge("duly_password_hashing_running", "Passwords that are being hashed.", crowd.running)
        yield _gauge("duly_password_hashing_waiting", "Passwords that wait for a thread.", crowd.waiting)
        yield _gauge(
            "duly_password_hashing_limit", "The most that run and wait together; one more is refused.", crowd.limit
        )

    return figures


def limit_figures(limits: RequestLimits) -> Figures:
    """Who was turned away, and who counts."""

    def figures() -> Iterable[Metric]:
        refused = CounterMetricFamily(
            "duly_rate_limited", "Requests that were turned away with 429, by policy.", labels=["policy"]
        )
        for policy in limits.policies:
            refused.add_metric([policy], limits.refused[policy])
        yield refused
        yield _gauge(
            "duly_rate_limits_shared", "1: counted in Redis, for all; 0: in this process.", limits.limiter.is_shared
        )

    return figures


def stream_figures(streams: Streams) -> Figures:
    """Live streams, and how far they are behind."""

    def figures() -> Iterable[Metric]:
        yield _gauge("duly_live_streams", "Streams that are open.", len(streams))
        yield _gauge(
            "duly_feed_lag_seconds", "How long the oldest change that a stream was not handed is known here.",
            streams.hub.lag_seconds(),
        )  # fmt: skip
        if streams.hub.signals is not None:
            yield _gauge(
                "duly_signals_connected", "Whether signals pass between the processes.", streams.hub.signals.connected
            )

    return figures


def cache_figures(cache: Cache) -> Figures:
    """Hits and misses of each layer."""

    def figures() -> Iterable[Metric]:
        for name, text, counts in (
            ("duly_cache_hits", "Answers that were remembered.", cache.hits),
            ("duly_cache_misses", "Answers that were not.", cache.misses),
        ):
            family = CounterMetricFamily(name, text, labels=["layer"])
            for layer in LAYERS:
                family.add_metric([layer], counts[layer])
            yield family

    return figures


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
