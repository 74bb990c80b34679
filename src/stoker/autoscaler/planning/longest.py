"""The load of long requests, counted while it is worked off and not all when it comes.

One request is served by one worker, however many there are. A request of 60,000 load units that a
worker serves at 100/s asks for 100/s for ten minutes; counted in the second in which it came, it
would ask for 6,000/s for ten seconds, and workers that it cannot use would be created for it.

So what exceeds the usual size of a request is counted at the speed at which one request is served.
That is learnt by Little's law: the load that arrives in a second, divided by the requests that are
being served.

What waits for a slot shows in the number of requests that are there, at once. How large those are
that wait is told without what the long ones have left, because these have a slot. The rehearsal is
given each request whole.
"""

from __future__ import annotations

AT_ONCE = 20.0
"""Times the mean load of a request: so much of what a second exceeds its usual load by is counted
at once. Requests of a log-normal spread are hardly ever above it, those of a heavy tail often."""

FADE = 0.998
"""What is left of what was seen of speed after one second: a third after eight minutes."""

ENOUGH = 60.0
"""Seconds of service of one request that must have been seen before a speed is believed."""

LONGEST = 3600.0
"""Seconds for which the load of one second is counted at most."""


def beyond(load: float, requests: float, mean_load: float) -> float:
    """What so many requests have beyond what counts at once, load units."""
    return max(0.0, load - (requests + AT_ONCE) * mean_load)


class LongRequests:
    """What is to be counted in each second."""

    __slots__ = ("_arrived", "_present", "_rests")

    def __init__(self) -> None:
        self._arrived = self._present = 0.0
        self._rests: dict[int, float] = {}
        """By second: what is still to be counted of what came in it, load units."""

    @property
    def left(self) -> float:
        """Load units that are still to be counted."""
        return sum(self._rests.values())

    def speed(self, perf: float, slots: float) -> float:
        """Load units per second at which one request is served, as far as was seen.

        Args:
            perf: of one worker, load units per second: the upper limit.
            slots: requests that one works on at once; with all of them busy, each gets the least.
        """
        if self._present < ENOUGH:
            return perf
        return min(perf, max(perf / slots, self._arrived / self._present))

    def step(
        self,
        second: int,
        load: float,
        requests: float,
        *,
        mean_load: float,
        present: float,
        perf: float,
        slots: float,
        seconds: float = 1.0,
    ) -> float:
        """The next second is over; what to count for it, load units per second.

        Args:
            second: which it is, on the planner's clock.
            load: that arrived in it, load units.
            requests: that arrived in it.
            mean_load: of a request, load units.
            present: requests that are being served.
            perf: of one worker, load units per second.
            slots: requests that one worker works on at once.
            seconds: more than 1 only where nothing arrived.
        """
        fade = FADE**seconds
        self._arrived = self._arrived * fade + load
        self._present = self._present * fade + present * seconds
        more = beyond(load, requests, mean_load)
        counted = load - more
        if more > 0:
            self._add(second, more)
        if not self._rests:
            return counted
        part = self.speed(perf, slots) * seconds
        counted += sum(min(part, rest) for rest in self._rests.values()) / seconds
        oldest = second - LONGEST
        self._rests = {
            came: rest - part for came, rest in self._rests.items() if rest > part and came > oldest
        }
        return counted

    def revise(self, second: int, change: float, requests: float, mean_load: float) -> float:
        """What had arrived in `second`, in `requests` requests, turned out to be more, or less.

        Returns:
            What is to be changed of what was counted for that second.
        """
        if change > 0:
            more = beyond(change, requests, mean_load)
            if more > 0:
                self._add(second, more)
            return change - more
        # Seconds of others begin at other moments.
        for near in (second - 1, second, second + 1):
            if near in self._rests:
                taken = min(self._rests[near], -change)
                self._rests[near] -= taken
                change += taken
        return change

    def _add(self, second: int, load: float) -> None:
        self._rests[second] = self._rests.get(second, 0.0) + load
