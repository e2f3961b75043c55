"""What was asked of this process and how it was answered, counted by operation in plain integers."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

Scope = MutableMapping[str, Any]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "other"
UNMATCHED = "unmatched"
_LINES = [str(floatToGoString(bound)) for bound in (*BOUNDS, float("inf"))]  # type: ignore[no-untyped-call]  # the client has no types here
# What a stream says when it began: 200 over HTTP, 101 as a WebSocket.
_BEGAN = frozenset({101, 200})


class Meter:
    """What is counted of one operation. Only the loop counts, and only the loop reads: there is nothing to lock."""

    __slots__ = ("buckets", "is_stream", "method", "route", "seconds", "statuses")

    def __init__(self, method: str, route: str, *, is_stream: bool = False) -> None:
        self.method = method
        self.route = route
        self.is_stream = is_stream
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * len(_LINES)
        self.seconds = 0.0

    def lines(self) -> list[tuple[str, float]]:
        """The histogram's bounds, each with how many answers took at most so long."""
        total = 0
        found: list[tuple[str, float]] = []
        for line, count in zip(_LINES, self.buckets, strict=True):
            total += count
            found.append((line, total))
        return found


class Traffic:
    """One application's requests. What labels them is the template of an operation, never what a client sent.

    A path that no operation has, or a method that its operations do not take, is `unmatched`; a method that HTTP does
    not name is `other`. So there are as many series as operations and statuses, whatever is sent. The tables are asked
    here once more, because the lane, the limits and the door answer before anything is routed: first those that find
    nearly all requests with one look.
    """

    __slots__ = ("_by_parent", "_fixed", "_inside", "_meters", "_shapes", "_unmatched")

    def __init__(self) -> None:
        self._fixed: dict[tuple[str, str], Meter] = {}
        self._by_parent: dict[tuple[str, str], Meter] = {}
        self._shapes: dict[tuple[str, int], list[tuple[tuple[str | None, ...], Meter]]] = {}
        self._meters: dict[tuple[str, str], Meter] = {}
        self._unmatched = {method: Meter(method, UNMATCHED) for method in (*METHODS, OTHER)}
        self._inside: Callable[[], Iterable[Scope]] = lambda: ()

    def watch(self, inside: Callable[[], Iterable[Scope]]) -> None:
        """Where the requests are that are inside right now."""
        self._inside = inside

    def learn(self, template: str, methods: Iterable[str], *, is_stream: bool = False) -> None:
        """An operation. Of two that take the same path, the one that was learnt first counts, as it does in routing."""
        shape = tuple(None if part.startswith("{") else part for part in template.split("/"))
        taken = [*methods]
        if "GET" in taken and "HEAD" not in taken:
            taken.append("HEAD")  # RFC 9110 §9.3.2
        for method in taken:
            if (method, template) in self._meters:
                continue
            meter = self._meters[method, template] = Meter(method, template, is_stream=is_stream)
            if None not in shape:
                self._fixed.setdefault((method, template), meter)
            elif None not in shape[:-1]:
                self._by_parent.setdefault((method, template.rpartition("/")[0]), meter)
            self._shapes.setdefault((method, len(shape)), []).append((shape, meter))

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """One request that is over. A stream that was opened is counted, and how long it stayed is left out."""
        method, path = scope.get("method", "GET"), scope["path"]
        meter = self._fixed.get((method, path))
        if meter is None:
            meter = self._by_parent.get((method, path.rpartition("/")[0])) or self._find(scope, method, path)
        statuses = meter.statuses
        statuses[status] = statuses.get(status, 0) + 1
        if meter.is_stream and status in _BEGAN:
            return
        meter.buckets[bisect_left(BOUNDS, seconds)] += 1
        meter.seconds += seconds

    def _find(self, scope: Scope, method: str, path: str) -> Meter:
        root = scope.get("root_path", "")
        if root and path.startswith(root):
            path = path[len(root) :]
        parts = path.split("/")
        for shape, meter in self._shapes.get((method, len(parts)), ()):
            if all(got if want is None else want == got for want, got in zip(shape, parts, strict=True)):
                return meter
        return self._unmatched.get(method) or self._unmatched[OTHER]

    def route_of(self, scope: Scope) -> str | None:
        """The template of the operation that this request names; None when no operation has its path and method."""
        method, path = scope.get("method", "GET"), scope["path"]
        meter = self._fixed.get((method, path)) or self._by_parent.get((method, path.rpartition("/")[0]))
        route = (meter or self._find(scope, method, path)).route
        return None if route == UNMATCHED else route

    def _is_stream(self, scope: Scope) -> bool:
        meter = self._fixed.get((scope["method"], scope["path"]))
        return meter is not None and meter.is_stream

    def _used(self) -> Iterator[Meter]:
        for meter in (*self._meters.values(), *self._unmatched.values()):
            if meter.statuses:
                yield meter

    def figures(self) -> Iterable[Metric]:
        """What /metrics shows: an operation appears with its first request."""
        requests = CounterMetricFamily(
            "duly_http_requests", "Requests that were answered, streams when they end.",
            labels=["method", "route", "status"],
        )  # fmt: skip
        seconds = HistogramMetricFamily(
            "duly_http_request_seconds", "Time from the request to the end of its answer; streams are left out.",
            labels=["method", "route"],
        )  # fmt: skip
        for meter in self._used():
            for status, count in sorted(meter.statuses.items()):
                requests.add_metric([meter.method, meter.route, str(status)], count)
            if any(meter.buckets):
                seconds.add_metric([meter.method, meter.route], meter.lines(), meter.seconds)
        inside = sum(not self._is_stream(scope) for scope in self._inside())
        flight = GaugeMetricFamily(
            "duly_http_requests_in_flight", "Requests that are being answered, streams apart.", value=inside
        )
        return requests, seconds, flight
