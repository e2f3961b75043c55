"""What /metrics said at one moment, and what happened between two moments."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Every sample by name and labels, and when it was read (Unix time)."""

    at: float
    samples: Mapping[str, Mapping[Labels, float]]

    @classmethod
    def parse(cls, text: str) -> "Reading":
        """Raises ValueError for what is not Prometheus's text format."""
        samples: dict[str, dict[Labels, float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
        return cls(time.time(), dict(samples))

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series that have these labels; 0 without any."""
        wanted = labels.items()
        return sum(value for found, value in self.samples.get(name, {}).items() if wanted <= dict(found).items())

    def has(self, name: str) -> bool:
        """Whether there is such a figure."""
        return bool(self.samples.get(name))

    def label(self, name: str, label: str) -> str:
        """The label of the first series, or nothing."""
        return next((dict(found).get(label, "") for found in self.samples.get(name, {})), "")

    @property
    def workers(self) -> int:
        """How many answered."""
        return int(self.total("duly_worker_up")) or 1

    @property
    def started(self) -> float:
        """When the oldest process began, in Unix time."""
        return min(self.samples.get("process_start_time_seconds", {(): self.at}).values())


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation in a span of time; the quantiles are seconds, None when nothing was timed."""

    method: str
    route: str
    count: float
    errors: float
    quantiles: tuple[float | None, float | None, float | None]


@dataclass(frozen=True, slots=True)
class Span:
    """From one reading to the next, or, without one before, from the start of the server."""

    before: Reading | None
    now: Reading

    @property
    def seconds(self) -> float:
        """Never 0."""
        return max(0.001, self.now.at - (self.before.at if self.before else self.now.started))

    def _rises(self, name: str) -> Iterator[tuple[Labels, float]]:
        """How much each counter rose; one that fell began anew."""
        old = self.before.samples.get(name, {}) if self.before else {}
        for labels, value in self.now.samples.get(name, {}).items():
            earlier = old.get(labels, 0.0)
            yield labels, value - earlier if value >= earlier else value

    def rise(self, name: str, **labels: str) -> float:
        """How much the counters with these labels rose together."""
        wanted = labels.items()
        return sum(rise for found, rise in self._rises(name) if wanted <= dict(found).items())

    def rate(self, name: str, **labels: str) -> float:
        """The same for each second."""
        return self.rise(name, **labels) / self.seconds

    def errors(self) -> float:
        """Answers with a status from 500 on."""
        rises = self._rises("duly_http_requests_total")
        return sum(rise for labels, rise in rises if dict(labels)["status"] >= "500")

    def operations(self) -> list[Operation]:
        """Those that were asked, the busiest first."""
        counts: dict[tuple[str, str], float] = defaultdict(float)
        errors: dict[tuple[str, str], float] = defaultdict(float)
        for labels, rise in self._rises("duly_http_requests_total"):
            found = dict(labels)
            key = found["method"], found["route"]
            counts[key] += rise
            errors[key] += rise if found["status"] >= "500" else 0
        buckets: dict[tuple[str, str], dict[float, float]] = defaultdict(lambda: defaultdict(float))
        for labels, rise in self._rises("duly_http_request_seconds_bucket"):
            found = dict(labels)
            buckets[found["method"], found["route"]][float(found["le"])] += rise
        rows = [
            Operation(
                *key, count, errors[key],
                (quantile(buckets[key], 0.5), quantile(buckets[key], 0.95), quantile(buckets[key], 0.99)),
            )
            for key, count in counts.items()
            if count
        ]  # fmt: skip
        return sorted(rows, key=lambda row: (-row.count, row.route, row.method))


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """As Prometheus estimates it, straight within a bucket; None of nothing. Beyond the last bound, that bound."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = share * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == float("inf"):
                return lower
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        lower, below = bound, buckets[bound]
    return lower
