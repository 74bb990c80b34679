"""What a load test measured: percentiles, failures by reason, requests over time. Pure.

Rules:

* A percentile is a value that was seen (nearest rank), never one between two values. It is exact up
  to `LIMIT` values; beyond, the values kept are a uniform sample of all (algorithm R), and
  `Spread.sampled` says so. Mean, count and maximum are exact always.
* Only requests that succeeded have times; the others are counted by reason.
* All that is kept is bounded, however long the test.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence

import msgspec

from stoker.loadtest.answer import Outcome

LIMIT = 1_000_000
"""Values of a distribution that are kept: 8 MB."""

MAX_REASONS = 64
"""Different reasons of failure that are told apart; further ones count as `OTHER`."""

OTHER = "another reason"


class Spread(msgspec.Struct, frozen=True):
    """How values are spread; in seconds here."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    sampled: bool = False
    """There were more than `LIMIT`: the percentiles are of a sample."""


class Distribution:
    """Collects values and tells their percentiles."""

    def __init__(self, limit: int = LIMIT, rng: random.Random | None = None) -> None:
        """Begin empty.

        Args:
            limit: values kept.
            rng: chooses the sample beyond it.
        """
        self.values = array("d")
        """Those that are kept, in no order."""
        self.count = 0
        self._limit = limit
        self._rng = rng or random.Random(0)
        self._total = 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, value: float) -> None:
        """Take one value."""
        self.count += 1
        self._total += value
        self._min, self._max = min(self._min, value), max(self._max, value)
        if len(self.values) < self._limit:
            self.values.append(value)
        else:
            place = self._rng.randrange(self.count)
            if place < self._limit:
                self.values[place] = value

    def spread(self) -> Spread | None:
        """The figures; None when there is no value."""
        if not self.count:
            return None
        ordered = sorted(self.values)
        p50, p90, p95, p99 = (percentile(ordered, p) for p in (50, 90, 95, 99))
        sampled = self.count > len(ordered)
        mean = min(max(self._total / self.count, self._min), self._max)  # whatever the rounding
        return Spread(self.count, mean, self._min, p50, p90, p95, p99, self._max, sampled)

    def median_so_far(self) -> float | None:
        """The median, of at most 5,000 values spread over all: cheap enough to be shown."""
        values = self.values[:: len(self.values) // 5000 + 1]
        return percentile(sorted(values), 50) if values else None


def percentile(ordered: Sequence[float], p: int) -> float:
    """The nearest-rank percentile: the smallest value with at least `p` % of all at or below it.

    Args:
        ordered: at least one value, ascending.
        p: from 1 to 100.
    """
    return ordered[-(-p * len(ordered) // 100) - 1]  # in whole numbers: nothing is rounded


class Bin(msgspec.Struct, frozen=True):
    """One bar of a histogram: values from `low` on and below `high` (the last: up to it)."""

    low: float
    high: float
    count: int


def histogram(values: Sequence[float], most: int = 12) -> list[Bin]:
    """Count values in at most `most` bins between the least and the greatest.

    The bins are equally wide, or grow by a factor where the greatest value is more than ten times
    the least: latencies often have a long tail. None is narrower than a hundredth of the greatest
    value: nobody reads "517 ms to 517 ms".
    """
    if not values:
        return []
    low, high = min(values), max(values)
    bins = max(1, min(most, int((high - low) / (high or 1.0) * 100)))
    if low > 0 and high / low > 10:
        factor = (high / low) ** (1 / bins)
        edges = [low * factor**n for n in range(bins)]
    else:
        edges = [low + (high - low) * n / bins for n in range(bins)]
    edges.append(high)
    counts = [0] * bins
    for value in values:
        first, last = 0, bins - 1
        while first < last:
            middle = (first + last + 1) // 2
            if value >= edges[middle]:
                first = middle
            else:
                last = middle - 1
        counts[first] += 1
    return [Bin(edges[n], edges[n + 1], counts[n]) for n in range(bins)]


class Timeline:
    """Answers over time, in steps that grow so that there are never more than `limit`."""

    def __init__(self, step: float = 0.1, limit: int = 60) -> None:
        """Begin empty.

        Args:
            step: seconds, at first.
            limit: steps.
        """
        self.step = step
        self.ok: list[int] = []
        self.failed: list[int] = []
        self._limit = limit

    def add(self, at: float, *, ok: bool) -> None:
        """An answer came `at` seconds after the start."""
        while at >= self.step * self._limit:
            self.step *= 2
            self.ok, self.failed = _pairs(self.ok), _pairs(self.failed)
        number = max(0, int(at / self.step))
        missing = number + 1 - len(self.ok)
        self.ok += [0] * missing
        self.failed += [0] * missing
        (self.ok if ok else self.failed)[number] += 1


def _pairs(counts: list[int]) -> list[int]:
    return [sum(counts[n : n + 2]) for n in range(0, len(counts), 2)]


class Failure(msgspec.Struct):
    """A reason for which requests failed."""

    count: int = 0
    example: str = ""
    """What the other side said, the first time."""
    retry_after: float | None = None
    """The longest Retry-After that came with it, seconds."""


class Results(msgspec.Struct, kw_only=True):
    """All that a load test tells; times are in seconds."""

    target: str
    route: str
    seconds: float
    """From the first request to the last answer."""
    requests: int
    """Answered or failed; those that were cut off by an early end are not among them."""
    ok: int
    failed: int
    failures: dict[str, Failure]
    interrupted: bool = False
    cut_off: int = 0
    """Under way when the test was ended early; they count nowhere else."""
    unsent: int = 0
    """Due (with a rate) before the end, and never sent: there were too many under way."""
    requests_per_second: float
    """Successful ones."""
    bytes_received: int
    """Of bodies."""
    chunks: int
    """Events or lines of streamed answers."""
    tokens: int
    """Generated; see `tokens_estimated`."""
    tokens_estimated: bool
    """Some answers did not say how many: their chunks with text count instead."""
    tokens_per_second: float
    first_byte: Spread | None
    first_token: Spread | None
    between_tokens: Spread | None
    total: Spread | None
    histogram: list[Bin]
    """Of the total times."""
    timeline_step: float
    timeline_ok: list[int]
    timeline_failed: list[int]


class Statistics:
    """Gathers outcomes."""

    def __init__(self, *, limit: int = LIMIT, rng: random.Random | None = None) -> None:
        """Begin empty; the arguments are those of each `Distribution`."""
        self.ok = 0
        self.failed = 0
        self.failures: dict[str, Failure] = {}
        self.first_byte = Distribution(limit, rng)
        self.first_token = Distribution(limit, rng)
        self.between_tokens = Distribution(limit, rng)
        self.total = Distribution(limit, rng)
        self.timeline = Timeline()
        self._chunks = self._tokens = self._bytes = 0
        self._estimated = False
        self._first_start, self._last_end = math.inf, 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one request."""
        self._first_start = min(self._first_start, outcome.start)
        self._last_end = max(self._last_end, outcome.end)
        self._bytes += outcome.bytes_received
        self._chunks += outcome.chunks
        self._tokens += outcome.tokens
        self._estimated |= outcome.tokens > 0 and not outcome.tokens_told
        self.timeline.add(outcome.end, ok=not outcome.reason)
        if outcome.reason:
            self.failed += 1
            self._add_failure(outcome)
            return
        self.ok += 1
        start = outcome.start
        self.total.add(outcome.end - start)
        if outcome.first_byte is not None:
            self.first_byte.add(outcome.first_byte - start)
        if outcome.first_token is not None:
            self.first_token.add(outcome.first_token - start)
        for gap in outcome.gaps:
            self.between_tokens.add(gap)

    def _add_failure(self, outcome: Outcome) -> None:
        reason = outcome.reason
        if reason not in self.failures and len(self.failures) >= MAX_REASONS:
            reason = OTHER
        failure = self.failures.setdefault(reason, Failure(example=outcome.detail))
        failure.count += 1
        if outcome.retry_after is not None:
            failure.retry_after = max(failure.retry_after or 0.0, outcome.retry_after)

    def results(self, target: str, route: str) -> Results:
        """All figures so far."""
        seconds = max(0.0, self._last_end - self._first_start) if self.ok + self.failed else 0.0
        rate = 1 / seconds if seconds else 0.0
        return Results(
            target=target,
            route=route,
            seconds=seconds,
            requests=self.ok + self.failed,
            ok=self.ok,
            failed=self.failed,
            failures=dict(sorted(self.failures.items(), key=lambda item: -item[1].count)),
            requests_per_second=self.ok * rate,
            bytes_received=self._bytes,
            chunks=self._chunks,
            tokens=self._tokens,
            tokens_estimated=self._estimated,
            tokens_per_second=self._tokens * rate,
            first_byte=self.first_byte.spread(),
            first_token=self.first_token.spread(),
            between_tokens=self.between_tokens.spread(),
            total=self.total.spread(),
            histogram=histogram(self.total.values),
            timeline_step=self.timeline.step,
            timeline_ok=self.timeline.ok,
            timeline_failed=self.timeline.failed,
        )
