"""What a scheduler tells of itself."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

KEPT = 1024  # answers whose times are kept
FRESH = 0.1  # weight of the last one in a running mean


@dataclass
class Counts:
    """Requests since the start, and how the batches went.

    Attributes:
        submitted: requests taken into the queue.
        refused: requests told that it is full.
        done: requests with a result.
        failed: requests with an error of their own.
        cancelled: requests taken back before their end.
        late: requests that met their deadline first.
        iterations: of batches.
        images: of all those iterations, so that images / iterations is how full batches were.
        joined: loops that joined a batch which was running already.
    """

    submitted: int = 0
    refused: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    late: int = 0
    iterations: int = 0
    images: int = 0
    joined: int = 0
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))  # seconds in the queue
    pace: float = 0.0  # a running mean of the seconds below; 0: of none
    services: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))  # seconds from there to the answer

    def answered(self, queued: float, started: float, now: float) -> None:
        """Counts a result and its times."""
        self.done += 1
        self.waits.append(started - queued)
        self.services.append(now - started)
        self.pace += (now - started - self.pace) * (FRESH if self.done > 1 else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Numbers by their names; seconds are medians and 99th percentiles of the last results."""
        counts = {k: v for k, v in vars(self).items() if isinstance(v, int)}
        totals = [a + b for a, b in zip(self.waits, self.services, strict=True)]
        times = {"wait": [*self.waits], "service": [*self.services], "total": totals}
        seconds = {f"{name}_{q}": quantile(several, q) for name, several in times.items() for q in ("p50", "p99")}
        return counts | {"mean_batch": self.images / max(1, self.iterations)} | seconds


def quantile(values: list[float], name: str) -> float:
    """The value that this share of them, "p99" say, does not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(float(name[1:]) / 100 * len(ordered)))]
