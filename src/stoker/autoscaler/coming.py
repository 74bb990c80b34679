"""Workers that are on their way to an endpoint: when the next of them is expected. Pure; O(log n).

A request that finds no free slot can be given to a busy worker, where it waits behind others, or be
held until a worker that boots or starts is there. A ticket cannot be recalled, so what was given to
the busy worker stays there while the new one idles. Rules:

* A request is held when a worker is expected within `HORIZON` seconds, and the best ready one would
  begin it more than `MARGIN` seconds later than that. So the busy worker always has work until
  then, and for `MARGIN` seconds more, in which the end of a request is reported.
* What was booked there and not used for `GRACE` seconds (`...shares`) does not count for that: no
  key's unused tickets keep another waiting for longer.
* A worker that is late is expected to be as late again: 1 s after its time, it is expected in 1 s.
* A request whose time runs out within `RESCUE` seconds of when the worker is expected is not held
  for it.

So an expectation that is wrong costs little, however it came to be. A request is held from
`HORIZON` seconds before a worker is due until `HORIZON` seconds after that. Meanwhile the busy
worker works off what it has: a request that is given to it after all begins there about when it
would have begun anyway (the tests say: at most `MARGIN` seconds later).

Why not for workers that come later than that: what would wait for longer is late all the same, and
when the worker is there, it takes the slots of those that come then and would begin at once. Of
bursts and flash crowds more was late and no less waited for long (docs/routing.md).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf

HORIZON = 3.0
"""Seconds before it is expected from which on requests are held for a worker."""

MARGIN = 1.0
"""Seconds that a request must gain by waiting. Workers report each second: with less, a slot of the
busy worker would stay free until its report comes."""

RESCUE = 2.0
"""Seconds before the end of its time in which a held request is given whatever worker there is: the
router looks at least once a second."""


class Coming:
    """The workers that an endpoint expects."""

    __slots__ = ("_workers", "times")

    def __init__(self) -> None:
        self._workers: dict[int, float] = {}
        """When each is expected, by its id."""
        self.times: list[float] = []
        """The same moments, the earliest first; to be read alone."""

    def expect(self, worker_id: int, at: float | None) -> bool:
        """Set when a worker is expected to be ready; None: not at all. Whether that is news."""
        known = self._workers.get(worker_id)
        if known == at:
            return False
        if known is not None:
            del self.times[bisect_left(self.times, known)], self._workers[worker_id]
        if at is not None:
            self._workers[worker_id] = at
            insort(self.times, at)
        return True

    def seconds(self, now: float) -> float:
        """Until the next one is expected to be ready; infinite when none is."""
        times = self.times
        place = bisect_left(times, now)
        ahead = times[place] - now if place < len(times) else inf
        late = now - times[place - 1] if place > 0 else inf
        return min(ahead, late)
