"""For how long it pays to keep a worker stopped.

To be without it when load returns costs the boot of a new worker, and the requests that are late
because a boot takes longer than a start. Two things are learnt for that.

*How many are late.* The capacity that was wanted in each second is rehearsed twice, once with
workers that are started and once with workers that are created; the difference between their late
requests, divided by the workers that were ordered, is what a stopped worker saves. Where the load
moves slowly or headroom is held, that is nothing; where bursts come out of nothing, it is much.
Until something was seen, all that a boot is slower than a start is taken to be late.

*After how long load returns.* The second worker is wanted again soon and often, the tenth seldom or
never. So for each rank, it is counted how long its worker was not wanted until it was wanted again.
The time to keep it is the one that would have cost least, had all these gaps come once more (ski
rental with a learnt distribution of gaps). What the other ranks saw counts a little; and so does a
guess of gaps of any length, the longer the rarer, which decides alone where nothing was seen.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from stoker.autoscaler.planning.keeping import (
    MAX_KEPT,
    KeptRetention,
    Values,
    halved,
    packed,
    unhalved,
    unpacked,
)
from stoker.autoscaler.planning.rehearsal import Surroundings
from stoker.autoscaler.planning.settings import PlannerSettings

PRIOR = 1.0
"""Workers: the first guess counts as much as what was seen of so many that were ordered; for each
rank, so does what the ranks below it saw."""


SHORTEST = 10.0
"""Seconds: gaps that are no longer are not told apart."""

WIDTH = 1.6
"""By how much one edge between gaps that are told apart is longer than the one before it."""

EDGES = SHORTEST * WIDTH ** np.arange(25)
"""Seconds up to which the gaps of a place are counted; the last is above a week."""

TAIL = 1.0
"""Of the guess: a gap is longer than x seconds with a probability of (`SHORTEST` / x) to this.

At 1, the guess alone keeps a worker until it has cost as much as it costs to be without it. At 0.4,
the Azure trace costs half a percent less, and twice as many are late in bursts after two hours of
silence."""

GUESSED = 1.0
"""Gaps: the guess counts as much as so many that were seen."""

OTHERS = 2.0
"""Gaps: what all ranks saw counts for each as much as so many of its own, at most."""

MAX_RANKS = 256
"""Further workers are taken for one of which nothing was seen."""

AGAIN = 60.0
"""Seconds after which the times are looked at again where nothing happened."""


def _guess() -> Values:
    longer = (SHORTEST / EDGES) ** TAIL
    return (GUESSED * np.append(0.0, longer[:-1] - longer[1:])).astype(np.float32)


_GUESS = _guess()
_NEVER = GUESSED * float((SHORTEST / EDGES[-1]) ** TAIL)
_MIDDLES = (EDGES + np.append(0.0, EDGES[:-1])) / 2


class Retention:
    """How long it pays to keep each stopped worker; of one endpoint."""

    def __init__(self, settings: PlannerSettings) -> None:
        self._settings = settings
        self._started, self._created = _Fluid(), _Fluid()
        self._time = 0.0
        self._wanted = 1
        # By rank, the first worker first.
        self._ordered = np.zeros(0, np.float32)
        self._late = np.zeros(0, np.float32)
        self._gaps = np.zeros((0, len(EDGES)), np.float32)
        """By length too: how often."""
        self._faded_at = 0.0
        self._missing = (0, 0)
        """The ranks, from and to, that only a stopped worker would have had in time."""
        self._left: dict[int, float] = {}
        """By rank: since when it is not wanted."""
        self._found: tuple[float, ...] = ()
        self._found_for = (0.0, 0.0)
        self._found_at = -math.inf

    def step(
        self,
        load: float,
        requests: float,
        mean_load: float,
        wanted: int,
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
        self._time += seconds
        settling = self._time < around.settling_seconds
        if wanted != self._wanted:
            self._change(wanted, settling=settling)
        in_time = around.in_time(mean_load, self._settings.late_after)
        late, ready = [], []
        for fluid, delay in (
            (self._started, around.start_seconds),
            (self._created, around.create_seconds),
        ):
            there = fluid.ready(wanted, self._time, delay)
            count = fluid.flow(load, requests, mean_load, there * around.perf * seconds)
            ready.append(there)
            late.append(requests > 0 and count > there * in_time)
        if ready[1] < ready[0]:
            self._missing = ready[1], min(ready[0], MAX_RANKS)
        if late[1] and not late[0] and not settling:
            self._miss(requests * self._settings.late_price * mean_load / around.perf)

    def _change(self, wanted: int, *, settling: bool) -> None:
        """Note who is ordered, who is not wanted any more, and who is wanted again."""
        before, self._wanted = self._wanted, wanted
        self._found_at = -math.inf
        for rank in range(wanted + 1, min(before, MAX_RANKS) + 1):
            self._left[rank] = self._time
        most = min(wanted, MAX_RANKS)
        if most <= before:
            return
        self._fade(most)
        if not settling:
            self._ordered[before:most] += 1
        for rank in range(before + 1, most + 1):
            left = self._left.pop(rank, None)
            if left is not None:
                place = int(np.searchsorted(EDGES, self._time - left))
                if place < len(EDGES):
                    self._gaps[rank - 1, place] += 1

    def _miss(self, value: float) -> None:
        """Note what was late for want of stopped workers."""
        first, last = self._missing
        if first < last:
            self._fade(last)
            self._late[first:last] += value / (last - first)
            self._found_at = -math.inf

    def _fade(self, ranks: int = 0) -> None:
        """Let what was seen fade until now, and make room for so many ranks."""
        fade = np.float32(self._fading(self._time - self._faded_at))
        self._faded_at = self._time
        more = max(0, ranks - len(self._ordered))
        self._ordered = np.append(self._ordered * fade, np.zeros(more, np.float32))
        self._late = np.append(self._late * fade, np.zeros(more, np.float32))
        self._gaps = np.concatenate((self._gaps * fade, np.zeros((more, len(EDGES)), np.float32)))

    def seconds(self, create: float, start: float) -> tuple[float, ...]:
        """For how long to keep a worker that is stopped, by its rank.

        E.g. where a boot takes 30 s and nothing was seen, 500 s of a worker's time are taken to be
        late, and one that costs a twentieth is kept for some 11,000 s.

        Args:
            create: seconds that it takes to create a worker.
            start: seconds that it takes to start one that is stopped.

        Returns:
            Of the first worker of the endpoint, of the second, and so on; the last is that of all
            further ones.
        """
        fresh = 0 <= self._time - self._found_at < AGAIN
        if not fresh or self._found_for != (create, start):
            self._fade()
            self._found = self._times(create + self._late_per_worker(create - start))
            self._found_for, self._found_at = (create, start), self._time
        return self._found

    def _late_per_worker(self, longer: float) -> Values:
        """What is late for want of one stopped worker, priced, in seconds of a worker; by rank.

        A rank is ordered from where the load is. So what the ranks below it saw says something
        about it, and not what those above it saw: where load goes up and down between seven workers
        and nine, nothing is late; where it comes back after it had gone to one, much may be.

        Args:
            longer: seconds by which a boot takes longer than a start.
        """
        guess = self._settings.late_price * max(0.0, longer)
        ordered, late = (np.append(0.0, figures) for figures in (self._ordered, self._late))
        below = (PRIOR * guess + np.cumsum(late)) / (PRIOR + np.cumsum(ordered))
        own = (PRIOR * below[:-1] + late[1:]) / (PRIOR + ordered[1:])
        return np.append(own, below[-1]).astype(np.float32)

    def _times(self, missed: Values) -> tuple[float, ...]:
        """What would have cost least; `missed` is what it costs to be without one, by rank."""
        settings = self._settings
        others = self._gaps.sum(axis=0)
        others = OTHERS / (GUESSED + others.sum()) * others + _GUESS
        seen = np.concatenate((self._gaps + others, others[np.newaxis]))
        # Kept up to an edge: gaps that are shorter cost their length, the others cost the edge, and
        # those that end at all the boot as well.
        later = seen.sum(axis=1, keepdims=True) - np.cumsum(seen, axis=1)
        stopped = np.cumsum(seen * _MIDDLES, axis=1) + EDGES * (later + _NEVER)
        cost = settings.stopped_price * stopped + missed[:, np.newaxis] * later
        least, most = settings.cold_retention, settings.cold_retention_limit
        cost[:, least >= EDGES * WIDTH] = math.inf
        return tuple(min(most, max(least, float(EDGES[place]))) for place in cost.argmin(axis=1))

    def kept(self, now: float) -> KeptRetention:
        """What is to outlive the process.

        Args:
            now: on any clock that goes on.
        """
        self._fade()
        return KeptRetention(
            at=now,
            ordered=packed(self._ordered),
            late=packed(self._late),
            gaps=halved(self._gaps.ravel()),
        )

    def resume(self, kept: KeptRetention, now: float) -> bool:
        """Take up what was kept.

        Returns:
            Whether these are figures that could have been learnt; else nothing has changed.
        """
        ranks = len(kept.ordered) // 4
        if ranks > MAX_RANKS:
            return False
        try:
            ordered, late = (unpacked(one, ranks) for one in (kept.ordered, kept.late))
            gaps = unhalved(kept.gaps, ranks * len(EDGES)).reshape(ranks, len(EDGES))
        except ValueError:
            return False
        if not all(0 <= float(one.sum()) < MAX_KEPT for one in (ordered, late, gaps)):
            return False
        fade = np.float32(self._fading(max(0.0, now - kept.at)))
        self._ordered, self._late, self._gaps = ordered * fade, late * fade, gaps * fade
        self._faded_at, self._found_at = self._time, -math.inf
        return True

    def _fading(self, seconds: float) -> float:
        memory = self._settings.retention_memory
        return math.exp(-seconds / memory) if memory > 0 else 0.0


class _Fluid:
    """Load that flows in, and out as fast as workers can that take so long to come."""

    __slots__ = ("_count", "_least", "_load")

    def __init__(self) -> None:
        self._load = self._count = 0.0
        self._least: deque[tuple[float, int]] = deque()
        """(when, wanted), each higher than those before it."""

    def ready(self, wanted: int, now: float, delay: float) -> int:
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
