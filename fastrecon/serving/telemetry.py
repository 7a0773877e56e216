"""What a server tells of itself: a line of JSON for each request, and numbers for Prometheus."""

import json
import sys
import time
from collections import Counter as Counted
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fastrecon.serving.scheduler import Scheduler

GAUGES = ("queued", "running", "pixels", "batches", "mean_batch")


class Telemetry:
    """Logs and metrics of one server.

    Args:
        scheduler: whose numbers are told too.
    """

    def __init__(self, scheduler: Scheduler):
        self.registry, self.scheduler = CollectorRegistry(), scheduler
        self.requests = Counter("fastrecon_requests", "answers by status", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "fastrecon_request_seconds", "from the first byte to the answer", ["path"], registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )  # fmt: skip
        self.received = Counter("fastrecon_received_bytes", "of bodies", registry=self.registry)
        self.registry.register(self)  # type: ignore[arg-type]
        self._refused, self._flushed = Counted[int](), 0.0

    def collect(self) -> Iterator[Metric]:
        """Of the scheduler, for Prometheus."""
        for name, value in self.scheduler.stats().items():
            kind = GaugeMetricFamily if name in GAUGES or "_p" in name else CounterMetricFamily
            yield kind(f"fastrecon_scheduler_{name}", f"see Scheduler.stats: {name}", value=value)

    def page(self) -> bytes:
        """All metrics as text."""
        self.flush()
        return generate_latest(self.registry)

    def refused(self, status: int) -> None:
        """Counts an answer to somebody who was not let in: a line for all of a second, as there may be thousands."""
        self._refused[status] += 1
        if time.monotonic() - self._flushed >= 1:
            self.flush()

    def flush(self) -> None:
        """Tells of those who were refused."""
        for status, count in self._refused.items():
            path = "/v1/reconstruct" if status == 429 else "other"
            self.requests.labels(path, str(status)).inc(count)
            self.log("refused", path=path, status=status, count=count)
        self._refused.clear()
        self._flushed = time.monotonic()

    def answered(self, path: str, status: int, seconds: float, received: int, facts: dict[str, Any]) -> None:
        """Counts an answer and logs it."""
        if self._refused and time.monotonic() - self._flushed >= 1:
            self.flush()
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)
        self.received.inc(received)
        self.log("request", path=path, status=status, seconds=round(seconds, 6), bytes=received, **facts)

    def log(self, event: str, **facts: Any) -> None:
        """A line of JSON on stderr."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event} | facts
        print(json.dumps(line, default=str), file=sys.stderr, flush=True)
