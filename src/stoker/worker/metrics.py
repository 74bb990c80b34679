"""What a worker shows to Prometheus.

On the hot path a request costs a few additions of plain numbers; the text is made when it is asked
for. Labels are routes, statuses and reasons that this program knows: none comes from outside.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histograms, seconds."""

Reading = tuple[str, str, float]
"""Name without prefix, help text, and value of a gauge."""


class Histogram:
    """Counts of durations by bucket.

    Attributes:
        counts: in each bucket, and above the last.
        nothing: durations of 0, which are counted without a call.
        total: sum of the durations, seconds.
    """

    __slots__ = ("counts", "nothing", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.nothing = 0
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Buckets as Prometheus wants them: each holds those below it."""
        result, running = [], self.nothing
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            running += count
            result.append((bound, float(running)))
        return result


class RouteMetrics:
    """Figures of one route.

    Attributes:
        statuses: requests by the HTTP status of their answer (499: the client left).
        queue: seconds between arrival and start.
        work: seconds between start and end.
        load: load units of the requests that were let in.
        served: load units of those answered well.
    """

    __slots__ = ("load", "queue", "served", "statuses", "work")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.queue = Histogram()
        self.work = Histogram()
        self.load = 0.0
        self.served = 0.0

    def answered(self, status: int) -> None:
        """Count a request."""
        self.statuses[status] = self.statuses.get(status, 0) + 1


class WorkerMetrics:
    """All figures of a worker.

    Attributes:
        routes: by path of the handler.
        refusals: requests turned away, by reason.
        gauges: reads the figures of the moment.
        state: reads the state's name.
    """

    def __init__(self, gauges: Callable[[], Iterable[Reading]], state: Callable[[], str]) -> None:
        """Prepare.

        Args:
            gauges: reads the figures of the moment.
            state: reads the state's name.
        """
        self.routes: dict[str, RouteMetrics] = {}
        self.refusals: dict[str, int] = {}
        self.gauges = gauges
        self.state = state

    def route(self, path: str) -> RouteMetrics:
        """Figures of the route `path`, which is one of the configuration."""
        return self.routes.setdefault(path, RouteMetrics())

    def refused(self, reason: str) -> None:
        """Count a refusal; `reason` is one of ours."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        from stoker.worker.exposition import render  # nobody may ever ask, and it is slow to load

        return render(self)
