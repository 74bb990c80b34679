"""A worker's server: processor sharing with a limited number of slots.

All requests in service get the same rate, min(perf / n, share), so it is enough to follow one
figure, the **virtual time** V: the load that a request would have got which was in service from the
start. One of load L that begins at V ends when V has grown by L, whoever comes and goes between, so
the requests in service are a heap by the V of their end, and each event costs O(log n). (The idea
is that of generalised processor sharing: Parekh and Gallager, IEEE/ACM ToN 1(3), 1993.)

What finds no slot waits, first come first served.
"""

from __future__ import annotations

import heapq
import math
from collections import deque


class Job:
    """One request of the trace on its way through the simulation."""

    __slots__ = ("arrived", "begun", "claim", "index", "key", "load", "number", "over")

    def __init__(
        self, index: int, arrived: float, load: float, *, key: str = "", claim: float | None = None
    ) -> None:
        self.index = index
        """Its place in the trace."""
        self.arrived = arrived
        self.load = load
        self.key = key
        """Whose it is."""
        self.claim = claim
        """The load that its client claims; None: it says nothing."""
        self.number = 0
        """The router's `request_idx`; 0: has none."""
        self.begun: float | None = None
        """When its service began; the last time if it was lost and repeated."""
        self.over = False
        """Finished or given up."""


class Sharing:
    """The requests at one worker."""

    __slots__ = (
        "_at",
        "_ends",
        "_order",
        "_queued_load",
        "_rate",
        "_sum_of_ends",
        "_virtual",
        "jobs",
        "perf",
        "queue",
        "served",
        "share",
        "slots",
    )

    def __init__(self, perf: float, slots: int, share: float) -> None:
        """Make one without requests.

        Args:
            perf: load units per second of all requests together.
            slots: requests in service at once.
            share: load units per second of one request at most.
        """
        self.perf, self.slots, self.share = perf, slots, share
        self.jobs: dict[int, Job] = {}
        """All that it has, by the router's number, in the order in which they came."""
        self.queue: deque[Job] = deque()
        self.served = 0.0
        """Load done in all."""
        self._at = 0.0
        self._virtual = 0.0
        self._rate = 0.0
        self._ends: list[tuple[float, int, Job]] = []
        self._sum_of_ends = 0.0
        self._queued_load = 0.0
        self._order = 0

    @property
    def in_service(self) -> int:
        """Requests that are being worked on."""
        return len(self._ends)

    def advance(self, now: float) -> None:
        """Work until `now`."""
        passed = now - self._at
        if passed > 0:
            if self._ends:
                done = self._rate * passed
                self._virtual += done
                self.served += done * len(self._ends)
            self._at = now

    def left(self, now: float) -> float:
        """Load that is not done yet, of all requests."""
        self.advance(now)
        waiting = self._queued_load if self.queue else 0.0
        return max(0.0, self._sum_of_ends - len(self._ends) * self._virtual) + waiting

    def add(self, job: Job, now: float) -> bool:
        """Take a request; whether its service begins at once."""
        self.advance(now)
        self.jobs[job.number] = job
        if len(self._ends) >= self.slots:
            self.queue.append(job)
            self._queued_load += job.load
            return False
        self._begin(job, now)
        self._set_rate()
        return True

    def next_end(self) -> float:
        """When the next request ends, if none comes before; infinite without any."""
        if not self._ends:
            return math.inf
        return self._at + max(0.0, self._ends[0][0] - self._virtual) / self._rate

    def finish(self, now: float) -> tuple[list[Job], list[Job]]:
        """Take out what has ended by `now`, and begin what waited for its slot.

        Returns:
            those that ended, and those whose service begins.
        """
        self.advance(now)
        ended: list[Job] = []
        # The end was computed from V, and V from the end: they differ by rounding.
        until = self._virtual + 1e-9 * max(1.0, abs(self._virtual))
        while self._ends and self._ends[0][0] <= until:
            end, _, job = heapq.heappop(self._ends)
            self._sum_of_ends -= end
            del self.jobs[job.number]
            ended.append(job)
        begun: list[Job] = []
        while self.queue and len(self._ends) < self.slots:
            job = self.queue.popleft()
            self._queued_load -= job.load
            self._begin(job, now)
            begun.append(job)
        self._set_rate()
        return ended, begun

    def clear(self, now: float) -> list[Job]:
        """Lose all requests, and return them."""
        self.advance(now)
        lost = list(self.jobs.values())
        self.jobs.clear()
        self.queue.clear()
        self._ends.clear()
        self._queued_load = 0.0
        self._set_rate()
        return lost

    def _begin(self, job: Job, now: float) -> None:
        job.begun = now
        self._order += 1
        end = self._virtual + job.load
        heapq.heappush(self._ends, (end, self._order, job))
        self._sum_of_ends += end

    def _set_rate(self) -> None:
        count = len(self._ends)
        if count:
            self._rate = min(self.perf / count, self.share)
        else:
            # An empty server forgets its V, so that rounding errors do not add up over days.
            self._rate = self._virtual = self._sum_of_ends = 0.0
