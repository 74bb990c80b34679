"""What a simulation found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

BUCKETS = 1000
"""Points of a timeline, about; a bucket is never shorter than a second."""


class Timeline(msgspec.Struct, frozen=True):
    """The run in equal steps of time; capacities and loads in load units per second."""

    step: float
    """Seconds."""
    load: list[float]
    """That arrived."""
    active: list[float]
    """Capacity that takes requests, at the start of the step."""
    coming: list[float]
    """Capacity that boots or starts."""
    stopped: list[float]
    held: list[int]
    """Requests that were held by the router."""
    mean_wait: list[float]
    """Of the requests that arrived in the step; seconds."""
    max_wait: list[float]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one run. What came before the end of the warm-up is not in them.

    Worker-seconds are seconds of one worker, a second of a machine of another kind counting as its
    price is to that of the main one.
    """

    trace: str
    policy: str
    label: str = ""
    requests: int
    """Scored."""
    lost: int
    """Of them, given up by their client; their wait is how long it had patience."""
    cost: float
    """Priced worker-seconds: active and loading ones in full, stopped ones at `inactive_price`."""
    active_seconds: float
    loading_seconds: float
    inactive_seconds: float
    fluid_seconds: float
    """Scored load / perf: what a fleet would cost that is exactly as large as it must be."""
    ratio: float
    """cost / fluid_seconds."""
    price: float
    """The cost in money, where machines have a price per hour."""
    wait_mean: float
    """From the arrival of a request until its service begins; seconds."""
    wait_p50: float
    wait_p95: float
    wait_p99: float
    wait_max: float
    limit: float
    over_limit: float
    """Share of requests that waited for longer than `limit`."""
    creations: int
    starts: int
    """Of stopped workers."""
    stops: int
    destroyed: int
    failures: int
    boot_failures: int
    preemptions: int
    cut: int
    """Requests lost because a worker was stopped with them in flight; a fault of the policy."""
    retries: int
    """Requests sent again because their worker was lost."""
    peak_workers: int
    """That ran at once."""
    duration: float
    """Seconds that were scored."""
    cpu_seconds: float
    timeline: Timeline | None = None


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: a value that was seen; 0.0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class TimelineRecorder:
    """Fills a `Timeline` as the run goes on."""

    step: float
    load: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    coming: list[float] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    wait_sum: list[float] = field(default_factory=list)
    wait_count: list[int] = field(default_factory=list)
    wait_max: list[float] = field(default_factory=list)

    @classmethod
    def over(cls, duration: float) -> TimelineRecorder:
        """Make one for a run of so many seconds."""
        return cls(max(1.0, duration / BUCKETS))

    def is_due(self, now: float) -> bool:
        """Whether `sample` has anything to note at `now`."""
        return len(self.active) <= int(now / self.step)

    def sample(self, now: float, active: float, coming: float, stopped: float, held: int) -> None:
        """Note the fleet at `now`; steps that were missed get the same."""
        while self.is_due(now):
            self.active.append(active)
            self.coming.append(coming)
            self.stopped.append(stopped)
            self.held.append(held)

    def arrived(self, at: float, load: float) -> None:
        """A request came."""
        place = int(at / self.step)
        while len(self.load) <= place:
            self.load.append(0.0)
            self.wait_sum.append(0.0)
            self.wait_count.append(0)
            self.wait_max.append(0.0)
        self.load[place] += load

    def waited(self, arrived: float, wait: float) -> None:
        """A request that came at `arrived` waited for `wait` seconds."""
        place = int(arrived / self.step)
        self.wait_sum[place] += wait
        self.wait_count[place] += 1
        self.wait_max[place] = max(self.wait_max[place], wait)

    def timeline(self) -> Timeline:
        """What was recorded, all of the same length."""
        length = max(len(self.active), len(self.load))

        def padded(values: list[float]) -> list[float]:
            return values + [0.0] * (length - len(values))

        waits = [
            total / count if count else 0.0
            for total, count in zip(self.wait_sum, self.wait_count, strict=True)
        ]
        return Timeline(
            self.step,
            padded([load / self.step for load in self.load]),
            padded(self.active),
            padded(self.coming),
            padded(self.stopped),
            self.held + [0] * (length - len(self.held)),
            padded(waits),
            padded(self.wait_max),
        )
