"""For how long it pays to keep a worker stopped.

Until it has cost as much as it would cost to be without it when load returns (ski rental: never
more than twice what would have been best). That is the boot of a new worker, and the requests that
are late because a boot takes longer than a start.

How many are late is learnt. The capacity that was wanted in each second is rehearsed twice, once
with workers that are started and once with workers that are created; the difference between their
late requests, divided by the workers that were ordered, is what a stopped worker saves. Where the
load moves slowly or headroom is held, that is nothing, and stopped workers go soon; where bursts
come out of nothing, they stay for hours. Until something was seen, all that a boot is slower than a
start is taken to be late.
"""

from __future__ import annotations

import math
from collections import deque

from stoker.autoscaler.planning.keeping import MAX_KEPT, KeptRetention
from stoker.autoscaler.planning.rehearsal import SETTLING, Surroundings
from stoker.autoscaler.planning.settings import PlannerSettings

PRIOR = 1.0
"""Workers: the first guess counts as much as what was seen of so many that were ordered."""


class Retention:
    """What it costs to be without a stopped worker; of one endpoint."""

    def __init__(self, settings: PlannerSettings) -> None:
        self._settings = settings
        self._started, self._created = _Fluid(), _Fluid()
        self._time = 0.0
        self._wanted = 1.0
        self._ordered = 0.0
        self._late = 0.0

    def step(
        self,
        load: float,
        requests: float,
        mean_load: float,
        wanted: float,
        around: Surroundings,
        *,
        seconds: float = 1.0,
    ) -> None:
        """The next second is over.

        Args:
            load: that arrived in it, load units.
            requests: that arrived in it.
            mean_load: of a request, load units; above 0.
            wanted: active workers that were asked for in it.
            around: what the workers are like.
            seconds: more than 1 only where nothing arrived.
        """
        settings = self._settings
        self._time += seconds
        fade = self._fade(seconds)
        # Whoever begins with one worker is late at first; that says nothing about later.
        settling = self._time < max(SETTLING, 2 * around.create_seconds)
        more = max(0.0, wanted - self._wanted)
        self._ordered = self._ordered * fade + (0.0 if settling else more)
        self._late *= fade
        self._wanted = wanted
        in_time = around.in_time(mean_load, settings.late_after)
        late = []
        for fluid, delay in (
            (self._started, around.start_seconds),
            (self._created, around.create_seconds),
        ):
            ready = fluid.ready(wanted, self._time, delay)
            count = fluid.flow(load, requests, mean_load, ready * around.perf * seconds)
            late.append(requests > 0 and count > ready * in_time)
        if late[1] and not late[0] and not settling:
            self._late += requests * settings.late_price * mean_load / around.perf

    def late_per_worker(self, create: float, start: float) -> float:
        """What is late for want of one stopped worker, priced, in seconds of a worker.

        Args:
            create: seconds that it takes to create a worker.
            start: seconds that it takes to start one that is stopped.
        """
        guess = self._settings.late_price * max(0.0, create - start)
        return (PRIOR * guess + self._late) / (PRIOR + self._ordered)

    def kept(self, now: float) -> KeptRetention:
        """What is to outlive the process.

        Args:
            now: on any clock that goes on.
        """
        return KeptRetention(at=now, ordered=self._ordered, late=self._late)

    def resume(self, kept: KeptRetention, now: float) -> bool:
        """Take up what was kept.

        Returns:
            Whether these are figures that could have been learnt; else nothing has changed.
        """
        if not all(0 <= figure < MAX_KEPT for figure in (kept.ordered, kept.late)):
            return False
        fade = self._fade(max(0.0, now - kept.at))
        self._ordered, self._late = kept.ordered * fade, kept.late * fade
        return True

    def _fade(self, seconds: float) -> float:
        memory = self._settings.retention_memory
        return math.exp(-seconds / memory) if memory > 0 else 0.0


def keeping_pays_for(settings: PlannerSettings, create: float, late: float) -> float:
    """Seconds for which it pays to keep a stopped worker that nothing asks for.

    E.g. where a boot takes 30 s and 500 s of a worker's time are what is late, one that costs a
    twentieth is kept for 10,600 s; where nothing is late, for 600 s.

    Args:
        settings: prices and limits.
        create: seconds that it takes to create a worker.
        late: what is late without it, in seconds of a worker.
    """
    pays = (create + late) / settings.stopped_price if settings.stopped_price > 0 else math.inf
    return min(settings.cold_retention_limit, max(settings.cold_retention, pays))


class _Fluid:
    """Load that flows in, and out as fast as workers can that take so long to come."""

    __slots__ = ("_count", "_least", "_load")

    def __init__(self) -> None:
        self._load = self._count = 0.0
        self._least: deque[tuple[float, float]] = deque()
        """(when, wanted), each higher than those before it."""

    def ready(self, wanted: float, now: float, delay: float) -> float:
        """Workers that were wanted for as long as one takes to come.

        Args:
            wanted: in the second that ended `now`.
            now: seconds.
            delay: seconds that one takes.
        """
        least = self._least
        while least and least[-1][1] >= wanted:
            least.pop()
        least.append((now, wanted))
        # What was wanted before the window counts until something lower is in it.
        while len(least) > 1 and least[0][0] <= now - delay:
            least.popleft()
        return least[0][1]

    def flow(self, load: float, requests: float, mean_load: float, can: float) -> float:
        """Requests that are left of what was there and came, when `can` load units are done."""
        self._load += load
        self._count += requests
        done = min(self._load, can)
        self._load -= done
        self._count = max(0.0, self._count - done / mean_load)
        if self._load <= 1e-3:
            self._load = self._count = 0.0
        return self._count
