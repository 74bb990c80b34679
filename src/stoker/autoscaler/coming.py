"""Workers that are on their way to an endpoint: when the next of them is expected. Pure; O(log n).

A request that finds no free slot can be given to a busy worker, where it waits behind others, or be
held until a worker that boots or starts is there. A ticket cannot be recalled, so what was given to
the busy worker stays there while the new one idles. Rules:

* A request is held when the best ready worker would begin it more than `MARGIN` seconds later than
  the next worker is expected. So a busy worker always has work until then, and for `MARGIN` seconds
  more, in which the end of a request is reported.
* What was booked there and not used for `GRACE` seconds (`...shares`) does not count for that: no
  key's unused tickets keep another waiting for longer.
* One that is late is expected to be as late again: 3 s after its time, it is expected in 3 s. So
  one that never comes soon counts for nothing.
* A request whose time runs out within `RESCUE` seconds of when the worker is expected is not held
  for it.

What that costs if the expectation is wrong: while requests are held, the busy worker works off what
it has, so a request that is given to it after all begins about when it would have begun anyway. It
is held for no longer than the ready worker would have taken to begin it; if that worker does not
get on with its work meanwhile, for twice as long at most. An expectation that is too early, a
worker that is said to come at once, changes only how soon that is found out.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf

MARGIN = 1.0
"""Seconds that a request must gain by waiting. Workers report each second: with less, a slot of the
busy worker would stay free until its report comes."""

RESCUE = 2.0
"""Seconds before the end of its time in which a held request is given whatever worker there is: the
router looks at least once a second."""


class Coming:
    """The workers that an endpoint expects."""

    __slots__ = ("_times", "_workers")

    def __init__(self) -> None:
        self._workers: dict[int, float] = {}
        """When each is expected, by its id."""
        self._times: list[float] = []
        """The same moments, the earliest first."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self._times)

    def expect(self, worker_id: int, at: float | None) -> bool:
        """Set when a worker is expected to be ready; None: not at all. Whether that is news."""
        known = self._workers.get(worker_id)
        if known == at:
            return False
        if known is not None:
            del self._times[bisect_left(self._times, known)], self._workers[worker_id]
        if at is not None:
            self._workers[worker_id] = at
            insort(self._times, at)
        return True

    def seconds(self, now: float) -> float:
        """Until the next one is expected to be ready; infinite when none is."""
        times = self._times
        place = bisect_left(times, now)
        ahead = times[place] - now if place < len(times) else inf
        late = now - times[place - 1] if place > 0 else inf
        return min(ahead, late)
