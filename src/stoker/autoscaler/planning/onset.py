"""When a burst begins, and what load it is likely to bring.

A mean over the last 10 s needs 10 s to tell the load of a burst; workers that are ordered then come
when the burst is half over. But bursts of one endpoint resemble each other. So the onset of a burst
is recognised within a second or two, and its load is expected to be that of the last bursts; the
longer it lasts, the more what came of it counts. After the first burst that is known already.

* An *onset* is found by a cumulative sum (Page, "Continuous inspection schemes", Biometrika 41,
  1954): requests above twice the usual rate are added up, and above `ALARM` of them it is a burst,
  which began when the sum was last 0. For Poisson arrivals of any rate, that is a false alarm after
  one request in 2,000 to 4,000 or so; such a "burst" is as high as the usual load, so what is
  learnt of it does no harm.
* A burst is *over* when the rate of the last seconds is near the usual one again, or when it has
  lasted so long that its rate has become the usual one.
* What it *brings* is its mean rate, not that of its highest second. Less capacity than that is
  enough for a short one: its first requests fill the slots of the workers and wait for nothing. By
  which share less is remembered too. E.g. 19 requests/s for 20 s; workers with 16 slots that do
  1.33 requests/s each and come in 5 s. 15 workers do as much as comes, but 10 are enough for who
  comes last to wait for no longer than 2 s: (16 + 1.33 x (20 - 5 + 2)) x 9.8 = 380.

Requests are counted, not their load: of one endpoint, sizes differ by far more than rates do.
Constant memory, no clock.
"""

from __future__ import annotations

import math
from collections import deque

ALARM = 6.0
"""Requests above `STEEP` times what is usual that are a burst."""

STEEP = 2.0

LEAST_RATE = 0.1
"""Requests per second that are no burst whatever is usual."""

USUAL = 60.0
"""Seconds of the mean that is the usual rate."""

SOON = 30.0
"""Seconds in which the sum has to reach `ALARM`: what rises more slowly, means follow."""

LAST = 5
"""Seconds by which the end of a burst is told."""

LOW = 0.25
"""Of the way from the usual rate to that of a burst: when the last seconds are below, it ended."""

LONGEST = 300.0
"""Seconds after which the rate of a burst is the usual one."""

BELIEF = 12.0
"""Seconds of a burst that count as much as what is known of those before it."""

NEW = 0.25
"""Weight of the latest burst in what is known of all, once there were as many as that allows."""

SHORT = 10.0
"""Seconds at most over which the rate of a burst in progress is taken, and two at least."""

MOST = 1e9
"""Requests in a second; nobody sends more."""


class Onsets:
    """The bursts of one endpoint.

    Attributes:
        bursts: how many are over.
        typical: their mean rate, requests per second.
        enough: the share of that for which capacity is enough, 0 to 1.
    """

    __slots__ = (
        "_age",
        "_came",
        "_known",
        "_last",
        "_least",
        "_on",
        "_sum",
        "_usual",
        "bursts",
        "enough",
        "typical",
    )

    def __init__(self) -> None:
        self.bursts = 0
        self.typical = 0.0
        self.enough = 1.0
        self._usual = self._known = 0.0
        """The usual rate, and the seconds of which it is the mean."""
        self._sum = 0.0
        self._on = False
        self._last: deque[float] = deque(maxlen=int(SHORT))
        self._age = self._came = self._least = 0.0
        """Of what may be a burst, or is one: seconds, requests, and the requests per second that
        are enough so far."""

    @property
    def on(self) -> bool:
        """A burst is in progress."""
        return self._on

    def step(
        self, requests: float, slots_seconds: float, lead: float, *, seconds: float = 1.0
    ) -> None:
        """The next second is over.

        Args:
            requests: that arrived in it.
            slots_seconds: seconds in which a worker does what fills its slots.
            lead: seconds from an order until workers that come are in time for what arrives: as
                many as one takes to come, less those that a request may wait.
            seconds: more than 1 only where nothing arrived.
        """
        came = min(requests, MOST) if requests > 0 else 0.0
        if seconds > 1:
            self._end()
            self._last.clear()
            self._add_usual(0.0, seconds)
            return
        self._last.append(came)
        if not self._on:
            self._sum = max(0.0, self._sum + came - STEEP * self._usual - LEAST_RATE)
            if self._sum <= 0:
                self._begin()
            else:
                self._count(came, slots_seconds, lead)
                self._on = self._sum > ALARM and self._age <= SOON
            if not self._on:
                self._add_usual(came, 1.0)
            return
        self._count(came, slots_seconds, lead)
        rate = self._came / self._age
        if self._age >= LAST and self._recent(LAST) < self._usual + LOW * (rate - self._usual):
            self._end()
        elif self._age > LONGEST:
            self._usual = rate
            self._end()

    def rate(self) -> float:
        """Requests per second to have capacity for, of the burst that is in progress; else 0."""
        if not self._on:
            return 0.0
        now = self._recent(int(min(SHORT, max(2.0, self._age))))
        before = BELIEF if self.bursts else 0.0
        rate = (before * self.typical + self._age * now) / (before + self._age)
        # One that lasts longer than they usually do needs more of its rate.
        so_far = self._least * self._age / self._came if self._came > 0 else 1.0
        return rate * min(1.0, max(self.enough, so_far))

    def _recent(self, seconds: int) -> float:
        """Requests per second of the last `seconds`, as far as they are known."""
        last = list(self._last)[-seconds:]
        return sum(last) / len(last) if last else 0.0

    def _count(self, came: float, slots_seconds: float, lead: float) -> None:
        self._age += 1
        self._came += came
        self._least = max(self._least, self._came / (slots_seconds + max(0.0, self._age - lead)))

    def _begin(self) -> None:
        self._age = self._came = self._least = 0.0

    def _add_usual(self, rate: float, seconds: float) -> None:
        self._known = min(self._known + seconds, USUAL)
        weight = max(1 - math.exp(-seconds / USUAL), min(1.0, seconds / self._known))
        self._usual += weight * (rate - self._usual)

    def _end(self) -> None:
        """What was counted is over: remember it if it was a burst."""
        if self._on and self._came > 0:
            rate = self._came / self._age
            if self._age >= LAST:
                # Its last seconds were quiet already, and say nothing about it.
                quiet = LAST - 1
                rate = max(rate, (self._came - quiet * self._recent(quiet)) / (self._age - quiet))
            weight = max(NEW, 1 / (self.bursts + 1))
            self.typical += weight * (rate - self.typical)
            self.enough += weight * (min(1.0, self._least / rate) - self.enough)
            self.bursts += 1
        self._on = False
        self._sum = 0.0
        self._begin()
