"""How large requests turned out to be, in constant memory. Pure.

A histogram on a logarithmic scale that forgets: what was learnt counts half after another
`MEMORY / 2` requests. Its two ends leave out a share of `TAIL`, so that one outlier moves neither;
until `ENOUGH` requests were seen, there are no ends.
"""

from __future__ import annotations

from math import floor, log2

FAR = 8.0
"""A figure so many times above (or below) what was seen is not believed."""

ENOUGH = 21
"""Requests from which on the ends are known: more than 1 / `TAIL`."""

TAIL = 0.05
"""Share of the requests that each end leaves out."""

COLD_SECONDS = 10.0
"""Seconds of one worker that a request is believed to need at most, while little was seen. It is
the default of `target_queue_time`: so one request asks for no second worker."""

COLD_LOAD = 1000.0
"""Load units, where perf is not known either."""

MEMORY = 1000.0
"""Weight at which all weights are halved."""

LEAST = 2.0**-20
"""Smaller sizes count as this, load units."""

_STEPS = 2
"""Buckets for each doubling."""

_REFRESH = 8
"""Requests after which the ends are computed again: they move little with each."""


class Sizes:
    """Sizes of requests that were served.

    Attributes:
        count: how many were seen.
        typical: their mean; the latest count most, and none for more than `FAR` times the upper
            end. 0 before the first.
    """

    __slots__ = ("_high", "_low", "_stale", "_tail", "_total", "_weights", "count", "typical")

    def __init__(self, tail: float = TAIL) -> None:
        """Begin with none.

        Args:
            tail: share of the requests that each end leaves out.
        """
        self._tail = tail
        self.count = 0
        self.typical = 0.0
        self._weights: dict[int, float] = {}
        self._total = 0.0
        self._low = self._high = 0.0
        self._stale = 0

    def add(self, load: float) -> None:
        """A request of `load` units was served."""
        load = max(load, LEAST)
        bucket = floor(log2(load) * _STEPS)
        self._weights[bucket] = self._weights.get(bucket, 0.0) + 1.0
        self._total += 1.0
        self.count += 1
        self._stale -= 1
        if self._total >= MEMORY:
            halved = {b: w / 2 for b, w in self._weights.items() if w > 0.02}
            self._weights, self._total = halved, sum(halved.values())
        if self.known:
            load = min(load, FAR * self.high)
        self.typical += (load - self.typical) / min(self.count, 100)

    @property
    def known(self) -> bool:
        """Whether enough were seen to tell what is usual."""
        return self.count >= ENOUGH

    @property
    def low(self) -> float:
        """All but the tail of the requests were at least so large; good once `known`."""
        self._refresh()
        return self._low

    @property
    def high(self) -> float:
        """All but the tail of the requests were at most so large; good once `known`."""
        self._refresh()
        return self._high

    def most(self, perf: float) -> float:
        """The load that a request is believed to need at most, whatever is said of it.

        Args:
            perf: of a worker, load units per second; 0: not known.
        """
        if self.known:
            return FAR * self.high
        return COLD_SECONDS * perf if perf > 0 else COLD_LOAD

    def _refresh(self) -> None:
        if self._stale > 0:
            return
        self._stale = _REFRESH
        buckets = sorted(self._weights)
        self._low = 2.0 ** (self._end(buckets) / _STEPS)
        self._high = 2.0 ** ((self._end(buckets[::-1]) + 1) / _STEPS)

    def _end(self, buckets: list[int]) -> int:
        """The bucket up to which more than the tail of the weight lies, in the order given."""
        left = self._tail * self._total
        for bucket in buckets:
            left -= self._weights[bucket]
            if left < 0:
                return bucket
        return buckets[-1] if buckets else 0
