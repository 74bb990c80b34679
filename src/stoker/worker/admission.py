"""Who may go to the model server now, who waits, and who is turned away.

Rules (everything that decides about the queue lives in this file):

* A *lane* lets `limit` requests work at a time and keeps the others in order of arrival. Handlers
  that take one request at a time share one lane: there is one model server behind all of them.
* The expected wait is the time until a request would begin. In a lane without a limit, that is the
  load queued and working, in all lanes, over perf (load per second): the model server has a queue
  of its own. In a lane with a limit a free place is taken at once. When it is full, of its n
  requests (n - limit + 1) must end before: so much of that time is waited for.
* A request is refused where the expected wait is above its handler's `max_queue_time`, whatever its
  own size. E.g. one at a time, perf 100/s, 1,000 load units working and 1,500 queued: 25 s, within
  30, so the next one waits. With a limit of 16, and 16 of 250 each at work: 1/16 of 40 s.
* Without a known perf (0) there is no expected wait, and only the length of the queue is bounded.
* Refused requests are told when to come back: after the wait is below the limit again.
* What is known to be served of a request (tokens that have passed) is no load any more, so that the
  expected wait shrinks while it runs.
* The model server is *saturated* while all places of every lane that is used are taken, without a
  moment in between; in a lane without a limit, while at least `full_at` requests are at work.

Pure: no clock and no I/O. The caller starts what `enter` admits and what `leave` returns.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum
from typing import Any, Generic, TypeVar

MAX_QUEUED = 10_000
"""Requests in the queue of a lane, whatever their expected wait."""


class Verdict(Enum):
    """What `Admission.enter` decided."""

    START = "start"
    WAIT = "wait"
    REFUSE = "refuse"


class Place:
    """A request's place in a lane; derive what waits from it.

    Attributes:
        lane: where it is.
        load: its load units that are not served yet, as far as known.
        working: it is at the model server.
        gone: it has left.
    """

    __slots__ = ("gone", "lane", "load", "working")

    def __init__(self, lane: Lane[Any], load: float) -> None:
        self.lane = lane
        self.load = load
        self.working = False
        self.gone = False


P = TypeVar("P", bound=Place)


class Lane(Generic[P]):
    """Places at work and a queue.

    Attributes:
        limit: requests at work at a time; None: no limit.
        working: requests at work.
        queue: those that wait, in order of arrival.
    """

    __slots__ = ("limit", "queue", "working")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.working = 0
        self.queue: OrderedDict[P, None] = OrderedDict()


class Admission(Generic[P]):
    """The lanes of one worker, and the load in them.

    Attributes:
        perf: capacity of the model server, load units per second; 0: not known.
        load: queued and working, load units.
        full_at: requests at work that saturate the model server, in a lane without a limit.
        max_queued: bound on the queue of a lane.
        retry_after: seconds to come back after, for the request that was refused last.
    """

    __slots__ = ("_present", "_slack", "full_at", "load", "max_queued", "perf", "retry_after")

    def __init__(
        self, perf: float = 0.0, *, max_queued: int = MAX_QUEUED, full_at: int = 10
    ) -> None:
        self.perf = perf
        self.load = 0.0
        self.full_at = full_at
        self._slack = True
        self.max_queued = max_queued
        self.retry_after = 0.0
        self._present = 0

    def expected_wait(self, lane: Lane[P] | None = None) -> float:
        """Seconds until a request that comes now would begin.

        Args:
            lane: where; None: when all that is here is served.
        """
        wait = self.load / self.perf if self.perf > 0.0 else 0.0
        if lane is None or lane.limit is None:
            return wait
        present = lane.working + len(lane.queue)
        return wait * max(0, present - lane.limit + 1) / max(1, present)

    def enter(self, place: P, max_queue_time: float | None) -> Verdict:
        """Let a request in, if it may.

        Args:
            place: a new one.
            max_queue_time: seconds of expected wait above which it is refused; None: no limit.
        """
        lane: Lane[P] = place.lane
        free = lane.limit is None or lane.working < lane.limit
        if not free or lane.limit is None:
            wait = self.expected_wait(lane)
            if max_queue_time is not None and wait > max_queue_time:
                self.retry_after = max(1.0, wait - max_queue_time)
                return Verdict.REFUSE
            if len(lane.queue) >= self.max_queued:
                self.retry_after = max(1.0, wait)
                return Verdict.REFUSE
        self.load += place.load
        self._present += 1
        if free and not lane.queue:
            place.working = True
            lane.working += 1
            return Verdict.START
        lane.queue[place] = None
        return Verdict.WAIT

    def leave(self, place: P) -> Sequence[P]:
        """A request is done, or was given up; calling it again changes nothing.

        Returns:
            those that go to work now, in order of arrival.
        """
        if place.gone:
            return ()
        place.gone = True
        lane: Lane[P] = place.lane
        if place.working:
            lane.working -= 1
        else:
            del lane.queue[place]
        self._present -= 1
        # Sums of floats drift; with nobody here the truth is known.
        self.load = max(0.0, self.load - place.load) if self._present else 0.0
        if not lane.queue:
            if place.working and lane.working < (lane.limit or self.full_at):
                self._slack = True
            return ()
        started: list[P] = []
        while lane.queue and (lane.limit is None or lane.working < lane.limit):
            first, _ = lane.queue.popitem(last=False)
            first.working = True
            lane.working += 1
            started.append(first)
        return started

    def progress(self, place: P, served: float) -> float:
        """A part of a request's load is served.

        Args:
            place: one that is here.
            served: load units.

        Returns:
            what came off the load: never more than `place` had left.
        """
        served = min(served, place.load)
        place.load -= served
        self.load = max(0.0, self.load - served)
        return served

    def grow(self, place: P, load: float) -> None:
        """A request that is here turns out to need `load` units more."""
        place.load += load
        self.load += load

    def take_slack(self, lanes: Sequence[Lane[P]]) -> bool:
        """Whether there was a moment without saturation since the last call, or is one now."""
        slack, self._slack = self._slack, False
        used = [lane for lane in lanes if lane.working]
        free = any(lane.working < (lane.limit or self.full_at) for lane in used)
        return slack or free or not used


def retry_after_header(seconds: float) -> bytes:
    """Value of ``Retry-After``: whole seconds, from 1 to 3600."""
    return str(min(3600, max(1, math.ceil(seconds)))).encode()
